"""Where each downloaded file belongs: the folder layout and the official splits of the data sets."""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from d2ls.data.sets import isprs, potsdam, vaihingen
from d2ls.errors import DataError
from d2ls.preparation.sources import Entry

Target = PurePosixPath


@dataclass
class Plan:
    """Which file goes where, below the data root.

    Attributes:
        files: candidates for each target, the preferred one first.
        expected: targets that must be there in the end, whether among `files` or on the disk already.
        notes: what the user should know.
    """

    files: dict[Target, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    expected: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_vaihingen(entries: Iterable[Entry]) -> Plan:
    """Images, masks and eroded masks; the first two have the same names and are told apart by their pixels."""
    plan, home = Plan(), Target("vaihingen")
    named = [(entry, found) for entry in entries if (found := _VAIHINGEN.fullmatch(entry.path.name))]
    groups: dict[PurePosixPath, list[Entry]] = defaultdict(list)
    for entry, found in named:
        if not found["eroded"]:
            groups[entry.path.parent].append(entry)
    masks = {place for place, group in groups.items() if is_colour_mask(min(group, key=lambda entry: entry.size))}
    for entry, found in sorted(named, key=lambda item: "gts_for_participants" not in item[0].path.parts):
        tile = str(int(found["tile"]))
        split = "train" if tile in vaihingen.TRAIN_TILES else "test" if tile in vaihingen.TEST_TILES else None
        if split is None:
            plan.notes.append(f"{entry.path}: tile {tile} is in no official split, left out")
        elif found["eroded"]:
            if split == "test":
                name = f"top_mosaic_09cm_area{tile}_noBoundary.tif"
                plan.files[home / "test_masks_eroded" / name].append(entry)
        else:
            kind = "masks" if entry.path.parent in masks else "images"
            plan.files[home / f"{split}_{kind}" / f"top_mosaic_09cm_area{tile}.tif"].append(entry)
    names = ("top_mosaic_09cm_area{}.tif", "top_mosaic_09cm_area{}.tif", "top_mosaic_09cm_area{}_noBoundary.tif")
    plan.expected = _isprs_files(home, vaihingen.TRAIN_TILES, vaihingen.TEST_TILES, names)
    return plan


def plan_potsdam(entries: Iterable[Entry]) -> Plan:
    """RGB images, labels and eroded labels."""
    plan, home = Plan(), Target("potsdam")
    for entry in entries:
        if (found := _POTSDAM.fullmatch(entry.path.name)) is None:
            continue
        tile = "_".join(str(int(number)) for number in found["tile"].split("_"))
        kind = {"RGB": "images", "label": "masks", "label_noBoundary": "masks_eroded"}[found["kind"]]
        split = "train" if tile in potsdam.TRAIN_TILES else "test" if tile in potsdam.TEST_TILES else None
        if split is None:
            why = "its labels are faulty" if tile == potsdam.LEFT_OUT_TILE else "it is in no official split"
            plan.notes.append(f"{entry.path}: left out, {why}")
        elif split == "test" or kind != "masks_eroded":
            plan.files[home / f"{split}_{kind}" / f"top_potsdam_{tile}_{found['kind']}.tif"].append(entry)
    names = ("top_potsdam_{}_RGB.tif", "top_potsdam_{}_label.tif", "top_potsdam_{}_label_noBoundary.tif")
    plan.expected = _isprs_files(home, potsdam.TRAIN_TILES, potsdam.TEST_TILES, names)
    return plan


def plan_loveda(entries: Iterable[Entry]) -> Plan:
    """`{Train,Val,Test}/{Urban,Rural}/{images_png,masks_png}`, wherever it begins."""
    plan = Plan()
    for entry in entries:
        parts = entry.path.parts
        if len(parts) < 4 or not re.fullmatch(r"\d+\.png", parts[-1]):
            continue
        area, kind = parts[-3].capitalize(), parts[-2].lower()
        split = _last(parts[:-3], ("Train", "Val", "Test"))
        if split and area in ("Urban", "Rural") and kind in ("images_png", "masks_png"):
            plan.files[Target("LoveDA", split, area, kind, parts[-1])].append(entry)
    return plan


def plan_uavid(entries: Iterable[Entry]) -> Plan:
    """`uavid_{train,val,test}/seqN/{Images,Labels}`, wherever it begins."""
    plan = Plan()
    for entry in entries:
        parts = entry.path.parts
        if len(parts) < 4 or entry.path.suffix.lower() != ".png" or not re.fullmatch(r"seq\d+", parts[-3]):
            continue
        split = _last(parts[:-3], ("uavid_train", "uavid_val", "uavid_test"))
        if split and parts[-2] in ("Images", "Labels"):
            plan.files[Target("uavid", split, *parts[-3:])].append(entry)
    return plan


def plan_grass(entries: Iterable[Entry]) -> Plan:
    """`{img_dir,ann_dir}/{train,val}` of a folder named after grass."""
    return _plan_mmseg(entries, "grass", ("grass",), ("cloud", "l8", "biome"))


def plan_cloud(entries: Iterable[Entry]) -> Plan:
    """`{img_dir,ann_dir}/{train,val,test}` of a folder named after clouds or l8_biome."""
    return _plan_mmseg(entries, "cloud", ("cloud", "l8", "biome"), ("grass",))


def plan_dubai(entries: Iterable[Entry]) -> Plan:
    """`Tile N/{images,masks}/image_part_00P`: parts 1 to 6 train, 8 validates, 7 and 9 test; or folders split so."""
    plan, home = Plan(), Target("dubai")
    for entry in entries:
        parts = entry.path.parts
        if len(parts) < 3 or entry.path.suffix.lower() not in (".jpg", ".png"):
            continue
        tile, part = (
            re.fullmatch(r"Tile[ _]?(\d+)", parts[-3], re.I),
            re.fullmatch(r"image_part_(\d+)", entry.path.stem),
        )
        if tile and part and parts[-2] in ("images", "masks"):
            split = {7: "test", 8: "val", 9: "test"}.get(int(part[1]), "train")
            plan.files[home / parts[-2] / split / f"tile{tile[1]}_{parts[-1]}"].append(entry)
        elif parts[-3] in ("images", "masks") and parts[-2] in ("train", "val", "test"):
            plan.files[home.joinpath(*parts[-3:])].append(entry)
    return plan


PLANS: dict[str, Callable[[Iterable[Entry]], Plan]] = {
    "vaihingen": plan_vaihingen,
    "potsdam": plan_potsdam,
    "loveda": plan_loveda,
    "uavid": plan_uavid,
    "grass": plan_grass,
    "cloud": plan_cloud,
    "dubai": plan_dubai,
}
WANTED = {
    "vaihingen": "ISPRS_semantic_labeling_Vaihingen.zip and its _ground_truth_COMPLETE.zip and "
    "_ground_truth_eroded_COMPLETE.zip (files top_mosaic_09cm_areaN.tif)",
    "potsdam": "2_Ortho_RGB.zip, 5_Labels_all.zip and 5_Labels_all_noBoundary.zip (files top_potsdam_R_C_RGB.tif)",
    "loveda": "Train.zip, Val.zip and Test.zip (folders Train/Urban/images_png)",
    "uavid": "uavid_v1.5_official_release_image.zip (folders uavid_train/seq1/Images)",
    "grass": "the folder grass (folders img_dir/train and ann_dir/train)",
    "cloud": "the folder l8_biome (folders img_dir/train and ann_dir/train)",
    "dubai": "the archive with the folders 'Tile 1' to 'Tile 8' (files images/image_part_001.jpg)",
}
_VAIHINGEN = re.compile(r"top_mosaic_09cm_area(?P<tile>\d+)(?P<eroded>_noBoundary)?\.tif", re.I)
_POTSDAM = re.compile(r"top_potsdam_(?P<tile>\d+_\d+)_(?P<kind>RGB|label|label_noBoundary)\.tif")


def is_colour_mask(entry: Entry) -> bool:
    """Whether an image has no other colours than the ISPRS labels.

    Raises:
        DataError: it cannot be decoded.
    """
    with entry.open() as file:
        try:
            pixels = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
        except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as problem:
            raise DataError(f"{entry.path}: cannot be decoded, the file is damaged: {problem}.") from problem
    rows = pixels[:: max(1, len(pixels) // 64)].reshape(-1, 3)
    known = set(isprs.spec("vaihingen").colours) | {(255, 204, 0), (0, 0, 0)}
    return {tuple(int(value) for value in colour) for colour in np.unique(rows, axis=0)} <= known


def _isprs_files(home: Target, train: Iterable[str], test: Iterable[str], names: tuple[str, str, str]) -> list[Target]:
    """The files that both ISPRS sets need: images and masks of all tiles, eroded masks of test tiles."""
    image, mask, eroded = names
    kinds = [("train_images", image, train), ("train_masks", mask, train), ("test_images", image, test)]
    kinds += [("test_masks", mask, test), ("test_masks_eroded", eroded, test)]
    return [home / folder / name.format(tile) for folder, name, tiles in kinds for tile in tiles]


def _plan_mmseg(entries: Iterable[Entry], name: str, ours: tuple[str, ...], others: tuple[str, ...]) -> Plan:
    """Files of `<root>/{img_dir,ann_dir}/{train,val,test}`; of several roots the one that is named so."""
    roots: dict[PurePosixPath, list[Entry]] = defaultdict(list)
    for entry in entries:
        parts = entry.path.parts
        if len(parts) >= 3 and parts[-3] in ("img_dir", "ann_dir") and parts[-2] in ("train", "val", "test"):
            roots[PurePosixPath(*parts[:-3])].append(entry)
    named = [root for root in roots if any(word in root.as_posix().lower() for word in ours)]
    open_to_all = [root for root in roots if not any(word in root.as_posix().lower() for word in others)]
    plan = Plan()
    for root in named or open_to_all:
        for entry in roots[root]:
            plan.files[Target(name, *entry.path.parts[-3:])].append(entry)
    return plan


def _last(parts: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """The deepest folder or archive that has one of the names."""
    for part in reversed(parts):
        for name in names:
            if part.lower().removesuffix(".zip") == name.lower():
                return name
    return None
