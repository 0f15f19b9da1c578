"""Which original images and masks of a folder belong together, by the names that the data sets give them."""

from dataclasses import dataclass
from pathlib import Path

from d2ls.data.pairs import SUFFIXES, list_images, match
from d2ls.errors import DataError

ERODED = "_noBoundary"  # end of the names of ISPRS labels with black boundaries


@dataclass(frozen=True)
class Original:
    """An original image and its colour mask; `stem` begins the names of its patches."""

    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Naming:
    """What follows the common stem in the names of an image and of its mask."""

    image: str
    mask: str

    @classmethod
    def vaihingen(cls, *, eroded: bool) -> "Naming":
        """`top_mosaic_09cm_area1.tif` and the same name, or `..._noBoundary.tif`."""
        return cls("", ERODED if eroded else "")

    @classmethod
    def potsdam(cls, *, rgb: bool, eroded: bool) -> "Naming":
        """`top_potsdam_2_10_RGB.tif` or `..._IRRG.tif`, and `..._label.tif` or `..._label_noBoundary.tif`."""
        return cls("_RGB" if rgb else "_IRRG", f"_label{ERODED}" if eroded else "_label")


def pair_tiles(images: Path, masks: Path, naming: Naming) -> list[Original]:
    """Tiles of two folders in the order of their names.

    Raises:
        DataError: a folder is missing or has no files of these names, or a file has no partner.
    """
    found, partners = _named(images, naming.image, "images"), _named(masks, naming.mask, "masks")
    for here, there, folder, what, other, ending in (
        (found, partners, images, "image", "mask", naming.mask),
        (partners, found, masks, "mask", "image", naming.image),
    ):
        if alone := [stem for stem in here if stem not in there]:
            where = masks if other == "mask" else images
            raise DataError(
                f"{folder}: no {other} for {len(alone)} of {len(here)} {what}s (first: {here[alone[0]].name}; expected "
                f"{alone[0]}{ending}.tif in {where}). Every tile needs both: complete the folders, or move these "
                f"{what}s away."
            )
    return [Original(stem, path, partners[stem]) for stem, path in found.items()]


def pair_frames(folder: Path) -> list[Original]:
    """Frames of the folders `seqN/{Images,Labels}` in the order of their names.

    Raises:
        DataError: the folder is missing or has no sequences, or a frame has no label.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder that holds the sequences seqN/Images.")
    sequences = sorted(images.parent for images in folder.glob("*/Images"))
    if not sequences:
        raise DataError(f"{folder}: no folders seqN/Images in it. Expected uavid_train, uavid_val or uavid_train_val.")
    hint = "Frames are split together with their labels; UAVid's test frames have none and stay whole."
    return [
        Original(f"{sequence.name}_{pair.name}", pair.image, pair.mask)
        for sequence in sequences
        for pair in match(sequence / "Images", sequence / "Labels", hint)
        if pair.mask is not None
    ]


def _named(folder: Path, ending: str, what: str) -> dict[str, Path]:
    """Files whose stem ends so, by the stem before it."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Expected the folder with the original {what}.")
    everything = list_images(folder)
    found = {
        stem.removesuffix(ending): path
        for stem, path in everything.items()
        if stem.endswith(ending) and (ending or not stem.endswith(ERODED))
    }
    if found:
        return found
    wanted = f"names end in {ending}" if ending else f"names do not end in {ERODED}"
    there = f"{len(everything)} other images there, first: {next(iter(everything.values())).name}" if everything else (
        "no images there at all"
    )  # fmt: skip
    raise DataError(
        f"{folder}: no {what} ({', '.join(SUFFIXES)}) whose {wanted}; {there}. Give the folder of the originals, and "
        "choose among them with --eroded (labels) and, for Potsdam, --rgb-image."
    )
