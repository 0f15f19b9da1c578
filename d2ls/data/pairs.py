"""Images and their masks, matched by name."""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from d2ls.data.io import SUFFIXES, read_kind
from d2ls.errors import DataError

OTHER_SUFFIXES = (
    *(".avif", ".dng", ".ecw", ".heic", ".heif", ".img", ".j2k", ".jpf", ".jpx", ".jxl", ".mat", ".nc", ".npy"),
    *(".npz", ".pbm", ".pgm", ".ppm", ".raw", ".sid", ".tga"),
)
"""Files that hold images, too, and are not read."""


@dataclass(frozen=True)
class Pair:
    """One image and, where it has one, its mask; `name` is unique in its data set."""

    image: Path
    mask: Path | None
    name: str


def list_images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by stem, sorted, without hidden ones (raises DataError: unreadable, two of one stem)."""
    found: dict[str, Path] = {}
    for path in _visible(folder):
        if path.suffix.lower() in SUFFIXES and (first := found.setdefault(path.stem, path)) is not path:
            raise DataError(f"{folder}: {first.name} and {path.name} share one name. Keep one of them.")
    return found


def left_out(folder: Path) -> str | None:
    """Images of other formats and sub-folders, which are not read, counted by kind; None where there are none."""
    kinds = Counter("sub-folder" if path.is_dir() else path.suffix.lower() for path in _visible(folder))
    counts = [f"{kinds[kind]} {kind}" for kind in (*OTHER_SUFFIXES, "sub-folder") if kinds[kind]]
    return f"{folder}: left out: {', '.join(counts)}" if counts else None


def match(images: Path, masks: Path | None, made_by: str) -> list[Pair]:
    """The pairs of two folders, in the order of their names; without masks where `masks` is None.

    `made_by` tells what makes the folders, in the text of the DataError that a missing folder, image or mask raises.
    """
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder}: no such folder. {made_by}")
    found, other = list_images(images), left_out(images)
    if not found:
        raise DataError(f"{images}: no images ({', '.join(SUFFIXES)}){f'; {other}' if other else ''}. {made_by}")
    for text in (other, left_out(masks) if masks else None):
        if text:
            warnings.warn(f"{text}. Only {', '.join(SUFFIXES)} in the folder itself are read.", stacklevel=2)
    if masks is None:
        return [Pair(path, None, stem) for stem, path in found.items()]
    partners = list_images(masks)
    for here, there, what, partner in ((found, partners, "image", "mask"), (partners, found, "mask", "image")):
        if alone := [path for stem, path in here.items() if stem not in there]:
            raise DataError(
                f"{images if partner == 'image' else masks}: no {partner} for {len(alone)} of {len(here)} {what}s "
                f"(first: {alone[0].name}). Every {what} needs {'an' if partner == 'image' else 'a'} {partner} of the "
                f"same stem. {made_by} Or move these {what}s away."
            )
    return [Pair(path, partners[stem], stem) for stem, path in found.items()]


def unique_names(pairs: Iterable[Pair], depth: int) -> list[Pair]:
    """The pairs; names that occur twice begin with the folder `depth` levels above the image, or are a DataError."""
    listed = list(pairs)
    counts = Counter(pair.name for pair in listed)
    named = [
        replace(pair, name=f"{pair.image.parents[depth].name}_{pair.name}") if counts[pair.name] > 1 else pair
        for pair in listed
    ]
    again = [name for name, count in Counter(pair.name for pair in named).items() if count > 1]
    if again:
        raise DataError(f"{named[0].image.parents[depth]}: {len(again)} image names occur twice (first: {again[0]}).")
    return named


def _visible(folder: Path) -> list[Path]:
    """Files and folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as problem:
        raise DataError(f"{folder}: cannot list this folder: {problem.strerror}.") from problem


def check_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Refuse, by a DataError, a mask of another size than its image (shapes that begin with height and width)."""
    if image[:2] != mask[:2]:
        advice = "Image and mask must have one size: make both again from the same original."
        photograph = pair.image.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
        if image[:2] == mask[1::-1] and photograph and (found := read_kind(pair.image).orientation) > 4:
            advice = (
                f"The photograph is stored lying down and is read upright (EXIF orientation {found}), as programs show "
                "it; the mask was made for the stored pixels. Rotate the mask, or make it again."
            )
        raise DataError(
            f"{pair.mask}: {mask[1]} x {mask[0]} pixels, but its image {pair.image.name} has {image[1]} x {image[0]}. "
            f"{advice}"
        )
