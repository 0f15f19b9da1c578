"""Which folders of a prepared data set hold which images and which of their masks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from d2ls.data.sets import cloud, dubai, grass, loveda, potsdam, uavid, vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.preparation.originals import ERODED, Naming

Kind = Literal["index", "colours", "loveda"]
SPECS: dict[str, DatasetSpec] = {
    module.SPEC.name: module.SPEC for module in (vaihingen, potsdam, loveda, uavid, grass, cloud, dubai)
}


@dataclass(frozen=True)
class Masks:
    """A folder of masks; `ending` is what their names have after the common stem."""

    folder: Path
    kind: Kind = "index"
    ending: str = ""

    def fits(self, stem: str) -> bool:
        """Whether a file of this stem is one of them: eroded labels may lie among the others."""
        return stem.endswith(self.ending) and (bool(self.ending) or not stem.endswith(ERODED))


@dataclass(frozen=True)
class Place:
    """A folder of images and the folders of their masks.

    Attributes:
        split: for the user; places of one split are counted together.
        family: images of different splits of one family must differ; None for unions of splits.
        ending: what the images' names have after the common stem.
    """

    split: str
    images: Path
    masks: tuple[Masks, ...] = ()
    family: str | None = "images"
    ending: str = ""


def places(name: str, root: Path) -> list[Place]:
    """The folders of a data set that are there; masks whose folder is missing altogether are left out."""
    makers: dict[str, Callable[[Path], list[Place]]] = {
        "vaihingen": lambda home: _isprs(home, Naming.vaihingen(eroded=False), Naming.vaihingen(eroded=True)),
        "potsdam": _potsdam,
        "loveda": _loveda,
        "uavid": _uavid,
    }
    if name in makers:
        found = makers[name](root / ("LoveDA" if name == "loveda" else name))
    elif name == "dubai":
        home = root / name
        found = [
            Place(split, home / "images" / split, (Masks(home / "masks" / split, "colours"),))
            for split in ("train", "val", "test")
        ]
    else:
        home = root / name
        found = [
            Place(split, home / "img_dir" / split, (Masks(home / "ann_dir" / split),))
            for split in ("train", "val", "test")
        ]
    return [place for place in found if place.images.is_dir()]


def check_apart(path: Path, found: list[Place]) -> None:
    """Refuse a file that would lie among the images or masks of a data set, and count as one of them.

    Raises:
        ConfigError: names the file.
    """
    if path.absolute().parent.resolve() in {
        folder.resolve() for place in found for folder in (place.images, *(masks.folder for masks in place.masks))
    }:
        raise ConfigError(f"{path}: this folder is part of the data set; choose another one.")


def _potsdam(home: Path) -> list[Place]:
    """With RGB images, or with infrared ones where there are no others."""
    rgb = any(home.glob("*_images/*_RGB.*")) or not any(home.glob("*_images/*_IRRG.*"))
    return _isprs(home, Naming.potsdam(rgb=rgb, eroded=False), Naming.potsdam(rgb=rgb, eroded=True))


def _isprs(home: Path, full: Naming, eroded: Naming) -> list[Place]:
    made = []
    for split in ("train", "test"):
        masks = [Masks(home / f"{split}_masks", "colours", full.mask)]
        patches = [Masks(home / split / "masks_1024")]
        if (home / f"{split}_masks_eroded").is_dir():
            masks.append(Masks(home / f"{split}_masks_eroded", "colours", eroded.mask))
        if (home / split / "masks_1024_rgb").is_dir():
            patches.append(Masks(home / split / "masks_1024_rgb", "colours"))
        made.append(Place(f"{split} originals", home / f"{split}_images", tuple(masks), "originals", full.image))
        made.append(Place(split, home / split / "images_1024", tuple(patches), "patches"))
    return made


def _loveda(home: Path) -> list[Place]:
    made = []
    for split in ("Train", "Val", "train_val", "Test"):
        for area in loveda.AREAS:
            place = home / split / area
            masks = [Masks(place / "masks_png", "loveda")] if split != "Test" else []
            if (place / "masks_png_convert").is_dir():
                masks.insert(0, Masks(place / "masks_png_convert"))
                masks = [mask for mask in masks if mask.folder.is_dir()]
            family = None if split == "train_val" else "images"
            made.append(Place(split, place / "images_png", tuple(masks), family))
    return made


def _uavid(home: Path) -> list[Place]:
    made = []
    for split in ("train", "val", "train_val"):
        family = None if split == "train_val" else "patches"
        made.append(Place(split, home / split / "images", (Masks(home / split / "masks"),), family))
    for split in ("uavid_train", "uavid_val", "uavid_test"):
        for sequence in sorted((home / split).glob("*")):
            labels = Masks(sequence / "Labels", "colours")
            masks = (labels,) if split != "uavid_test" or labels.folder.is_dir() else ()
            made.append(Place(split, sequence / "Images", masks, "originals"))
    return made
