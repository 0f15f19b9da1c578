"""Colour masks to index masks and back, through one table over all 24-bit colours."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.spec import Colour, DatasetSpec
from d2ls.errors import DataError

Mask = NDArray[np.uint8]
_BLOCK = 1 << 20  # pixels converted at a time: the wide intermediate codes stay small


def read_index_mask(path: Path, spec: DatasetSpec) -> Mask:
    """Read a mask whose pixel values are class indices.

    Returns:
        Class indices and the ignore index, (H, W).

    Raises:
        DataError: the file cannot be read, or holds other values.
    """
    index = files.read_index(path)
    check_index(index, spec, path)
    return index


def read_colour_mask(path: Path, spec: DatasetSpec) -> Mask:
    """Read a mask whose pixels are the colours of classes.

    Returns:
        Class indices and the ignore index, (H, W).

    Raises:
        DataError: the file cannot be read, or holds a colour of no class.
    """
    return colours_to_index(files.read_colours(path), spec, path=path)


def colours_to_index(
    rgb: Mask, spec: DatasetSpec, *, path: Path | str, unknown: Literal["error", "ignore"] = "error"
) -> Mask:
    """Class index of each pixel's colour.

    Args:
        rgb: colour mask, (H, W, 3).
        spec: the colours and what they mean.
        path: the file, for the error's text.
        unknown: "error" refuses colours of no class, "ignore" reads them as the ignore index.

    Returns:
        Class indices and the ignore index, (H, W).

    Raises:
        DataError: colours of no class; names them and their pixel counts.
    """
    table, unknown_value = _table(spec)
    index = np.empty(rgb.shape[:2], np.uint8)
    rows = max(1, _BLOCK // max(1, rgb.shape[1]))
    for top in range(0, len(rgb), rows):
        np.take(table, _codes(rgb[top : top + rows]), out=index[top : top + rows], mode="clip")
    strange = index == unknown_value
    if strange.any():
        if unknown == "error":
            raise DataError(_unknown_colours(rgb[strange], spec, path))
        index[strange] = spec.ignore_index
    return index


def index_to_colours(index: Mask, spec: DatasetSpec, legend: Literal["official", "reference"] = "official") -> Mask:
    """Colour of each pixel's class; ignore is black.

    Args:
        index: class indices and the ignore index, (H, W).
        spec: the colours.
        legend: "reference" takes the reference implementation's colours where they differ.

    Returns:
        RGB, (H, W, 3).

    Raises:
        DataError: a value that is neither a class nor the ignore index.
    """
    check_index(index, spec, "a mask to be coloured")
    palette = np.zeros((256, 3), np.uint8)
    palette[: spec.num_classes] = (legend == "reference" and spec.reference_colours) or spec.colours
    colours: Mask = np.take(palette, index, axis=0)
    return colours


def check_index(index: Mask, spec: DatasetSpec, path: Path | str) -> None:
    """Refuse values that are neither a class nor the ignore index.

    Raises:
        DataError: names the file, the values and their pixel counts.
    """
    allowed = np.zeros(256, bool)
    allowed[: spec.num_classes] = allowed[spec.ignore_index] = True
    if allowed[: int(index.max(initial=0)) + 1].all():
        return
    counts = np.bincount(index.ravel(), minlength=256)
    if wrong := [value for value in np.flatnonzero(counts).tolist() if not allowed[value]]:
        found = _some([f"{value} ({counts[value]} pixels)" for value in wrong])
        raise DataError(
            f"{path}: values {found} are no class of {spec.name}. Expected 0 to {spec.num_classes - 1}, or "
            f"{spec.ignore_index} for ignore. Is this an index mask of another data set, or one still to be converted?"
        )


@lru_cache(maxsize=4)
def _table(spec: DatasetSpec) -> tuple[Mask, int]:
    """Index by colour code (2^24), and the value that stands for colours of no class."""
    unknown_value = next(value for value in range(spec.num_classes, 256) if value != spec.ignore_index)
    table = np.full(1 << 24, unknown_value, np.uint8)
    meanings = [*zip(spec.colours, range(spec.num_classes), strict=True), *spec.also_read.items()]
    meanings += [(colour, spec.ignore_index) for colour in spec.ignore_colours]
    for colour, index in meanings:
        table[_code(colour)] = index
    table.flags.writeable = False
    return table, unknown_value


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _codes(rgb: Mask) -> NDArray[np.intp]:
    """Each pixel's colour as one number below 2^24."""
    codes = rgb[..., 0].astype(np.intp)
    for channel in (1, 2):
        codes <<= 8
        codes |= rgb[..., channel]
    return codes


def _unknown_colours(pixels: Mask, spec: DatasetSpec, path: Path | str) -> str:
    """What to tell of pixels (n, 3) whose colours are of no class."""
    codes, counts = np.unique(_codes(pixels), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = [f"({codes[i] >> 16}, {codes[i] >> 8 & 255}, {codes[i] & 255}) ({counts[i]} pixels)" for i in order]
    known = ", ".join(f"{name} {colour}" for name, colour in zip(spec.classes, spec.colours, strict=True))
    return (
        f"{path}: {len(found)} colours that are no class of {spec.name}: {_some(found)}; {len(pixels)} pixels in all. "
        f"Expected {known}. Was the mask scaled, or saved as JPEG? Use the original, or have unknown colours ignored."
    )


def _some(items: list[str], most: int = 5) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
