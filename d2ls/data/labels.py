"""Masks as class indices: from mask values or colours (one table over all 24-bit colours), and back to colours."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.spec import Colour, DatasetSpec
from d2ls.errors import DataError

Mask = NDArray[np.uint8]
_EXACT = 1 << 24  # pixels that OpenCV counts exactly: its counts are float32
_LISTED = 5  # values or colours that a message names
_BLOCK = 1 << 20  # pixels converted at a time: the wide intermediate codes stay small


def read_index_mask(path: Path, spec: DatasetSpec) -> Mask:
    """Read a mask of class indices, or of the values in `spec.values`, as class indices, (H, W) (raises DataError)."""
    return values_to_index(files.read_index(path), spec, path)


def read_colour_mask(path: Path, spec: DatasetSpec) -> Mask:
    """Read a mask whose pixels are the colours of classes, as class indices, (H, W) (raises DataError)."""
    return colours_to_index(files.read_colours(path), spec, path=path)


def colours_to_index(
    rgb: Mask, spec: DatasetSpec, *, path: Path | str, unknown: Literal["error", "ignore"] = "error"
) -> Mask:
    """Class indices and ignore index (H, W) of colours (H, W, 3); unknown ones are named by a DataError, or ignored."""
    table, unknown_value = _table(spec)
    index = np.empty(rgb.shape[:2], np.uint8)
    rows = max(1, _BLOCK // max(1, rgb.shape[1]))
    for top in range(0, len(rgb), rows):
        np.take(table, _codes(rgb[top : top + rows]), out=index[top : top + rows], mode="clip")
    unknown_pixels = index == unknown_value
    if unknown_pixels.any():
        if unknown == "error":
            raise DataError(_unknown_colours(rgb[unknown_pixels], spec, path))
        index[unknown_pixels] = spec.ignore_index
    return index


def index_to_colours(index: Mask, spec: DatasetSpec, legend: Literal["official", "reference"] = "official") -> Mask:
    """Colours, RGB (H, W, 3), of class indices (H, W), by a legend; ignore is black, other values are a DataError."""
    check_index(index, spec, "a mask to be coloured")
    palette = np.zeros((256, 3), np.uint8)
    palette[: spec.num_classes] = (legend == "reference" and spec.reference_colours) or spec.colours
    return np.take(palette, index, axis=0)


def values_to_index(raw: Mask, spec: DatasetSpec, path: Path | str) -> Mask:
    """Class index of each mask value (H, W) by `spec.values`, else the values (DataError: one without a meaning)."""
    if not spec.values:
        check_index(raw, spec, path)
        return raw
    allowed, table = np.zeros(256, bool), np.zeros(256, np.uint8)
    for value, name in spec.values.items():
        allowed[value] = True
        table[value] = spec.classes.index(name) if name in spec.classes else spec.ignore_index
    if found := _not_allowed(raw, allowed, f"not listed in `values` of {spec.name}"):
        known = ", ".join(f"{value} {name}" for value, name in spec.values.items())
        raise DataError(f"{path}: {found} Expected {known}.")
    return cv2.LUT(raw, table) if raw.size else raw


def count_values(mask: Mask) -> NDArray[np.int64]:
    """Number of pixels by value, (256,), of a mask (H, W)."""
    flat = mask.ravel()
    parts = (flat[at : at + _EXACT] for at in range(0, flat.size, _EXACT))
    counts = (cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64) for part in parts)
    return sum(counts, np.zeros(256, np.int64))


def count_colours(rgb: Mask, most: int | None = None) -> dict[Colour, int]:
    """Number of pixels by colour, of pixels (..., 3); the most frequent colours first."""
    codes, counts = np.unique(_codes(rgb), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return {
        (code >> 16, code >> 8 & 255, code & 255): count
        for code, count in zip(codes[order].tolist(), counts[order].tolist(), strict=True)
    }


def check_index(index: Mask, spec: DatasetSpec, path: Path | str) -> None:
    """Refuse values that are neither class nor ignore index, by a DataError with the file, the values, their shares."""
    allowed = np.zeros(256, bool)
    allowed[: spec.num_classes] = allowed[spec.ignore_index] = True
    if found := _not_allowed(index, allowed, f"no class of {spec.name}"):
        raise DataError(
            f"{path}: {found} Expected 0 to {spec.num_classes - 1}, or {spec.ignore_index} for ignore. Is this an "
            "index mask of another data set, or one still to be converted? Masks with values such as 0 and 255, or "
            "with labels from 1, are read with DatasetSpec(values={...})."
        )


def _not_allowed(index: Mask, allowed: NDArray[np.bool_], meaning: str) -> str | None:
    """Sentence on the values that are not allowed, their pixel counts and their share; None where there are none."""
    if allowed[: int(index.max(initial=0)) + 1].all():
        return None
    counts = np.bincount(index.ravel(), minlength=256)
    wrong = [value for value in np.flatnonzero(counts).tolist() if not allowed[value]]
    found = _some([f"{value} ({counts[value]} pixels)" for value in wrong])
    return f"values {found} are {meaning}, {counts[wrong].sum() / index.size:.2%} of the mask." if wrong else None


@lru_cache(maxsize=4)
def _table(spec: DatasetSpec) -> tuple[Mask, int]:
    """Index by colour code (2^24), and the value that stands for colours of no class."""
    unknown_value = next(value for value in range(spec.num_classes, 256) if value != spec.ignore_index)
    table = np.full(1 << 24, unknown_value, np.uint8)
    meanings = {**dict(zip(spec.colours, range(spec.num_classes), strict=True)), **spec.also_read}
    meanings |= dict.fromkeys(spec.ignore_colours, spec.ignore_index)
    table[_codes(np.array([*meanings]))] = [*meanings.values()]
    table.flags.writeable = False
    return table, unknown_value


def _codes(rgb: NDArray[Any]) -> NDArray[np.intp]:
    """Each colour as one number below 2^24."""
    codes = rgb[..., 0].astype(np.intp)
    for channel in (1, 2):
        codes <<= 8
        codes |= rgb[..., channel]
    return codes


def _unknown_colours(pixels: Mask, spec: DatasetSpec, path: Path | str) -> str:
    found = [f"{colour} ({count} pixels)" for colour, count in count_colours(pixels).items()]
    known = ", ".join(f"{name} {colour}" for name, colour in zip(spec.classes, spec.colours, strict=True))
    return (
        f"{path}: {len(found)} colours that are no class of {spec.name}: {_some(found)}; {len(pixels)} pixels in all. "
        f"Expected {known}. Was the mask scaled, or saved as JPEG? Use the original, or have unknown colours ignored."
    )


def _some(items: list[str]) -> str:
    return ", ".join(items[:_LISTED]) + (f" and {len(items) - _LISTED} more" if len(items) > _LISTED else "")
