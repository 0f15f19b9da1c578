"""ISPRS Vaihingen: near infrared, red and green at 9 cm; 1024 px patches of 33 tiles."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.sets import isprs
from d2ls.data.sets.facts import DatasetFacts, Views
from d2ls.data.sets.layout import ImageFolder, Plan, Step, Tiling
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

SPEC = isprs.spec("vaihingen")
TEST_TILES = ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38")
TRAIN_TILES = ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "32", "34", "37", "30")
VALIDATION_TILE = "30"
AUGMENTATION = Augmentation(
    crop=512, scales=(0.5, 0.75, 1, 1.25, 1.5), smart_crop=0.5, mosaic=0.25, rot90=0.5, flip=0.5
)
_STEM = "top_mosaic_09cm_area"
_ORIGINAL = re.compile(rf"{_STEM}(?P<tile>\d+)(?P<eroded>{isprs.ERODED})?\.tif", re.I)


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


def patches(folder: str, prepare: Callable[[], object] | None = None, labels: DatasetSpec = SPEC) -> isprs.Patches:
    """All splits of a folder in Vaihingen's layout; arguments as those of `isprs.Patches`."""
    return isprs.Patches(labels, folder, r"area(?P<tile>\d+)_(?P<variant>\d+)_\d+(_\d+)?$", VALIDATION_TILE, prepare)


def naming(*, eroded: bool) -> isprs.Naming:
    """Names of the originals: `top_mosaic_09cm_area1.tif` for both, eroded labels `..._noBoundary.tif`."""
    return isprs.Naming("", isprs.ERODED if eroded else "")


def tiling(*, training: bool, **options: Any) -> Tiling:
    """Settings of the patches; in training, crops with many cars replace their patch."""
    return Tiling(spec=SPEC, oversample_class=SPEC.classes.index("Car") if training else None, **options)


def _steps(home: Path) -> list[Step]:
    return isprs.steps(home, tiling, lambda eroded: naming(eroded=eroded), overlap=True)


def _folders(home: Path) -> list[ImageFolder]:
    return isprs.folders(home, naming(eroded=False), naming(eroded=True))


def _plan(paths: Sequence[PurePosixPath], read: Callable[[PurePosixPath], bytes]) -> Plan:
    """Images, masks and eroded masks; the first two have the same names and are told apart by their pixels."""
    plan, home = Plan(preferred="gts_for_participants"), PurePosixPath("vaihingen")
    named = [(path, found) for path in paths if (found := _ORIGINAL.fullmatch(path.name))]
    first: dict[PurePosixPath, PurePosixPath] = {}
    for path, found in named:
        if not found["eroded"]:
            first.setdefault(path.parent, path)
    masks = {folder for folder, path in first.items() if _is_colour_mask(read(path), path)}
    for path, found in sorted(named, key=lambda item: plan.preferred not in item[0].parts):
        tile = isprs.without_zeros(found["tile"])
        split = "train" if tile in TRAIN_TILES else "test" if tile in TEST_TILES else None
        if split is None:
            plan.notes.append(f"{path}: tile {tile} is in no official split, left out")
        elif not found["eroded"]:
            kind = "masks" if path.parent in masks else "images"
            plan.files[home / f"{split}_{kind}" / f"{_STEM}{tile}.tif"].append(path)
        elif split == "test":
            plan.files[home / "test_masks_eroded" / f"{_STEM}{tile}{isprs.ERODED}.tif"].append(path)
    plan.expected = isprs.expected(home, TRAIN_TILES, TEST_TILES, _STEM, naming(eroded=False), isprs.ERODED)
    return plan


def _is_colour_mask(data: bytes, path: PurePosixPath) -> bool:
    """Whether an encoded image has no other colours than the ISPRS labels (judged by some 64 rows)."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as problem:
        raise DataError(f"{path}: cannot be decoded, the file is damaged: {problem}.") from problem
    rows = pixels[:: max(1, len(pixels) // 64)].reshape(-1, 3)
    known = {*SPEC.colours, *SPEC.also_read, *SPEC.ignore_colours}
    return {tuple(int(value) for value in colour) for colour in np.unique(rows, axis=0)} <= known


FACTS = DatasetFacts(
    spec=SPEC,
    val=val,
    test=test,
    d4=Views(hflip=True, vflip=True, rot90=True, scales=(0.5, 0.75, 1.0, 1.25, 1.5)),
    home="vaihingen",
    folders=_folders,
    downloads="ISPRS_semantic_labeling_Vaihingen.zip and its _ground_truth_COMPLETE.zip and "
    "_ground_truth_eroded_COMPLETE.zip (files top_mosaic_09cm_areaN.tif)",
    plan=_plan,
    steps=_steps,
)
