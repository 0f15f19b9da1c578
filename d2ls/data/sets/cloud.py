"""Cloud: clouds and their shadows in Landsat-8 patches (bands 4, 3 and 2 as RGB)."""

from d2ls.data.sets import ktda
from d2ls.data.spec import DatasetSpec

SPEC = DatasetSpec(
    name="cloud",
    classes=("Clear", "Cloud Shadow", "Thin Cloud", "Cloud"),
    colours=((79, 253, 199), (221, 53, 223), (251, 255, 41), (77, 2, 115)),
    ignore_index=255,
    ignore_colours=((0, 0, 0),),
    citation="Foga et al., Cloud detection algorithm comparison and validation for Landsat (L8 Biome), 2017.",
)
AUGMENTATION = ktda.AUGMENTATION
_SPLITS = ktda.splits(SPEC)
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
FACTS = ktda.facts(
    _SPLITS,
    words=("cloud", "l8", "biome"),
    others=("grass",),
    downloads="the folder l8_biome (folders img_dir/train and ann_dir/train)",
)
