"""Grass: five degrees of vegetation cover in 256 px satellite images."""

from dataclasses import replace
from functools import partial
from typing import Any

from d2ls.datasets.pairs import Pair, match
from d2ls.datasets.root import check_protocol, data_root
from d2ls.datasets.segmentation import SegmentationDataset
from d2ls.datasets.spec import DatasetSpec
from d2ls.datasets.transforms import Recipe

SPEC = DatasetSpec(
    name="grass",
    classes=("low", "middle-low", "middle", "middle-high", "high"),
    colours=((185, 101, 71), (248, 202, 155), (211, 232, 158), (138, 191, 104), (92, 144, 77)),
    ignore_index=255,
    ignore_colours=((0, 0, 0),),
    citation="Grass cover set of KTDA (Knowledge Transfer and Domain Adaptation), 2024.",
)
RECIPE = Recipe(mosaic=0.25, flip=0.5, brightness_contrast=0.25, sharpen=0.5)


def train(protocol: str = "strict", **changes: Any) -> SegmentationDataset:
    """Training images, the same in both protocols.

    Args:
        protocol: "strict" or "published".
        changes: fields of the recipe, e.g. `sharpen=0`.
    """
    check_protocol(protocol)
    return SegmentationDataset(SPEC, partial(_split, "train"), recipe=replace(RECIPE, **changes))


def val(protocol: str = "strict") -> SegmentationDataset:
    """Validation images, the same in both protocols."""
    check_protocol(protocol)
    return SegmentationDataset(SPEC, partial(_split, "val"))


def test() -> SegmentationDataset:
    """Test images: the set has no split of its own for them, so the validation images."""
    return SegmentationDataset(SPEC, partial(_split, "val"))


def _split(split: str) -> list[Pair]:
    folder = data_root() / "grass"
    made_by = "Put the downloaded folders there with tools/prepare_data.py grass."
    return match(folder / "img_dir" / split, folder / "ann_dir" / split, made_by)
