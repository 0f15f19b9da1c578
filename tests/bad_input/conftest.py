"""Small drawn data and an untrained network for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drawn import folders
from tests.inference.conftest import checkpoint

__all__ = ["checkpoint"]


@pytest.fixture(scope="session")
def drawn_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with index masks (cloud), colour masks (dubai) and frames (uavid)."""
    root = tmp_path_factory.mktemp("pictures")
    folders.write_cloud(root, size=64, train=1, val=1, test=2)
    folders.write_dubai(root, size=(50, 61), train=1, val=2)
    folders.write_uavid_originals(root, size=(90, 160), frames=1)
    return root


@pytest.fixture
def pictures(drawn_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the data root, in the folder `data` of the working folder."""
    shutil.copytree(drawn_pictures, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LS_DATA", "data")
    return Path("data")


@pytest.fixture
def weights(checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """Gives a checkpoint for the classes of a data set."""
    return checkpoint
