from pathlib import Path

import pytest
import torch

from d2ls.data import io as files
from d2ls.data.dataset import SampleRequest
from d2ls.data.labels import index_to_colours
from d2ls.data.loaders import training_loader
from d2ls.data.mosaic import is_mixed
from d2ls.data.sets import dubai
from tests.data.folders import labels, picture


def test_real_photographs(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(shared_data))
    assert (len(dubai.train()), len(dubai.val()), len(dubai.test())) == (48, 8, 8)
    sample = dubai.val()[0]
    assert sample["image"].shape[1:] == sample["mask"].shape
    batch = next(iter(training_loader(dubai.train(crop=128), 4, num_workers=0)))
    assert batch["image"].shape == (4, 3, 128, 128)
    assert set(batch["mask"].unique().tolist()) <= {*range(6), 255}


def test_smart_crops_of_real_photographs(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(shared_data))
    smart, plain = dubai.train(crop=192), dubai.train(crop=192, smart_crop=None)
    share = [
        sum(is_mixed(dataset[SampleRequest(n, n)]["mask"].numpy().astype("uint8"), 255, 0.75) for n in range(24)) / 24
        for dataset in (smart, plain)
    ]
    assert share[0] >= 0.9
    assert share[0] > share[1]


def test_a_test_folder_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    for split, count in (("val", 1), ("test", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "dubai" / kind / split).mkdir(parents=True)
        for number in range(count):
            files.write_png(tmp_path / "dubai" / "images" / split / f"{number}.png", picture(20, 30, 0))
            colours = index_to_colours(labels(20, 30, 0, classes=6), dubai.SPEC)
            colours[0, 0] = 0
            files.write_png(tmp_path / "dubai" / "masks" / split / f"{number}.png", colours)
        assert len(dubai.test()) == count
    mask = dubai.test()[1]["mask"]
    assert mask[0, 0] == 255
    assert torch.equal(mask[1:], torch.from_numpy(labels(20, 30, 0, classes=6))[1:].long())
