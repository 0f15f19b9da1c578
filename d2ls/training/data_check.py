"""Checks of the data before the first step: headers, labels, missing classes, readers in other processes."""

import hashlib
import json
import multiprocessing
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from d2ls.config import Settings
from d2ls.data.check import MISSING_CAUSES, check_headers, count_labels, missing_classes
from d2ls.data.io import write_bytes
from d2ls.data.pairs import Pair
from d2ls.errors import ConfigError, DataError

LOGS = Path("lightning_logs")
SAMPLES = 4  # images of each split that are read whole
SAMPLED_MASKS = 48  # masks in which every class is looked for first
BALANCED = "balanced"
_LISTED = 5  # problems that a message names


def check_data(settings: Settings) -> list[str]:
    """Check the data of a run as far as it takes seconds; all labels are read only where a sample leaves doubts.

    Sets the class weights of the loss and the weights of the sampler where the config asks for them; gives notes for
    the user, one line each.
    """
    notes = check_labels(settings)
    _check_worker_start(settings)
    if settings.class_weights is not None:
        notes.append(_weight_classes(settings))
    if settings.sampler is not None:
        notes.append(_favour_rare_classes(settings))
    return notes


def check_labels(settings: Settings) -> list[str]:
    """Read all headers, about a millisecond each, compare the labels of samples with the classes, look for every class.

    Returns:
        A warning, where `allow_missing_classes=True` lets a class be missing from all training masks.

    Raises:
        ConfigError: a label is neither a class nor the ignore index, or a class is missing; names image and values.
        DataError: images or masks cannot be used; names the first ones.
    """
    if problems := [*check_headers(settings.train_dataset), *check_headers(settings.val_dataset)]:
        more = f" And {len(problems) - _LISTED} more." if len(problems) > _LISTED else ""
        raise DataError(" ".join(problems[:_LISTED]) + more)
    for split in ("train", "val"):
        dataset: Any = getattr(settings, f"{split}_dataset")
        for index in _spread(len(dataset), SAMPLES):
            with torch.random.fork_rng(devices=[]):
                _check_sample(settings, split, dataset[index])
    return check_classes(settings)


def check_classes(settings: Settings) -> list[str]:
    """Look for every class in the training masks, the last part of `check_labels`: in all where a sample misses one."""
    dataset, classes = settings.train_dataset, settings.num_classes
    pixels = count_labels(dataset, indices=_spread(len(dataset), SAMPLED_MASKS)).pixels
    if pixels.any() and not pixels[:classes].all() and len(dataset) > SAMPLED_MASKS:
        pixels = _all_labels(settings).sum(axis=0)
    missing = missing_classes(settings.classes, pixels, settings.ignore_index)
    if missing and not settings.allow_missing_classes:
        raise ConfigError(f"{settings.path}: {missing}. {MISSING_CAUSES}")
    return [f"warning: {missing}"] if missing else []


def _check_sample(settings: Settings, split: str, sample: Any) -> None:
    labels = torch.as_tensor(sample["mask"]).unique().tolist() if "mask" in sample else ()
    if wrong := [label for label in labels if label not in (*range(settings.num_classes), settings.ignore_index)]:
        raise ConfigError(
            f"{settings.path}: num_classes={settings.num_classes} does not fit the labels of {split}_dataset: "
            f"the mask of {sample['path']} holds {wrong}; expected 0..{settings.num_classes - 1} or "
            f"ignore_index={settings.ignore_index}. Set num_classes and classes as the masks have them."
        )


def _check_worker_start(settings: Settings) -> None:
    """Refuse functions of the config that reading processes cannot import, where they do not inherit them."""
    for name in ("train_loader", "val_loader"):
        loader = getattr(settings, name)
        method = getattr(loader.multiprocessing_context, "get_start_method", multiprocessing.get_start_method)()
        if not loader.num_workers or method == "fork":
            continue
        try:
            ForkingPickler.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{name}: its data set or collate_fn cannot be sent to num_workers={loader.num_workers} processes, "
                f"which this system starts by {method!r}: {error}. Move functions and classes that it uses from "
                f"{settings.path} into a Python file of their own and import them, or set num_workers=0."
            ) from error


