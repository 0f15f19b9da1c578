"""tools/check_data.py -c: the data of any config."""

import json

import numpy as np
import pytest

from tests.preparation import oracle

CONFIG = """
import functools
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.data.pairs import match
from d2ls.data.root import data_root
from d2ls.data.spec import DatasetSpec
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead

max_epoch = 1
spec = DatasetSpec(name="own", classes=("soil", "tree", "track"), colours=((1, 0, 0), (2, 0, 0), (3, 0, 0)),
                   ignore_index=255)
classes, num_classes, ignore_index = spec.classes, spec.num_classes, spec.ignore_index
weights_path, log_name = "w", "l"

def pairs(split, masks=True):
    folder = data_root() / split
    return match(folder / "images", folder / "masks" if masks else None, "Draw them.")

train_dataset = SegmentationDataset(spec, functools.partial(pairs, "train"))
val_dataset = SegmentationDataset(spec, functools.partial(pairs, "val"))
test_dataset = SegmentationDataset(spec, functools.partial(pairs, "test", masks=False))
net = DynamicDictionaryLearning("test_convnext", num_classes, stages=1, width=32)
loss = D2LSLoss(ignore_index)
train_loader, val_loader = training_loader(train_dataset, 2), evaluation_loader(val_dataset, 2)
optimizer = adamw_lookahead(net, 1e-3)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A config and its drawn data: six training, two validation and two test images of 20 x 30 pixels."""
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 2), ("test", 2)):
        for at in range(number):
            image = rng.integers(256, size=(20, 30, 3), dtype=np.uint8)
            oracle.save(tmp_path / split / "images" / f"{at}.png", image)
            if split != "test":
                oracle.save(tmp_path / split / "masks" / f"{at}.png", rng.integers(3, size=(20, 30), dtype=np.uint8))
    (tmp_path / "own.py").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def report(own, call_tool):
    def check(*words):
        code, out, error = call_tool("check_data.py", "-c", own / "own.py", "--json", *words)
        assert code in (0, 1), error
        found = json.loads(out)
        assert found["ok"] == (code == 0)
        return found

    return check


def test_clean_data(report):
    found = report()
    assert found["problems"] == []
    assert [(split["split"], split["images"], split["problems"]) for split in found["splits"]] == [
        ("train", 6, []), ("val", 2, []), ("test", 2, []),
    ]  # fmt: skip
    assert sum(found["splits"][0]["shares"].values()) == pytest.approx(1)
    assert "shares" not in found["splits"][2]


def test_every_fault_of_every_file_is_found(report, own):
    oracle.save(own / "train/images/1.png", np.zeros((20, 30), np.uint8))
    oracle.save(own / "train/masks/2.png", np.zeros((20, 31), np.uint8))
    oracle.save(own / "train/masks/5.png", np.full((20, 30), 7, np.uint8))
    (own / "val/masks/1.png").write_bytes(b"")
    path = own / "test/images/0.png"
    path.write_bytes(path.read_bytes()[:20])
    train, val, test = (split["problems"] for split in report()["splits"])
    assert len(train) == 3
    for problem, words in zip(train, ("images/1.png", "masks/2.png: 31 x 20", "masks/5.png"), strict=True):
        assert words in problem
    assert "7 (600 pixels" in train[2]
    assert len(val) == 1
    assert "masks/1.png" in val[0]
    assert len(test) == 1
    assert "images/0.png" in test[0]


def test_classes_that_never_occur_are_named_with_what_is_found(report, own):
    for path in (*(own / "train/masks").iterdir(), *(own / "val/masks").iterdir()):
        oracle.save(path, np.where(np.arange(600).reshape(20, 30) % 4 == 0, 255, 0).astype(np.uint8))
    found = report()
    assert len(found["problems"]) == 1
    for words in ("2 of 3 classes", "tree, track", "0 (75.0 %), 255 (25.0 %)", "DatasetSpec(values="):
        assert words in found["problems"][0]


def test_the_table_lists_counts_and_the_first_files(own, call_tool):
    for at in range(6):
        oracle.save(own / f"train/masks/{at}.png", np.full((20, 30), 9, np.uint8))
    code, out, error = call_tool("check_data.py", "-c", own / "own.py")
    assert (code, error) == (1, "")
    assert "6 problems of train_dataset" in out
    assert "and 1 more" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "required"), (("cloud", "lr=3"), "lr=3"), (("-c", "gone.py"), "gone.py"),
        (("-c", "own.py", "--root", "d"), "--root"),
    ],
)  # fmt: skip
def test_wrong_use(call_tool, tmp_path, monkeypatch, own, words, told):
    monkeypatch.chdir(tmp_path)
    code, _, error = call_tool("check_data.py", *words)
    assert code == 2
    assert told in error
