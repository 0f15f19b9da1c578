"""LoveDA: RGB at 30 cm from three Chinese cities, urban and rural, whole 1024 px images."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import check_index, read_index_mask
from d2ls.data.pairs import Pair, match, unique_names
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets.facts import DatasetFacts, Server, Views
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

SPEC = DatasetSpec(
    name="loveda",
    classes=("background", "building", "road", "water", "barren", "forest", "agricultural"),
    colours=((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128)),
    ignore_index=7,
    ignore_colours=((0, 0, 0),),
    citation="Wang et al., LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptation, 2021.",
)
AUGMENTATION = Augmentation(crop=512, scales=(0.75, 1, 1.25, 1.5), smart_crop=0.75, mosaic=0.25, rot90=0.5, flip=0.5)
AREAS = ("Urban", "Rural")
_MADE_BY = "Unpack LoveDA's Train.zip, Val.zip and Test.zip with tools/prepare_data.py loveda."


def train(protocol: str = "strict", **changes: Any) -> SegmentationDataset:
    """Training images: Train (protocol "strict") or `train_val`, else Train and Val together ("published").

    Args:
        protocol: "strict" or "published".
        changes: fields of the augmentation, e.g. `crop=768`.
    """
    check_protocol(protocol)
    listing = _train_val if protocol == "published" else partial(_split, "Train")
    return SegmentationDataset(SPEC, listing, read_mask=read_mask, augmentation=replace(AUGMENTATION, **changes))


def val(protocol: str = "strict") -> SegmentationDataset:
    """Validation images, Val; protocol "published" has trained on them."""
    check_protocol(protocol)
    return SegmentationDataset(SPEC, partial(_split, "Val"), read_mask=read_mask)


def test() -> SegmentationDataset:
    """Test images, without labels (the server keeps them)."""
    return SegmentationDataset(SPEC, partial(_split, "Test", labelled=False))


def read_mask(path: Path, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Read a mask: of a folder `masks_png` as published (0 no data, else class + 1), of any other converted."""
    if path.parent.name == "masks_png":
        return convert(files.read_index(path), spec, path)
    return read_index_mask(path, spec)


def convert(raw: NDArray[np.uint8], spec: DatasetSpec, path: Path | str) -> NDArray[np.uint8]:
    """Class indices and the ignore index from published values (0 no data, 1 to 7 the classes), (H, W).

    Raises:
        DataError: a value above 7.
    """
    if (highest := int(raw.max(initial=0))) > spec.num_classes:
        raise DataError(
            f"{path}: value {highest} in a mask as LoveDA publishes them. Expected 0 (no data) to {spec.num_classes}; "
            "is this a converted or coloured mask in the folder masks_png?"
        )
    index = np.where(raw == 0, np.uint8(spec.ignore_index), raw - np.uint8(1))
    check_index(index, spec, path)
    return index


def _train_val() -> list[Pair]:
    if (data_root() / "LoveDA" / "train_val").is_dir():
        return _split("train_val")
    return unique_names([*_split("Train"), *_split("Val")], depth=3)


def _split(split: str, *, labelled: bool = True) -> list[Pair]:
    """Pairs of Urban and Rural; one of them may be missing."""
    folder = data_root() / "LoveDA" / split
    found = [area for area in AREAS if (folder / area / "images_png").is_dir()]
    if not found:
        raise DataError(f"{folder}: neither Urban/images_png nor Rural/images_png. {_MADE_BY}")
    for area in AREAS:
        if area not in found:
            warnings.warn(f"{folder / area}: no folder images_png; reading {found[0]} alone.", stacklevel=2)
    pairs: list[Pair] = []
    for area in found:
        masks = folder / area / "masks_png_convert"
        masks = masks if masks.is_dir() else folder / area / "masks_png"
        pairs += match(folder / area / "images_png", masks if labelled else None, _MADE_BY)
    return unique_names(pairs, depth=1)


FACTS = DatasetFacts(
    spec=SPEC,
    val=val,
    test=test,
    d4=Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5)),
    server=Server(  # codabench competition 13030: one flat zip of index masks
        SPEC,
        {f"{number}.png": ((1024, 1024),) for number in range(4191, 5987)},
        coloured=False,
        official=1796,
        folder="LoveDA/Test",
    ),
)
