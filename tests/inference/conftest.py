"""Drawn data of every data set, and tiny untrained networks with their checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from d2ls.checkpoint import KEY, describe
from d2ls.data.spec import DatasetSpec
from d2ls.models import DynamicDictionaryLearning
from tests.drawn import folders

MODEL = {"backbone": "test_convnext", "stages": 1, "width": 32}

CONFIG = """
from d2ls.data.sets import {name}
from d2ls.data.loaders import evaluation_loader, training_loader
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import adamw_lookahead

max_epoch = 1
classes, num_classes, ignore_index = {name}.SPEC.classes, {name}.SPEC.num_classes, {name}.SPEC.ignore_index
weights_path = "{weights}"
weights_name = test_weights_name = "{name}"
log_name = "{name}"
val_batch_size = 2
backbone, stages = "test_convnext", 1
net = DynamicDictionaryLearning(backbone, num_classes, stages=stages, width=32, pretrained="no/such/file.pth")
loss = D2LSLoss(ignore_index)
train_dataset, val_dataset, test_dataset = {name}.train(), {name}.val(), {name}.test()
train_loader, val_loader = training_loader(train_dataset, 2), evaluation_loader(val_dataset, 2)
optimizer = adamw_lookahead(net, 1e-3)
"""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with small drawn pictures of all data sets, of sizes that divide by nothing."""
    root = tmp_path_factory.mktemp("data")
    folders.write_vaihingen(root, size=66, train=1, validation=1, test=3)
    folders.write_potsdam(root, size=(70, 50), train=1, validation=1, test=2)
    folders.write_loveda(root, size=64, train=1, val=2, test=2)
    folders.write_uavid_originals(root, size=(90, 160), frames=2)
    folders.write_grass(root, size=48, train=1, val=2)
    folders.write_cloud(root, size=64, train=1, val=1, test=2)
    folders.write_dubai(root, size=(50, 61), train=1, val=2)
    return root


@pytest.fixture
def data(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The drawn data as the data root of this test."""
    monkeypatch.setenv("D2LS_DATA", str(drawn))
    return drawn


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[DatasetSpec], Path]:
    """Gives a checkpoint of an untrained network for the classes of a data set."""
    folder = tmp_path_factory.mktemp("weights")

    def write(spec: DatasetSpec) -> Path:
        path = folder / f"{spec.name}.ckpt"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(len(spec.name))
                net = DynamicDictionaryLearning(num_classes=spec.num_classes, **MODEL)
            weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
            torch.save({"state_dict": weights, KEY: describe(net, spec)}, path)
        return path

    return write


@pytest.fixture
def config(tmp_path: Path, checkpoint: Callable[[DatasetSpec], Path]) -> Callable[[DatasetSpec], Path]:
    """Gives a config whose weights are those of `checkpoint`."""

    def write(spec: DatasetSpec) -> Path:
        path = tmp_path / f"{spec.name}.py"
        path.write_text(CONFIG.format(name=spec.name, weights=checkpoint(spec).parent.as_posix()))
        return path

    return write
