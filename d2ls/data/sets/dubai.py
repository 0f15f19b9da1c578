"""Dubai: 72 aerial photographs in 8 tiles of very different scale, sizes 509 x 544 to 2149 x 1480 px."""

import re
from pathlib import Path, PurePosixPath

from d2ls.data.augment import Augmentation
from d2ls.data.labels import read_colour_mask
from d2ls.data.pairs import Pair, match
from d2ls.data.sets.facts import Splits
from d2ls.data.sets.layout import ImageFolder, MaskFolder, plan_by_path
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
SPLITS = ("train", "val", "test")
PART_SPLITS = {7: "test", 8: "val", 9: "test"}  # split of each part of a tile; parts 1 to 6 are for training


def _pairs(home: Path, split: str, _: str) -> list[Pair]:
    """The same in both protocols; tests take the validation images where there is no folder `images/test`."""
    if split == "test" and not (home / "images" / "test").is_dir():
        split = "val"
    made_by = "Put the photographs there with tools/prepare_data.py dubai."
    return match(home / "images" / split, home / "masks" / split, made_by)


def _folders(home: Path) -> list[ImageFolder]:
    return [
        ImageFolder(split, home / "images" / split, (MaskFolder(home / "masks" / split, coloured=True),))
        for split in SPLITS
    ]


def _target(path: PurePosixPath) -> PurePosixPath | None:
    """`Tile N/{images,masks}/image_part_00P` as published, or `{images,masks}/<split>` as prepared."""
    parts = path.parts
    if len(parts) < 3 or path.suffix.lower() not in (".jpg", ".png"):
        return None
    tile = re.fullmatch(r"Tile[ _]?(\d+)", parts[-3], re.I)
    part = re.fullmatch(r"image_part_(\d+)", path.stem)
    if tile and part and parts[-2] in ("images", "masks"):
        split = PART_SPLITS.get(int(part[1]), "train")
        return PurePosixPath("dubai", parts[-2], split, f"tile{tile[1]}_{parts[-1]}")
    if parts[-3] in ("images", "masks") and parts[-2] in SPLITS:
        return PurePosixPath("dubai", *parts[-3:])
    return None


_SPLITS = Splits(SPEC, "dubai", _pairs, AUGMENTATION, read_colour_mask)
train, val, test = _SPLITS.train, _SPLITS.val, _SPLITS.test
FACTS = _SPLITS.facts(
    folders=_folders,
    downloads="the archive with the folders 'Tile 1' to 'Tile 8' (files images/image_part_001.jpg)",
    plan=plan_by_path(_target, ("images", "masks")),
)
