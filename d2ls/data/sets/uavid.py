"""UAVid: oblique frames from a drone, 3840 or 4096 x 2160 px; trained on 1024 px patches, tested in windows."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import read_colour_mask
from d2ls.data.pairs import Pair, match
from d2ls.data.root import data_root
from d2ls.data.sets import isprs, landcoverai, layout
from d2ls.data.sets.facts import Server, Splits, Views
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

SPEC = DatasetSpec(
    name="uavid",
    classes=("Building", "Road", "Tree", "LowVeg", "Moving_Car", "Static_Car", "Human", "Clutter"),
    colours=(
        *((128, 0, 0), (128, 64, 128), (0, 128, 0), (128, 128, 0)),
        *((64, 0, 128), (192, 0, 192), (64, 64, 0), (0, 0, 0)),
    ),
    ignore_index=255,
    ignore_colours=((255, 255, 255),),
    citation="Lyu et al., UAVid: A semantic segmentation dataset for UAV imagery, 2020.",
)
AUGMENTATION = Augmentation(mosaic=0.25, flip=0.5, brightness_contrast=0.25, sharpen=0.5)
FRAME_SIZES = ((2160, 3840), (2160, 4096))
_ORIGINAL = re.compile(
    r"(?:.*/)?(?i:(uavid_train|uavid_val|uavid_test)(?:\.zip)?)/(?:.*/)?(seq\d+/(?:Images|Labels)/[^/]+(?i:\.png))"
)
CANVAS = (2048, 4096)  # frames are padded at the left to this width, and their lowest rows kept, before they are cut


def test(folder: Path | str | None = None, *, spec: DatasetSpec = SPEC) -> SegmentationDataset:
    """Whole frames `seqN/Images`, named `seqN/<stem>`, with masks where there is a folder `seqN/Labels`.

    The folder holds the folders seqN; None: the originals `uavid_test`. Frames that are not UAVid's have another spec.
    """
    return SegmentationDataset(spec, partial(_frames, folder), read_mask=read_colour_mask)


def tiles(folder: Path) -> list[layout.OriginalTile]:
    """Labelled frames of `seqN/{Images,Labels}` in the order of their names (raises DataError: none, or no label)."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder that holds the sequences seqN/Images.")
    hint = "Frames are split together with their labels; UAVid's test frames have none and stay whole."
    return [
        layout.OriginalTile(f"{sequence.name}_{pair.name}", pair.image, pair.mask)
        for sequence in _sequences(folder, "Expected uavid_train, uavid_val or uavid_train_val.")
        for pair in match(sequence / "Images", sequence / "Labels", hint)
        if pair.mask is not None
    ]


def tiling(**options: Any) -> layout.Tiling:
    """Settings of the patches."""
    return layout.Tiling(spec=SPEC, canvas=CANVAS, suffix=".png", **options)


def _pairs(home: Path, split: str, protocol: str) -> list[Pair]:
    """Patches of train and val; "published" trains on train_val, which holds the validation images, too."""
    folder = home / ("train_val" if (split, protocol) == ("train", "published") else split)
    return match(folder / "images", folder / "masks", "Make the patches with tools/uavid_patch_split.py.")


def _frames(folder: Path | str | None) -> list[Pair]:
    folder = data_root() / "uavid" / "uavid_test" if folder is None else Path(folder)
    made_by = "Unpack UAVid's archive with tools/prepare_data.py uavid."
    pairs: list[Pair] = []
    for sequence in _sequences(folder, made_by):
        labels = sequence / "Labels"
        for pair in match(sequence / "Images", labels if labels.is_dir() else None, made_by):
            pairs.append(replace(pair, name=f"{sequence.name}/{pair.name}"))
    return pairs


def _sequences(folder: Path, hint: str) -> list[Path]:
    found = sorted(images.parent for images in folder.glob("*/Images"))
    if not found:
        raise DataError(f"{folder}: no folders seqN/Images in it. {hint}")
    return found


def _target(path: PurePosixPath) -> PurePosixPath | None:
    """`uavid_{train,val,test}/seqN/{Images,Labels}/<name>.png`, wherever it begins."""
    found = _ORIGINAL.fullmatch(path.as_posix())
    return PurePosixPath("uavid", found[1].lower(), found[2]) if found else None


def _steps(home: Path) -> list[layout.Step]:
    """Patches of train and val, `train_val` of both, and `uavid_train_val` of the frames of both."""
    side, made, splits = (layout.PATCH_SIDE,) * 2, list[layout.Step](), ("train", "val")
    for split in splits:
        how = tiling(images=home / split / "images", masks=home / split / "masks", size=side, stride=side)
        frames = home / f"uavid_{split}"
        made.append(layout.SplitStep(f"uavid/{split}", (frames,), (how.images, how.masks), partial(tiles, frames), how))
    patches = {
        home / "train_val" / kind: tuple(home / split / kind for split in splits) for kind in ("images", "masks")
    }
    originals = {home / "uavid_train_val": tuple(home / f"uavid_{split}" for split in splits)}
    return [*made, layout.merge("uavid/train_val", patches), layout.merge("uavid/uavid_train_val", originals)]


def _folders(home: Path) -> list[layout.ImageFolder]:
    made = []
    for split in ("train", "val", "train_val"):
        family = None if split == "train_val" else "patches"
        made.append(
            layout.ImageFolder(split, home / split / "images", (layout.MaskFolder(home / split / "masks"),), family)
        )
    for split in ("uavid_train", "uavid_val", "uavid_test"):
        for sequence in sorted((home / split).glob("*")):
            masks = layout.MaskFolder(sequence / "Labels", coloured=True, optional=split == "uavid_test")
            made.append(layout.ImageFolder(split, sequence / "Images", (masks,), "originals"))
    return made


_SPLITS = Splits(SPEC, "uavid", _pairs, AUGMENTATION)
train, val = _SPLITS.train, _SPLITS.val
FACTS = _SPLITS.facts(
    test=test,
    d4=Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5, 1.75)),
    folders=_folders,
    downloads="uavid_v1.5_official_release_image.zip (folders uavid_train/seq1/Images)",
    plan=layout.plan_by_path(_target, ("Images", "Labels"), unlabelled="uavid_test"),
    steps=_steps,
    server=Server(  # masks in colours, in the folders of their frames
        SPEC,
        {
            f"seq{sequence}/Labels/{frame:06d}.png": FRAME_SIZES
            for sequence in (*range(21, 31), *range(38, 43))
            for frame in range(0, 1000, 100)
        },
        coloured=True,
        official=150,
        folder="uavid/uavid_test",
    ),
    frame_specs={"uavid": SPEC, "pv": isprs.spec("potsdam"), "landcoverai": landcoverai.SPEC},
)
