from pathlib import Path

import numpy as np
import pytest

from d2ls.data import io as files
from d2ls.data.labels import index_to_colours
from d2ls.data.sets import uavid
from d2ls.errors import DataError
from tests.data.folders import labels, picture, write_pair


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    return tmp_path / "uavid"


def test_protocols(root: Path) -> None:
    for number, split in enumerate(("train", "val", "train_val"), start=1):
        for k in range(number):
            write_pair(root / split / "images", root / split / "masks", f"seq1_{k}_0_0", size=(32, 40))
    assert (len(uavid.train()), len(uavid.val())) == (1, 2)
    assert (len(uavid.train("published")), len(uavid.val("published"))) == (3, 2)
    assert uavid.train()[0]["image"].shape == (3, 32, 40)


def test_frames_with_and_without_labels(root: Path) -> None:
    for sequence in ("seq21", "seq22"):
        (root / "uavid_test" / sequence / "Images").mkdir(parents=True)
        files.write_png(root / "uavid_test" / sequence / "Images" / "000000.png", picture(16, 24, 0))
    index = labels(16, 24, 0, classes=8)
    (root / "uavid_test" / "seq22" / "Labels").mkdir()
    files.write_png(root / "uavid_test" / "seq22" / "Labels" / "000000.png", index_to_colours(index, uavid.SPEC))
    bare, labelled = uavid.test()
    assert (bare["name"], labelled["name"]) == ("seq21/000000", "seq22/000000")
    assert "mask" not in bare
    assert np.array_equal(labelled["mask"], index)
    assert len(uavid.test(root / "uavid_test")) == 2


def test_missing_folders_name_the_tools(root: Path) -> None:
    with pytest.raises(DataError, match=r"train/images: no such folder.*tools/uavid_patch_split.py"):
        len(uavid.train())
    with pytest.raises(DataError, match=r"uavid_test: no folders seqN/Images.*tools/prepare_data.py uavid"):
        len(uavid.test())
