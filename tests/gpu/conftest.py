"""Tests of a CUDA card, for `pytest -m gpu`; with D2LS_GPU_SMOKE=1 they run on the CPU, with tiny sizes.

Without a card and without that variable they are deselected.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.inference.conftest import checkpoint

__all__ = ["checkpoint"]

SMOKE = os.environ.get("D2LS_GPU_SMOKE") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SMOKE or torch.cuda.is_available():
        return
    here = {item for item in items if Path(__file__).parent in item.path.parents}
    if here:
        config.hook.pytest_deselected(items=list(here))
        items[:] = [item for item in items if item not in here]


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if SMOKE else "cuda")


@pytest.fixture(scope="session")
def backend() -> str:
    """Of torch.compile: on the CPU the one that generates no code: that would take minutes."""
    return "eager" if SMOKE else "inductor"


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Products and convolutions in float32 unless a test says otherwise; cuDNN takes TF32 by itself."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)
