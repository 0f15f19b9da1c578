"""LoveDA: RGB at 30 cm from three Chinese cities, urban and rural, whole 1024 px images."""

import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import read_index_mask
from d2ls.data.pairs import Pair, match, unique_names
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets.facts import DatasetFacts, Server, Views
from d2ls.data.sets.layout import ConvertStep, ImageFolder, MaskFolder, MergeStep, Step, plan_by_path
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
_MADE_BY = "Unpack LoveDA's Train.zip, Val.zip and Test.zip with tools/prepare_data.py loveda."


def train(protocol: str = "strict", **changes: Any) -> SegmentationDataset:
    """Training images: Train (protocol "strict") or `train_val`, else Train and Val together ("published").

    Args:
        protocol: "strict" or "published".
        changes: fields of the augmentation, e.g. `crop=768`.
    """
    check_protocol(protocol)
    listing = _train_val if protocol == "published" else partial(_pairs, "Train")
    return SegmentationDataset(SPEC, listing, read_mask=read_mask, augmentation=replace(AUGMENTATION, **changes))


def val(protocol: str = "strict") -> SegmentationDataset:
    """Validation images, Val; protocol "published" has trained on them."""
    check_protocol(protocol)
    return SegmentationDataset(SPEC, partial(_pairs, "Val"), read_mask=read_mask)


def test() -> SegmentationDataset:
    """Test images, without labels (the server keeps them)."""
    return SegmentationDataset(SPEC, partial(_pairs, "Test", labelled=False))


def read_mask(path: Path, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Read a mask as class indices: one in a folder `masks_png` as published, any other as converted."""
    return read_index_mask(path, PUBLISHED if path.parent.name == MASKS else spec)


def _train_val() -> list[Pair]:
    if (data_root() / "LoveDA" / "train_val").is_dir():
        return _pairs("train_val")
    return unique_names([*_pairs("Train"), *_pairs("Val")], depth=3)


def _pairs(split: str, *, labelled: bool = True) -> list[Pair]:
    """Pairs of Urban and Rural; one of them may be missing."""
    folder = data_root() / "LoveDA" / split
    found = [area for area in AREAS if (folder / area / IMAGES).is_dir()]
    if not found:
        raise DataError(f"{folder}: neither Urban/images_png nor Rural/images_png. {_MADE_BY}")
    for area in AREAS:
        if area not in found:
            warnings.warn(f"{folder / area}: no folder images_png; reading {found[0]} alone.", stacklevel=2)
    pairs: list[Pair] = []
    for area in found:
        masks = folder / area / CONVERTED
        masks = masks if masks.is_dir() else folder / area / MASKS
        pairs += match(folder / area / IMAGES, masks if labelled else None, _MADE_BY)
    return unique_names(pairs, depth=1)


def _target(path: PurePosixPath) -> PurePosixPath | None:
    """`{Train,Val,Test}/{Urban,Rural}/{images_png,masks_png}/<number>.png`, wherever it begins."""
    parts = path.parts
    if len(parts) < 4 or not re.fullmatch(r"\d+\.png", parts[-1]):
        return None
    above = [part.lower().removesuffix(".zip") for part in reversed(parts[:-3])]
    split = next((split for part in above for split in SPLITS if part == split.lower()), None)
    area, kind = parts[-3].capitalize(), parts[-2].lower()
    if split is None or area not in AREAS or kind not in (IMAGES, MASKS):
        return None
    return PurePosixPath("LoveDA", split, area, kind, parts[-1])


def _steps(home: Path) -> list[Step]:
    """Converted masks of Train and Val, and `train_val` of both."""
    made: list[Step] = []
    for split in ("Train", "Val"):
        for area in AREAS:
            folder = home / split / area
            made.append(
                ConvertStep(f"loveda/{split}/{area}/{CONVERTED}", folder / MASKS, folder / CONVERTED, PUBLISHED)
            )
    for area in AREAS:
        kinds = (IMAGES, MASKS, CONVERTED, f"{CONVERTED}_rgb")
        sources = {
            home / "train_val" / area / kind: tuple(home / split / area / kind for split in ("Train", "Val"))
            for kind in kinds
        }
        made.append(MergeStep(f"loveda/train_val/{area}", sources))
    return made


def _folders(home: Path) -> list[ImageFolder]:
    made = []
    for split in ("Train", "Val", "train_val", "Test"):
        for folder in (home / split / area for area in AREAS):
            masks = [MaskFolder(folder / MASKS, spec=PUBLISHED)] if split != "Test" else []
            if (folder / CONVERTED).is_dir():
                masks = [MaskFolder(folder / CONVERTED), *(mask for mask in masks if mask.folder.is_dir())]
            family = None if split == "train_val" else "images"
            made.append(ImageFolder(split, folder / IMAGES, tuple(masks), family))
    return made


FACTS = DatasetFacts(
    spec=SPEC,
    val=val,
    test=test,
    d4=Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5)),
    home="LoveDA",
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
