"""Fixtures shared by all tests."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.drawn import folders
from tests.tiny import write_config

settings.register_profile("no deadline", deadline=None)  # times say nothing on a machine that is shared
settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    """One thread, here and in the scripts that tests start: tiny networks only wait for a second one.

    All but the tests of a card run on the CPU: `--device auto` would take the card.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample images; tests that need it are skipped where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("D2LS_SHARED", root.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real sample images at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ten drawn scenes in Vaihingen's layout."""
    root = tmp_path_factory.mktemp("tiny")
    folders.write_vaihingen(root, size=64, train=6, validation=2, test=2)
    return root


@pytest.fixture
def run_folder(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the config tiny.py and data for it; what a training run switches on is switched off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LS_DATA", str(tiny_data))
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    write_config(tmp_path)
    with torch.random.fork_rng():
        yield tmp_path
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection to anywhere, and no downloads of earlier days."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "no_downloads"))
