"""ISPRS Vaihingen: near infrared, red and green at 9 cm; 1024 px patches of 33 tiles."""

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from d2ls.data.augment import Augmentation
from d2ls.data.sets import isprs
from d2ls.data.sets.facts import Views
from d2ls.data.sets.layout import Plan, Tiling
from d2ls.errors import DataError

SPEC = isprs.spec("vaihingen")
TEST_TILES = ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38")
TRAIN_TILES = ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "32", "34", "37", "30")
VALIDATION_TILE = "30"
AUGMENTATION = Augmentation(
    crop=512, scales=(0.5, 0.75, 1, 1.25, 1.5), smart_crop=0.5, mosaic=0.25, rot90=0.5, flip=0.5
)
_STEM = "top_mosaic_09cm_area"
_ORIGINAL = re.compile(rf"{_STEM}(?P<tile>\d+)(?P<eroded>{isprs.ERODED})?\.tif", re.I)


patches = partial(isprs.patches, name=r"area(?P<tile>\d+)_(?P<variant>\d+)_\d+(_\d+)?$", validation=VALIDATION_TILE)
"""Data sets of a folder in Vaihingen's layout; further arguments as those of `isprs.patches`."""


def naming(*, eroded: bool) -> isprs.Naming:
    """Names of the originals: `top_mosaic_09cm_area1.tif` for both, eroded labels `..._noBoundary.tif`."""
    return isprs.Naming("", isprs.ERODED if eroded else "")


def tiling(*, training: bool, **options: Any) -> Tiling:
    """Settings of the patches; in training, crops with many cars replace their patch."""
    return Tiling(spec=SPEC, oversample_class=SPEC.classes.index("Car") if training else None, **options)


def _plan(paths: Sequence[PurePosixPath], read: Callable[[PurePosixPath], bytes]) -> Plan:
    """Images and masks have the same names, and are told apart by the pixels of one in each folder."""
    named = [(path, found) for path in paths if (found := _ORIGINAL.fullmatch(path.name))]
    first = {path.parent: path for path, found in reversed(named) if not found["eroded"]}
    kinds = {folder: "masks" if _is_colour_mask(read(path), path) else "images" for folder, path in first.items()}
    preferred = "gts_for_participants"
    named.sort(key=lambda item: preferred not in item[0].parts)
    originals = ((path, name["tile"], "masks_eroded" if name["eroded"] else kinds[path.parent]) for path, name in named)
    splits = {"train": TRAIN_TILES, "test": TEST_TILES}
    plan = isprs.plan(SPEC, _STEM, splits, _NAMES, originals)
    plan.preferred = preferred
    return plan


def _is_colour_mask(data: bytes, path: PurePosixPath) -> bool:
    """Whether an encoded image has no other colours than the ISPRS labels (judged by some 64 rows)."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as problem:
        raise DataError(f"{path}: cannot be decoded, the file is damaged: {problem}.") from problem
    rows = pixels[:: max(1, len(pixels) // 64)].reshape(-1, 3)
    known = {*SPEC.colours, *SPEC.also_read, *SPEC.ignore_colours}
    return {tuple(int(value) for value in colour) for colour in np.unique(rows, axis=0)} <= known


_NAMES = naming(eroded=False), naming(eroded=True)
_SPLITS = patches(SPEC, "vaihingen", augmentation=AUGMENTATION)
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
FACTS = _SPLITS.facts(
    d4=Views(hflip=True, vflip=True, rot90=True, scales=(0.5, 0.75, 1.0, 1.25, 1.5)),
    folders=partial(isprs.folders, names=_NAMES),
    downloads="ISPRS_semantic_labeling_Vaihingen.zip and its _ground_truth_COMPLETE.zip and "
    "_ground_truth_eroded_COMPLETE.zip (files top_mosaic_09cm_areaN.tif)",
    plan=_plan,
    steps=partial(isprs.steps, tiling=tiling, names=_NAMES, overlap=True),
)
