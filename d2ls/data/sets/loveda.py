"""LoveDA: RGB at 30 cm from three Chinese cities, urban and rural, whole 1024 px images."""

import re
import warnings
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from d2ls.data.augment import Augmentation
from d2ls.data.labels import read_index_mask
from d2ls.data.pairs import Pair, match, unique_names
from d2ls.data.sets.facts import Server, Splits
from d2ls.data.sets.layout import ImageFolder, MaskFolder, Step, convert, merge, plan_by_path
from d2ls.data.spec import IGNORE, DatasetSpec
from d2ls.errors import DataError

SPEC = DatasetSpec(
    name="loveda",
    classes=("background", "building", "road", "water", "barren", "forest", "agricultural"),
    colours=((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128)),
    ignore_index=7,
    ignore_colours=((0, 0, 0),),
    citation="Wang et al., LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptation, 2021.",
)
PUBLISHED = replace(SPEC, values={0: IGNORE} | {index + 1: name for index, name in enumerate(SPEC.classes)})
"""Meaning of the published masks: 0 without data, else class index + 1."""
AUGMENTATION = Augmentation(crop=512, scales=(0.75, 1, 1.25, 1.5), smart_crop=0.75, mosaic=0.25, rot90=0.5, flip=0.5)
AREAS = ("Urban", "Rural")
SPLITS = ("Train", "Val", "Test")
IMAGES, MASKS, CONVERTED = "images_png", "masks_png", "masks_png_convert"
_ORIGINAL = re.compile(
    r"(?:.*/)?(?i:(train|val|test)(?:\.zip)?/(?:.*/)?(urban|rural)/(images_png|masks_png))/(\d+\.png)"
)
_MADE_BY = "Unpack LoveDA's Train.zip, Val.zip and Test.zip with tools/prepare_data.py loveda."


def read_mask(path: Path, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Read a mask as class indices: one in a folder `masks_png` as published, any other as converted."""
    return read_index_mask(path, PUBLISHED if path.parent.name == MASKS else spec)


def _pairs(home: Path, split: str, protocol: str) -> list[Pair]:
    """Train, Val, and Test without masks; "published" trains on `train_val`, else on Train and Val together."""
    if (split, protocol) != ("train", "published"):
        return _of_folder(home / split.capitalize(), labelled=split != "test")
    if (home / "train_val").is_dir():
        return _of_folder(home / "train_val")
    return unique_names([*_of_folder(home / "Train"), *_of_folder(home / "Val")], depth=3)


def _of_folder(folder: Path, *, labelled: bool = True) -> list[Pair]:
    """Pairs of Urban and Rural; one of them may be missing."""
    found = [area for area in AREAS if (folder / area / IMAGES).is_dir()]
    if not found:
        raise DataError(f"{folder}: neither Urban/images_png nor Rural/images_png. {_MADE_BY}")
    for area in set(AREAS) - set(found):
        warnings.warn(f"{folder / area}: no folder images_png; reading {found[0]} alone.", stacklevel=2)
    pairs: list[Pair] = []
    for area in found:
        masks = folder / area / (CONVERTED if (folder / area / CONVERTED).is_dir() else MASKS)
        pairs += match(folder / area / IMAGES, masks if labelled else None, _MADE_BY)
    return unique_names(pairs, depth=1)


def _target(path: PurePosixPath) -> PurePosixPath | None:
    """`{Train,Val,Test}/{Urban,Rural}/{images_png,masks_png}/<number>.png`, wherever it begins."""
    if (found := _ORIGINAL.fullmatch(path.as_posix())) is None:
        return None
    split, area, kind, name = found.groups()
    return PurePosixPath("LoveDA", split.capitalize(), area.capitalize(), kind.lower(), name)


def _steps(home: Path) -> list[Step]:
    """Converted masks of Train and Val, and `train_val` of both."""
    splits, kinds = ("Train", "Val"), (IMAGES, MASKS, CONVERTED, f"{CONVERTED}_rgb")
    made: list[Step] = []
    for folder in (f"{split}/{area}" for split in splits for area in AREAS):
        masks = home / folder / MASKS
        made.append(convert(f"loveda/{folder}/{CONVERTED}", masks, home / folder / CONVERTED, PUBLISHED))
    for area in AREAS:
        sources = {
            home / "train_val" / area / kind: tuple(home / split / area / kind for split in splits) for kind in kinds
        }
        made.append(merge(f"loveda/train_val/{area}", sources))
    return made


def _folders(home: Path) -> list[ImageFolder]:
    made = []
    for split in ("Train", "Val", "train_val", "Test"):
        for folder in (home / split / area for area in AREAS):
            published = MaskFolder(folder / MASKS, spec=PUBLISHED, optional=(folder / CONVERTED).is_dir())
            masks = (MaskFolder(folder / CONVERTED, optional=True), published) if split != "Test" else ()
            made.append(ImageFolder(split, folder / IMAGES, masks, None if split == "train_val" else "images"))
    return made


_SPLITS = Splits(SPEC, "LoveDA", _pairs, AUGMENTATION, read_mask)
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
FACTS = _SPLITS.facts(
    folders=_folders,
    downloads="Train.zip, Val.zip and Test.zip (folders Train/Urban/images_png)",
    plan=plan_by_path(_target, (IMAGES, MASKS), unlabelled="Test"),
    steps=_steps,
    server=Server(  # codabench competition 13030: one flat zip of index masks
        SPEC,
        {f"{number}.png": ((1024, 1024),) for number in range(4191, 5987)},
        coloured=False,
        official=1796,
        folder="LoveDA/Test",
    ),
)
