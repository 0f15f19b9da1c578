"""ISPRS Vaihingen: near infrared, red and green at 9 cm; 1024 px patches of 33 tiles."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets import isprs
from d2ls.data.sets.facts import DatasetFacts, Views

SPEC = isprs.spec("vaihingen")
TEST_TILES = ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38")
TRAIN_TILES = ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "32", "34", "37", "30")
VALIDATION_TILE = "30"
AUGMENTATION = Augmentation(
    crop=512, scales=(0.5, 0.75, 1, 1.25, 1.5), smart_crop=0.5, mosaic=0.25, rot90=0.5, flip=0.5
)


def train(protocol: str = "strict", *, folder: str = "vaihingen", **changes: Any) -> SegmentationDataset:
    """Training patches.

    Args:
        protocol: "strict" leaves out tile 30, "published" takes all.
        folder: name below the data root of a folder in Vaihingen's layout.
        changes: fields of the augmentation, e.g. `crop=320`.
    """
    return patches(folder).train(protocol, replace(AUGMENTATION, **changes))


def val(protocol: str = "strict", *, folder: str = "vaihingen") -> SegmentationDataset:
    """Validation patches: tile 30's (protocol "strict") or the test patches ("published")."""
    return patches(folder).val(protocol)


def test(*, folder: str = "vaihingen") -> SegmentationDataset:
    """Test patches."""
    return patches(folder).test()


def patches(folder: str, prepare: Callable[[], object] | None = None) -> isprs.Patches:
    """All splits of a folder in Vaihingen's layout; arguments as those of `isprs.Patches`."""
    return isprs.Patches(SPEC, folder, r"area(?P<tile>\d+)_(?P<variant>\d+)_\d+(_\d+)?$", VALIDATION_TILE, prepare)


FACTS = DatasetFacts(
    spec=SPEC, val=val, test=test, d4=Views(hflip=True, vflip=True, rot90=True, scales=(0.5, 0.75, 1.0, 1.25, 1.5))
)
