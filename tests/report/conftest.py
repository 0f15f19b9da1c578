"""A test run on drawn data, with its page."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import test_dubai
from d2ls.cli.common import run_main
from d2ls.data.sets import dubai
from d2ls.data.spec import DatasetSpec
from tests.inference.conftest import checkpoint, config, data, drawn

__all__ = ["checkpoint", "config", "data", "drawn"]
ODD_NAME = "ü <b>\"&amp;' %s"


@dataclass(frozen=True)
class Run:
    """A run's folder, the names of its images, and its files as they were read."""

    folder: Path
    names: list[str]
    metrics: dict[str, Any]
    page: str


@pytest.fixture(scope="session")
def run(drawn: Path, checkpoint: Callable[[DatasetSpec], Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nineteen drawn images of dubai, one with an odd name, segmented by an untrained network, with a page."""
    root, folder = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("run") / "a <i>&lt; folder"
    names = [ODD_NAME, *(f"image{i:02}" for i in range(18))]
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        files = sorted((drawn / "dubai" / kind / "val").iterdir())
        (root / "dubai" / kind / "val").mkdir(parents=True)
        for place, name in enumerate(names):
            assert files[0].suffix == suffix
            shutil.copy(files[place % len(files)], root / "dubai" / kind / "val" / f"{name}{suffix}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2LS_DATA", str(root))
        assert run_main(test_dubai.main, ["-w", str(checkpoint(dubai.SPEC)), "-o", str(folder), "--report"]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    return Run(folder, names, metrics, (folder / "report.html").read_text(encoding="utf-8"))