def _weight_classes(settings: Settings) -> str:
    """Give the loss its class weights, so that their mean over labelled pixels is 1 if "balanced"; gives a note."""
    weights = settings.class_weights
    if weights == BALANCED:
        pixels = _all_labels(settings).sum(axis=0)[: settings.num_classes]
        present = max(np.count_nonzero(pixels), 1)
        weights = [float(pixels.sum() / (present * count)) if count else 0.0 for count in pixels]
    if len(weights) != settings.num_classes:
        raise ConfigError(f"class_weights has {len(weights)} values, num_classes={settings.num_classes}.")
    if not hasattr(settings.loss, "set_class_weights"):
        raise ConfigError(
            f"class_weights={settings.class_weights!r}: a {type(settings.loss).__name__} has no set_class_weights. "
            "Use D2LSLoss, or give your loss its weights itself and set class_weights=None."
        )
    settings.loss.set_class_weights([float(weight) for weight in weights])
    shown = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(settings.classes, weights, strict=True))
    return f"class_weights: {shown}"


def _favour_rare_classes(settings: Settings) -> str:
    sampler: Any = settings.train_loader.sampler
    if not hasattr(sampler, "set_weights"):
        raise ConfigError(
            f"sampler={settings.sampler!r}: train_loader has a {type(sampler).__name__}, which takes no weights. Make "
            "the loader with d2ls.data.loaders.training_loader, or set sampler=None."
        )
    weights = rare_class_weights(_all_labels(settings)[:, : settings.num_classes])
    sampler.set_weights(weights)
    times = len(weights) * weights.max()
    return f"sampler: the most favoured of {len(weights)} images comes {times:.3g} times an epoch"


def rare_class_weights(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of each image where first a class is chosen, each alike, then an image by its share of that class.

    Of the pixels of each image and class, (images, K); a class without a pixel is never chosen.
    """
    present = pixels[:, pixels.any(axis=0)]
    if not present.size:
        raise DataError("sampler: no training mask has a pixel of any class.")
    shares: NDArray[np.float64] = (present / present.sum(axis=0)).mean(axis=1)
    return shares


def _all_labels(settings: Settings) -> NDArray[np.int64]:
    """Pixels of all training masks by label, (images, 256); kept beside the log while the files stay the same."""
    dataset = settings.train_dataset
    path, key = LOGS / f"{settings.log_name}.labels.json", _fingerprint(dataset)
    if key is not None and path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["files"] == key:
                counts = np.zeros((len(dataset), 256), np.int64)
                counts[:, kept["labels"]] = kept["pixels"]
                return counts
        except (OSError, ValueError, KeyError, TypeError):
            pass  # counted anew
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("labels of the training masks", total=len(dataset))
        found = count_labels(dataset, lambda: bar.advance(task))
    if found.problems:
        raise DataError(" ".join(found.problems[:_LISTED]))
    if key is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = np.flatnonzero(found.pixels)
        content = {"files": key, "labels": labels.tolist(), "pixels": found.by_image[:, labels].tolist()}
        write_bytes(path, json.dumps(content).encode())
    return found.by_image


def _fingerprint(dataset: Any) -> str | None:
    """Hash of names, sizes and times of all masks and of what their values mean; None where they are no whole files."""
    if not all(type(pair) is Pair for pair in getattr(dataset, "pairs", [None])):
        return None
    stats = [(str(p.mask), p.mask.stat().st_size, p.mask.stat().st_mtime_ns) for p in dataset.pairs if p.mask]
    return hashlib.sha256(repr((dataset.spec, stats)).encode()).hexdigest()


def _spread(number: int, samples: int) -> list[int]:
    """Indices of some of `number` images, evenly spread."""
    return sorted({round(at) for at in np.linspace(0, number - 1, samples)}) if number else []
