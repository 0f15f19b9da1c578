"""UAVid: oblique frames from a drone, 3840 or 4096 x 2160; trained on 1024 px patches."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import read_colour_mask
from d2ls.data.pairs import Pair, match
from d2ls.data.root import check_protocol, data_root
from d2ls.data.sets import isprs, landcoverai
from d2ls.data.sets.facts import DatasetFacts, Server, Views
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


def train(protocol: str = "strict", **changes: Any) -> SegmentationDataset:
    """Training patches: of train (protocol "strict") or of train_val ("published").

    Args:
        protocol: "strict" or "published".
        changes: fields of the augmentation, e.g. `crop=512`.
    """
    check_protocol(protocol)
    split = "train_val" if protocol == "published" else "train"
    return SegmentationDataset(SPEC, partial(_patches, split), augmentation=replace(AUGMENTATION, **changes))


def val(protocol: str = "strict") -> SegmentationDataset:
    """Validation patches, val; protocol "published" has trained on them."""
    check_protocol(protocol)
    return SegmentationDataset(SPEC, partial(_patches, "val"))


def test(folder: Path | str | None = None, *, spec: DatasetSpec = SPEC) -> SegmentationDataset:
    """Whole frames `seqN/Images`, named `seqN/<stem>`, with masks where there is a folder `seqN/Labels`.

    Args:
        folder: holds the folders seqN; the originals `uavid_test` where None.
        spec: other classes and colours, for frames that are not UAVid's.
    """
    return SegmentationDataset(spec, partial(_frames, folder), read_mask=read_colour_mask)


def _patches(split: str) -> list[Pair]:
    folder = data_root() / "uavid" / split
    return match(folder / "images", folder / "masks", "Make the patches with tools/uavid_patch_split.py.")


def _frames(folder: Path | str | None) -> list[Pair]:
    top = data_root() / "uavid" / "uavid_test" if folder is None else Path(folder)
    made_by = "Unpack UAVid's archive with tools/prepare_data.py uavid."
    sequences = sorted(images.parent for images in top.glob("*/Images"))
    if not sequences:
        raise DataError(f"{top}: no folders seqN/Images. {made_by}")
    pairs: list[Pair] = []
    for sequence in sequences:
        labels = sequence / "Labels"
        for pair in match(sequence / "Images", labels if labels.is_dir() else None, made_by):
            pairs.append(replace(pair, name=f"{sequence.name}/{pair.name}"))
    return pairs


FACTS = DatasetFacts(
    spec=SPEC,
    val=val,
    test=test,
    d4=Views(hflip=True, scales=(0.75, 1.0, 1.25, 1.5, 1.75)),
    server=Server(  # masks in colours, beside their frames
        SPEC,
        {
            f"seq{sequence}/Labels/{frame:06d}.png": ((2160, 3840), (2160, 4096))
            for sequence in (*range(21, 31), *range(38, 43))
            for frame in range(0, 1000, 100)
        },
        coloured=True,
        official=150,
        folder="uavid/uavid_test",
    ),
    frame_specs={"uavid": SPEC, "pv": isprs.spec("potsdam"), "landcoverai": landcoverai.SPEC},
)
