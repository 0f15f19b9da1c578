"""Cloud: clouds and their shadows in Landsat-8 patches (bands 4, 3 and 2 as RGB)."""

from dataclasses import replace
from functools import partial
from typing import Any

from d2ls.datasets.pairs import Pair, match
from d2ls.datasets.root import check_protocol, data_root
from d2ls.datasets.segmentation import SegmentationDataset
from d2ls.datasets.spec import DatasetSpec
from d2ls.datasets.transforms import Recipe

SPEC = DatasetSpec(
    name="cloud",
    classes=("Clear", "Cloud Shadow", "Thin Cloud", "Cloud"),
    colours=((79, 253, 199), (221, 53, 223), (251, 255, 41), (77, 2, 115)),
    ignore_index=255,
    ignore_colours=((0, 0, 0),),
    citation="Foga et al., Cloud detection algorithm comparison and validation for Landsat (L8 Biome), 2017.",
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
    """Test images."""
    return SegmentationDataset(SPEC, partial(_split, "test"))


def _split(split: str) -> list[Pair]:
    folder = data_root() / "cloud"
    made_by = "Put the downloaded folders there with tools/prepare_data.py cloud."
    return match(folder / "img_dir" / split, folder / "ann_dir" / split, made_by)
