"""ISPRS Potsdam: RGB at 5 cm; 1024 px patches of 38 tiles, 7_10 left out for its faulty labels."""

from dataclasses import replace
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets import isprs
from d2ls.data.sets.facts import DatasetFacts, Views

SPEC = isprs.spec("potsdam")
TEST_TILES = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
    *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
)
TRAIN_TILES = (
    *("2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12"),
    *("6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_11", "7_12"),
)
VALIDATION_TILE = "2_10"
LEFT_OUT_TILE = "7_10"
AUGMENTATION = Augmentation(crop=768, scales=(0.75, 1, 1.25, 1.5), smart_crop=0.75, mosaic=0.25, rot90=0.25, flip=0.5)


def train(protocol: str = "strict", *, folder: str = "potsdam", **changes: Any) -> SegmentationDataset:
    """Training patches.

    Args:
        protocol: "strict" leaves out tile 2_10, "published" takes all.
        folder: name below the data root of a folder in Potsdam's layout.
        changes: fields of the augmentation, e.g. `crop=512`.
    """
    return _patches(folder).train(protocol, replace(AUGMENTATION, **changes))


def val(protocol: str = "strict", *, folder: str = "potsdam") -> SegmentationDataset:
    """Validation patches: tile 2_10's (protocol "strict") or the test patches ("published")."""
    return _patches(folder).val(protocol)


def test(*, folder: str = "potsdam") -> SegmentationDataset:
    """Test patches."""
    return _patches(folder).test()


def _patches(folder: str) -> isprs.Patches:
    name = r"potsdam_(?P<tile>\d+_\d+)_(?P<variant>\d+)_\d+(_\d+)?$"
    return isprs.Patches(SPEC, folder, name, VALIDATION_TILE)


FACTS = DatasetFacts(spec=SPEC, val=val, test=test, d4=Views(hflip=True, vflip=True, scales=(0.75, 1.0, 1.25, 1.5)))
