"""Preflight: training, validation, checkpoint and test of a config on one small image (`train.py --check`)."""

import contextlib
import copy
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from d2ls.checkpoint import Checkpoint, load_weights, read_checkpoint
from d2ls.config import Settings
from d2ls.errors import CheckpointError, ConfigError, D2LSError, DataError
from d2ls.inference import tta
from d2ls.inference.predictor import Network, whole_images
from d2ls.inference.results import Masks
from d2ls.training.checkpoint_io import WholeCheckpoints
from d2ls.training.data_check import SAMPLES, check_labels
from d2ls.training.module import SegmentationModule
from d2ls.training.resume import choose_start
from d2ls.training.trainer import initial_weights

SIDE = 128  # pixels of the image
COPIES = 4  # checkpoints that the disk must have room for: best, last, the one before it, the one being written

_Part = TypeVar("_Part")


@dataclass
class Preflight:
    """The parts of a preflight; each returns a line about what it verified, or raises the problem.

    The network of the settings is trained by one step; the folder takes everything that is written.
    """

    settings: Settings
    folder: Path
    _samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    _trainer: pl.Trainer | None = None
    _checkpoint: Checkpoint | None = None
    _again: nn.Module | None = None

    def parts(self) -> dict[str, Callable[[], str]]:
        """Functions by name, in order."""
        return {
            "training images": partial(self.read, "train"),
            "validation images": partial(self.read, "val"),
            "test images": partial(self.read, "test"),
            "labels": self.compare_labels,
            "initial weights": self.start,
            "training step, validation": self.train,
            "checkpoint": self.save,
            "network from the checkpoint": self.reload,
            "mask of a test": self.predict,
            "room for checkpoints": self.check_disk_space,
        }

    def read(self, split: str) -> str:
        """Read the first sample of a split as a run would."""
        dataset = getattr(self.settings, f"{split}_dataset")
        if dataset is None:
            return "none in the config"
        if split == "train":
            len(self.settings.train_loader)  # refuses too few images for a batch
        sample = self._samples[split] = dict(dataset[0])
        height, width = sample["image"].shape[-2:]
        if "mask" not in sample and split != "test":
            raise DataError(f"{sample['path']}: no mask; training and validation need one for each image.")
        labels, classes = "no labels", self.settings.classes
        if "mask" in sample:
            absent = [name for index, name in enumerate(classes) if not (sample["mask"] == index).any()]
            missing = f" (not {', '.join(absent)})" if absent else ""
            labels = f"{len(classes) - len(absent)} of {len(classes)} classes{missing}"
        return f"{len(dataset)}; the first of {width} x {height} pixels, {labels}"

    def compare_labels(self) -> str:
        """Read all headers, compare the labels of some masks with the classes, and look for every class."""
        warnings = "".join(f"; {note}" for note in check_labels(self.settings))
        return f"of {SAMPLES} images of each split: all are classes or ignored; no class is missing{warnings}"

    def start(self) -> str:
        """Load the weights that training starts from."""
        start = choose_start(self.settings)
        notes = initial_weights(self.settings, start.checkpoint)
        count = sum(parameter.numel() for parameter in self.settings.net.parameters())
        return f"{count / 1e6:.2f} million parameters" + "".join(f"; {note}" for note in (*notes, *start.notes))

    def train(self) -> str:
        """One step of training and a validation, through Lightning, on the config's device and in its precision."""
        backbone: Any = getattr(self.settings.net, "backbone", None)
        if getattr(backbone, "pending", False):
            backbone.pending = False  # a problem that has been told; the rest can be tried without these weights
        self._check_optimizer()
        module = SegmentationModule.from_settings(self.settings)
        before = {name: p.detach().cpu().clone() for name, p in module.net.named_parameters() if p.requires_grad}
        names = ("accelerator", "precision", "deterministic", "gradient_clip_val")
        trainer = pl.Trainer(
            **{name: getattr(self.settings, name) for name in names}, devices=1, max_epochs=1, num_sanity_val_steps=0,
            plugins=[WholeCheckpoints()], default_root_dir=self.folder, enable_checkpointing=False, logger=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, self._loader("train"), self._loader("val"))
        self._trainer = trainer
        after = dict(module.net.named_parameters())
        changed = sum(not torch.equal(value, after[name].detach().cpu()) for name, value in before.items())
        if not changed and "16" not in str(self.settings.precision):  # there, a first step may be left out
            raise ConfigError("the training step changed no weight. Is every learning rate above 0?")
        loss, scores = trainer.callback_metrics["train_loss_step"].item(), module.scores
        shown = "" if scores is None else f"; validation mIoU {100 * scores['mIoU']:.1f} %"
        return f"loss {loss:.3f}, {changed} of {len(before)} trainable tensors changed{shown}"

    def save(self) -> str:
        """Write a checkpoint and read it back."""
        path = self.folder / "preflight.ckpt"
        _needed(self._trainer, "training step").save_checkpoint(path)
        read, state = read_checkpoint(path), self.settings.net.state_dict()
        none = torch.empty(0)
        if differing := [name for name in state if not _same(state[name], read.weights.get(name, none))]:
            raise CheckpointError(f"{len(differing)} tensors differ once written and read (first: {differing[0]}).")
        self._checkpoint = read
        return f"{path.stat().st_size / 1e6:.0f} MB, {len(state)} tensors read back bit by bit"

    def reload(self) -> str:
        """Build the network again from the checkpoint alone, and compare its logits."""
        checkpoint, net = _needed(self._checkpoint, "checkpoint"), self.settings.net
        if checkpoint.arguments is not None:
            again = checkpoint.build()
        else:
            again = copy.deepcopy(net)
            for parameter in again.parameters():
                nn.init.zeros_(parameter)
            load_weights(again, checkpoint)
        image = self._small("val")["image"][None]
        with torch.inference_mode():
            one, other = net.cpu().eval()(image), again.cpu().eval()(image)
        if one.shape[1] != self.settings.num_classes:
            raise ConfigError(f"net gives {one.shape[1]} classes, num_classes={self.settings.num_classes}.")
        if not (difference := (one - other).abs().max().item()) <= 1e-4:  # NaN fails, too
            raise CheckpointError(f"the logits of the network from the checkpoint differ by {difference:.2g}.")
        self._again = again
        return f"its logits {tuple(one.shape)} differ by {difference:.1g} at most"

    def predict(self) -> str:
        """Segment an image as the test scripts do, and read its masks back."""
        net = _needed(self._again, "network from a checkpoint")
        spec = getattr(self.settings.test_dataset, "spec", getattr(self.settings.val_dataset, "spec", None))
        if spec is None:
            return "not tried: the data set does not say what its labels mean (spec)"
        segment = whole_images(Network(net, torch.device("cpu"), "32-true"), tta.NONE, 1, spec.num_classes)
        index = segment(self._small("test" if "test" in self._samples else "val")["image"][None])[0].get().numpy()
        for coloured in (False, True):
            masks = Masks(self.folder / f"masks{coloured}", spec, coloured=coloured)
            masks.write("preflight", index)
            if not np.array_equal(masks.read("preflight"), index):
                raise DataError(f"a {'colour' if coloured else 'index'} mask differs once written and read.")
        return f"indices and colours, {index.shape[1]} x {index.shape[0]} pixels, read back as they were"

    def check_disk_space(self) -> str:
        """Check that the folder of checkpoints can be written, and that its disk has room for them."""
        wanted = Path(self.settings.weights_path).absolute()
        there = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigError(f"weights_path={self.settings.weights_path!r}: {there} is no folder that can be written.")
        size = COPIES * _needed(self._checkpoint, "checkpoint").path.stat().st_size
        free = shutil.disk_usage(there).free
        if free < size:
            raise ConfigError(f"{there}: {free / 1e9:.1f} GB are free, checkpoints need {size / 1e9:.1f} GB.")
        return f"{free / 1e9:.1f} GB free in {there}, {size / 1e9:.2f} GB needed"

    def _check_optimizer(self) -> None:
        optimised = {id(p) for group in self.settings.optimizer.param_groups for p in group["params"]}
        trainable = {name: p for name, p in self.settings.net.named_parameters() if p.requires_grad}
        if left_out := [name for name, parameter in trainable.items() if id(parameter) not in optimised]:
            raise ConfigError(
                f"optimizer leaves out {len(left_out)} of the {len(trainable)} trainable tensors of net (first: "
                f"{left_out[0]}). Build it from this network."
            )

    def _loader(self, split: str) -> DataLoader[Any]:
        """A small sample as the only batch of the config's loader."""
        samples: Any = [self._small(split)]
        return DataLoader(samples, collate_fn=getattr(self.settings, f"{split}_loader").collate_fn)

    def _small(self, split: str) -> dict[str, Any]:
        """A sample around one of its labelled pixels; without data, a random one."""
        sample = self._samples.get(split)
        if sample is None:
            generator = torch.Generator().manual_seed(0)
            mask = torch.randint(self.settings.num_classes, (SIDE, SIDE), generator=generator)
            return {"image": torch.randn(3, SIDE, SIDE, generator=generator), "mask": mask, "name": "-", "path": "-"}
        sides = sample["image"].shape[-2:]
        labelled = (sample["mask"] != self.settings.ignore_index).nonzero() if "mask" in sample else ()
        centre = labelled[len(labelled) // 2].tolist() if len(labelled) else [side // 2 for side in sides]
        top, left = (max(0, min(at - SIDE // 2, side - SIDE)) for at, side in zip(centre, sides, strict=True))
        window = np.s_[..., top : top + SIDE, left : left + SIDE]
        return sample | {name: sample[name][window] for name in ("image", "mask") if name in sample}


def check(settings: Settings, console: Console) -> list[str]:
    """Try everything that a run does, print what was verified, and leave nothing behind; gives the problems."""
    problems: list[str] = []
    table = Table("part", "found", "seconds", title=f"{settings.path}: one image of {SIDE} px through everything")
    with tempfile.TemporaryDirectory(prefix="d2ls-check-") as folder, _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # decides the crop of the training image
        for part, function in Preflight(settings, Path(folder)).parts().items():
            begin = time.perf_counter()
            try:
                found = function()
            except _NotTriedError as reason:
                found = f"not tried: {reason}"
            except Exception as error:  # a network or a data set of the user's own may raise anything
                found = "PROBLEM"
                problems.append(f"{part}: {'' if isinstance(error, D2LSError) else f'{type(error).__name__}: '}{error}")
            table.add_row(part, found, f"{time.perf_counter() - begin:.1f}")
    console.print(table)
    return problems


class _NotTriedError(Exception):
    """A part needs what an earlier one could not give."""


def _needed(part: _Part | None, name: str) -> _Part:
    if part is None:
        raise _NotTriedError(f"no {name}")
    return part


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.cpu(), other)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice from the terminal: it is about the preflight, not about the run."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)
