"""Grass: five degrees of vegetation cover in 256 px satellite images; tested on the validation images."""

from d2ls.data.sets import ktda
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
_SPLITS = ktda.splits(SPEC, test="val")
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
FACTS = ktda.facts(
    _SPLITS,
    words=("grass",),
    others=("cloud", "l8", "biome"),
    downloads="the folder grass (folders img_dir/train and ann_dir/train)",
)
