"""Dubai: 72 aerial photographs in 8 tiles of very different scale, sizes 509 x 544 to 2149 x 1480 px."""

from dataclasses import replace
from functools import partial
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import read_colour_mask
from d2ls.data.pairs import Pair, match
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets.facts import DatasetFacts, Views
from d2ls.data.spec import DatasetSpec

SPEC = DatasetSpec(
    name="dubai",
    classes=("Building", "Land", "Road", "Vegetation", "Water", "Unlabeled"),
    colours=((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41), (155, 155, 155)),
    ignore_index=255,
    ignore_colours=((0, 0, 0),),
    scored=(0, 1, 2, 3, 4),
    citation="Humans in the Loop and Mohammed Bin Rashid Space Center, Semantic segmentation of aerial imagery, 2020.",
)
AUGMENTATION = Augmentation(crop=384, scales=(0.5, 0.75, 1, 1.25, 1.5), smart_crop=0.75, rot90=0.5, flip=0.5)


def train(protocol: str = "strict", **changes: Any) -> SegmentationDataset:
    """Training images, the same in both protocols.

    Args:
        protocol: "strict" or "published".
        changes: fields of the augmentation, e.g. `crop=320`.
    """
    check_protocol(protocol)
    return _dataset("train", augmentation=replace(AUGMENTATION, **changes))


def val(protocol: str = "strict") -> SegmentationDataset:
    """Validation images, the same in both protocols."""
    check_protocol(protocol)
    return _dataset("val")


def test() -> SegmentationDataset:
    """Test images, where there is a folder `images/test`; else the validation images."""
    return _dataset("test")


def _dataset(split: str, augmentation: Augmentation | None = None) -> SegmentationDataset:
    return SegmentationDataset(SPEC, partial(_split, split), read_mask=read_colour_mask, augmentation=augmentation)


def _split(split: str) -> list[Pair]:
    folder = data_root() / "dubai"
    if split == "test" and not (folder / "images" / "test").is_dir():
        split = "val"
    made_by = "Put the photographs there with tools/prepare_data.py dubai."
    return match(folder / "images" / split, folder / "masks" / split, made_by)


FACTS = DatasetFacts(spec=SPEC, val=val, test=test, d4=Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5)))
