"""The model folders that come with the project."""

import json
from pathlib import Path

import numpy as np
import pytest

import d2ls

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "models").glob("*/config.json"))


def test_there_are_some() -> None:
    assert "dubai" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_load_and_segment_small_and_say_what_they_scored(folder: Path) -> None:
    model = d2ls.load_model(folder)
    mask = d2ls.predict(model, np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8))
    assert mask.shape == (70, 90)
    assert mask.max() < len(model.classes)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert 0.5 < json.loads(text)["scores"]["mIoU"] < 1
