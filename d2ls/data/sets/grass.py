"""Grass: five degrees of vegetation cover in 256 px satellite images."""

from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets import ktda
from d2ls.data.sets.facts import DatasetFacts
from d2ls.data.spec import DatasetSpec

SPEC = DatasetSpec(
    name="grass",
    classes=("low", "middle-low", "middle", "middle-high", "high"),
    colours=((185, 101, 71), (248, 202, 155), (211, 232, 158), (138, 191, 104), (92, 144, 77)),
    ignore_index=255,
    ignore_colours=((0, 0, 0),),
    citation="Grass cover set of KTDA (Knowledge Transfer and Domain Adaptation), 2024.",
)
AUGMENTATION = ktda.AUGMENTATION
_SPLITS = ktda.Splits(SPEC)
train, val = _SPLITS.train, _SPLITS.val


def test() -> SegmentationDataset:
    """Test images: the set has no split of its own for them, so the validation images."""
    return _SPLITS.evaluation("val")


FACTS = DatasetFacts(spec=SPEC, val=val, test=test, d4=ktda.D4)
