"""The demo: drawn aerial scenes in Vaihingen's layout and classes, made at first use in `demo` below the data root."""

from dataclasses import replace

from d2ls.data.augment import Augmentation
from d2ls.data.sets import vaihingen
from d2ls.synthetic.prepare import FOLDER, prepare_demo

SPEC = replace(vaihingen.SPEC, name="demo", citation="Drawn scenes in the classes of ISPRS Vaihingen.")
AUGMENTATION = Augmentation(crop=256, smart_crop=0.75, rot90=0.5, flip=0.5)
_SPLITS = vaihingen.patches(SPEC, FOLDER, augmentation=AUGMENTATION, prepare=prepare_demo)
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
