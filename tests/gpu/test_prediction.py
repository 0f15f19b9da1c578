"""A test run with many views on the device gives the masks of the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from d2ls.cli.common import run_main
from d2ls.cli.predict import main as predict
from d2ls.cli.test import script
from d2ls.data.io import read_index
from d2ls.data.sets import vaihingen
from d2ls.data.spec import DatasetSpec

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("run_folder")]


def masks(folder: Path) -> np.ndarray:
    found = [read_index(path).ravel() for path in sorted(folder.glob("*.png"))]
    assert found
    return np.concatenate(found)


def test_d4(device: torch.device, checkpoint: Callable[[DatasetSpec], Path], tmp_path: Path) -> None:
    weights = str(checkpoint(vaihingen.SPEC))
    for name in ("cpu", device.type):
        words = ["-w", weights, "-o", str(tmp_path / name), "-t", "d4", "-b", "2", "--device", name]
        assert run_main(script("vaihingen"), words) == 0
    same = masks(tmp_path / device.type) == masks(tmp_path / "cpu")
    assert same.mean() >= 0.999


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_windows_of_a_raster(
    precision: str, device: torch.device, tiny_data: Path, checkpoint: Callable[[DatasetSpec], Path], tmp_path: Path
) -> None:
    raster = next((tiny_data / "vaihingen" / "test" / "images_1024").iterdir())
    words = ["-w", str(checkpoint(vaihingen.SPEC)), "-i", str(raster), "--window", "48", "-t", "lr"]
    for name, kind in (("cpu", "32-true"), (device.type, precision)):
        out = tmp_path / f"{name}-{kind}"
        assert run_main(predict, [*words, "-o", str(out), "--device", name, "--precision", kind]) == 0
    exact, rounded = masks(tmp_path / "cpu-32-true"), masks(tmp_path / f"{device.type}-{precision}")
    assert (exact == rounded).mean() > 0.95
