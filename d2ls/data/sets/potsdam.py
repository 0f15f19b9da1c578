"""ISPRS Potsdam: RGB at 5 cm; 1024 px patches of 38 tiles, 7_10 left out for its faulty labels."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.sets import isprs
from d2ls.data.sets.facts import Views
from d2ls.data.sets.layout import ImageFolder, Plan, Tiling

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
_STEM = "top_potsdam_"
OFF_PALETTE = {
    f"{_STEM}4_12": "a lossy re-encoding with thousands of colours",
    f"{_STEM}6_7": "most cars are (252, 255, 0)",
}
"""Tiles whose official label colours are not the published ones."""
_ORIGINAL = re.compile(rf"{_STEM}(?P<tile>\d+_\d+)_(?P<kind>RGB|label|label{isprs.ERODED})\.tif")


def naming(*, rgb: bool, eroded: bool) -> isprs.Naming:
    """Names of the originals: `top_potsdam_2_10_RGB.tif` or `..._IRRG.tif`, `..._label.tif` or `..._noBoundary.tif`."""
    return isprs.Naming("_RGB" if rgb else "_IRRG", f"_label{isprs.ERODED}" if eroded else "_label")


def tiling(*, training: bool, **options: Any) -> Tiling:
    """Settings of the patches, the same for training and test tiles."""
    del training
    return Tiling(spec=SPEC, off_palette=OFF_PALETTE, faulty=(f"{_STEM}{LEFT_OUT_TILE}",), **options)


def _folders(home: Path) -> list[ImageFolder]:
    """With RGB images, or with infrared ones where there are no others."""
    rgb = any(home.glob("*_images/*_RGB.*")) or not any(home.glob("*_images/*_IRRG.*"))
    names = naming(rgb=rgb, eroded=False), naming(rgb=rgb, eroded=True)
    return isprs.folders(home, names, off_palette=OFF_PALETTE)


def _plan(paths: Sequence[PurePosixPath], _: Callable[[PurePosixPath], bytes]) -> Plan:
    kinds = {"RGB": "images", "label": "masks", f"label{isprs.ERODED}": "masks_eroded"}
    named = [(path, found) for path in paths if (found := _ORIGINAL.fullmatch(path.name))]
    originals = ((path, name["tile"], kinds[name["kind"]]) for path, name in named)
    splits = {"train": TRAIN_TILES, "test": TEST_TILES}
    return isprs.plan(SPEC, _STEM, splits, _NAMES, originals, {LEFT_OUT_TILE: "its labels are faulty"})


_NAMES = naming(rgb=True, eroded=False), naming(rgb=True, eroded=True)
_PATCHES = r"potsdam_(?P<tile>\d+_\d+)_(?P<variant>\d+)_\d+(_\d+)?$"
_SPLITS = isprs.patches(SPEC, "potsdam", _PATCHES, VALIDATION_TILE, AUGMENTATION)
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
FACTS = _SPLITS.facts(
    d4=Views(hflip=True, vflip=True, scales=(0.75, 1.0, 1.25, 1.5)),
    folders=_folders,
    downloads="2_Ortho_RGB.zip, 5_Labels_all.zip and 5_Labels_all_noBoundary.zip (files top_potsdam_R_C_RGB.tif)",
    plan=_plan,
    steps=partial(isprs.steps, tiling=tiling, names=_NAMES, overlap=False),
)
