"""The demo: drawn aerial scenes in Vaihingen's layout and classes, made at first use in `demo` below the data root."""

from dataclasses import replace
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets import vaihingen
from d2ls.synthetic.prepare import FOLDER, prepare_demo

SPEC = replace(vaihingen.SPEC, name="demo", citation="Drawn scenes in the classes of ISPRS Vaihingen.")
AUGMENTATION = Augmentation(crop=256, smart_crop=0.75, rot90=0.5, flip=0.5)


def train(protocol: str = "strict", **changes: Any) -> SegmentationDataset:
    """Training scenes; "strict" leaves out those of tile 30.

    Args:
        protocol: "strict" or "published".
        changes: fields of the augmentation.
    """
    return _PATCHES.train(protocol, replace(AUGMENTATION, **changes))


def val(protocol: str = "strict") -> SegmentationDataset:
    """Validation scenes: tile 30's (protocol "strict") or the test scenes ("published")."""
    return _PATCHES.val(protocol)


def test() -> SegmentationDataset:
    """Test scenes, of tiles that training never sees."""
    return _PATCHES.test()


_PATCHES = vaihingen.patches(FOLDER, prepare_demo, SPEC)
