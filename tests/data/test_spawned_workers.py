"""Functions and classes of a config file in worker processes that are spawned, as on Windows and macOS."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from d2ls.config import load_config
from d2ls.data.loaders import GRACE
from tests.data.folders import write_pair

CONFIG = '''
"""Own readers, an own Dataset class, and a transform, all defined in the file."""
from pathlib import Path
import albumentations
import numpy as np
from d2ls.data import io
from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.data.pairs import match
from d2ls.data.spec import DatasetSpec
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead, cosine

max_epoch, train_batch_size, lr, seed = 1, 2, 1e-3, 1
monitor, monitor_mode = "val_mIoU", "max"
weights_name = test_weights_name = "own"
weights_path, log_name, folder, start_method = "weights", "own", ".", "spawn"
SPEC = DatasetSpec(name="own", classes=("a", "b"), colours=((0, 0, 0), (9, 9, 9)), ignore_index=255)
classes, num_classes, ignore_index = SPEC.classes, SPEC.num_classes, SPEC.ignore_index
SHIFT = 1


def pairs():
    return match(Path(folder) / "images", Path(folder) / "masks", "")


def read(path, spec):
    return np.minimum(io.read_index(path), SHIFT)


class Brighter(albumentations.ImageOnlyTransform):
    def apply(self, img, **_):
        return np.maximum(img, 200)


class Doubled(SegmentationDataset):
    def __len__(self):
        return 2 * super().__len__()

    def __getitem__(self, at):
        return super().__getitem__(at % super().__len__())


net = DynamicDictionaryLearning("test_convnext", num_classes, pretrained=False, width=32, stages=1)
loss = D2LSLoss(ignore_index)
augmentation = Augmentation(crop=32, flip=0.5, augment=albumentations.Compose([Brighter(p=1)]))
train_dataset = SegmentationDataset(SPEC, pairs, read_mask=read, augmentation=augmentation)
val_dataset = test_dataset = Doubled(SPEC, pairs, read_mask=read)
train_loader = training_loader(train_dataset, 2, num_workers=1, multiprocessing_context=start_method)
val_loader = evaluation_loader(val_dataset, num_workers=1, multiprocessing_context=start_method)
optimizer = adamw_lookahead(net, lr)
lr_scheduler = cosine(optimizer, max_epoch)
'''


def settings(folder: Path, start_method: str) -> Any:
    (folder / "own.py").write_text(CONFIG)
    for number in range(4):
        write_pair(folder / "images", folder / "masks", f"p{number}", seed=number)
    return load_config(folder / "own.py", {"folder": str(folder), "start_method": start_method})


def contents(loader: DataLoader[Any]) -> list[Any]:
    return [(batch["name"], batch["image"], batch["mask"]) for batch in loader]


@pytest.mark.parametrize("start_method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_config_brings_its_own_readers(start_method: str, tmp_path: Path) -> None:
    other, forked = (settings(tmp_path, method) for method in (start_method, "fork"))
    for kind in ("train_loader", "val_loader"):
        found, expected = contents(getattr(other, kind)), contents(getattr(forked, kind))
        assert len(found) == len(expected) == (2 if kind == "train_loader" else 8)
        for (names, images, masks), (names_, images_, masks_) in zip(found, expected, strict=True):
            assert names == names_
            assert torch.equal(images, images_)
            assert torch.equal(masks, masks_)
            assert set(masks.unique().tolist()) == {0, 1}


@pytest.mark.slow
def test_a_program_ends_at_once_after_its_loaders(tmp_path: Path) -> None:
    """Workers put SIGTERM off, which multiprocessing sends at the end of a program, and waits."""
    settings(tmp_path, "fork")
    changes = {"folder": str(tmp_path), "start_method": "fork"}
    program = (
        "from d2ls.config import load_config\n"
        f"settings = load_config({str(tmp_path / 'own.py')!r}, {changes!r})\n"
        "print(len(list(settings.train_loader)))"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=GRACE - 5, check=True
    )
    assert run.stdout.strip() == "2"
