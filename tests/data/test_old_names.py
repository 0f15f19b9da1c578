"""Configs written before the packages were rearranged still load."""

import subprocess
import sys
from pathlib import Path

import pytest

from d2ls.config import load_config
from d2ls.data.augment import Augmentation
from d2ls.data.sets import potsdam

CONFIG = """
import functools
from d2ls.datasets import isprs, potsdam, vaihingen
from d2ls.datasets.loading import evaluation_loader, training_loader
from d2ls.datasets.labels import read_colour_mask
from d2ls.datasets.pairs import match
from d2ls.datasets.root import data_root
from d2ls.datasets.segmentation import SegmentationDataset
from d2ls.datasets.spec import DatasetSpec
from d2ls.datasets.transforms import Recipe
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead

max_epoch, val_batch_size = 1, 2
classes, num_classes, ignore_index = potsdam.SPEC.classes, potsdam.SPEC.num_classes, potsdam.SPEC.ignore_index
weights_path, weights_name, test_weights_name, log_name = "w", "n", "n", "l"
net = DynamicDictionaryLearning("test_convnext", num_classes, stages=1, width=32)
loss = D2LSLoss(ignore_index)
recipe = Recipe(crop=128)

def pairs(split):
    return match(data_root() / split / "images", data_root() / split / "masks", "")

train_dataset = SegmentationDataset(
    potsdam.SPEC, functools.partial(pairs, "train"), read_mask=read_colour_mask, recipe=recipe
)
val_dataset, test_dataset = potsdam.val(), vaihingen.test()
train_loader, val_loader = training_loader(train_dataset, 2), evaluation_loader(val_dataset, 2)
optimizer = adamw_lookahead(net, 1e-3)
colours = isprs.COLOURS
published_recipe = potsdam.RECIPE
"""


def test_a_config_with_the_old_names(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text(CONFIG)
    with pytest.warns(DeprecationWarning) as caught:
        settings = load_config(path)
        assert settings.train_dataset.augmentation == Augmentation(crop=128)
        assert settings.val_dataset.spec is potsdam.SPEC
        assert len(settings.train_loader.dataset.spec.classes) == 6
    told = {str(warning.message).split(" is ")[0]: str(warning.message) for warning in caught}
    assert "d2ls.data.loaders.training_loader" in told["d2ls.datasets.loading.training_loader"]
    assert "d2ls.data.augment.Augmentation" in told["d2ls.datasets.transforms.Recipe"]


def test_the_demo_and_unknown_names() -> None:
    code = """
from d2ls.datasets import demo
from d2ls.datasets.demo import SPEC
import d2ls.datasets.files
assert demo.SPEC is SPEC and d2ls.datasets.files.read_image
try:
    from d2ls.datasets import mars
except ImportError as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mars" in done.stdout
