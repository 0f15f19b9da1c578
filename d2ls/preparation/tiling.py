"""One tile to training patches: grid, padding, flipped variants, crops around a rare class."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2ls.data import io as files
from d2ls.data.labels import colours_to_index, count_values, index_to_colours
from d2ls.data.pairs import Pair, check_sizes
from d2ls.data.sets.layout import OriginalTile, Size, Tiling
from d2ls.errors import DataError

Pixels = NDArray[np.uint8]
ORIGINALS = "origin"  # folder of whole colour masks, beside the patches of --gt
OVERSAMPLE_ABOVE = 0.1  # share of the oversampled class that makes crops replace their patch
_FLIPS = (np.s_[:, :], np.s_[:, ::-1], np.s_[::-1, :])  # variants 0, 1 and 2: original, horizontal, vertical flip
_BLOCK = 512  # rows at a time


class GridCell(NamedTuple):
    """A full patch: its number among all grid positions, and its upper left corner."""

    number: int
    top: int
    left: int


@dataclass
class Summary:
    """Files written of one tile or of all."""

    written: list[str] = field(default_factory=list)  # names of the files, without suffix
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))  # of the masks, by value
    notes: list[str] = field(default_factory=list)  # what the user should know


def split(tile: OriginalTile, tiling: Tiling) -> Summary:
    """Cut one tile and write its patches; the result depends on the tile and the settings alone."""
    summary = Summary()
    image, mask = _read(tile, tiling, summary)
    if tiling.colours:
        whole = tiling.masks / ORIGINALS / f"{tile.stem}.tif"
        files.write_tiff(whole, index_to_colours(mask, tiling.spec, tiling.legend))
    if tiling.scale != 1:
        size = max(1, int(mask.shape[1] * tiling.scale)), max(1, int(mask.shape[0] * tiling.scale))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))  # antialiased
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    rows, columns = (-(-whole // side) * side for whole, side in zip(mask.shape, tiling.size, strict=True))
    canvas = tiling.canvas or (rows, columns)
    for variant, flip in enumerate(_FLIPS[: tiling.variants]):
        pixels, labels = image[flip], mask[flip]
        for cell in grid(canvas, tiling.size, tiling.stride):
            patch = cut(pixels, canvas, cell, tiling.size, 0)
            target = cut(labels, canvas, cell, tiling.size, tiling.spec.ignore_index)
            name = f"{tile.stem}_{variant}_{cell.number}"
            label = tiling.oversample_class
            crops = [] if label is None else oversample_class(patch, target, label, name)
            written = {f"{name}_{number}": crop for number, crop in enumerate(crops)} or {name: (patch, target)}
            for patch_name, pair in written.items():
                _write(patch_name, *pair, tiling, summary)
    return summary


def grid(canvas: Size, size: Size, stride: Size) -> Iterator[GridCell]:
    """The full patches of a canvas, row by row; every grid position is numbered, whether its patch is full or not."""
    corners = product(range(0, canvas[0], stride[0]), range(0, canvas[1], stride[1]))
    for number, (top, left) in enumerate(corners):
        if top + size[0] <= canvas[0] and left + size[1] <= canvas[1]:
            yield GridCell(number, top, left)


def cut(pixels: Pixels, canvas: Size, cell: GridCell, size: Size, fill: int) -> Pixels:
    """A patch of the canvas whose lower right corner is that of the pixels; the rest of it is `fill`.

    Pixels that are larger than the canvas lose their upper or left part. No padded copy of them is made.
    """
    top, left = (at + side - whole for at, side, whole in zip(cell[1:], pixels.shape, canvas, strict=False))
    part = pixels[max(top, 0) : max(top + size[0], 0), max(left, 0) : max(left + size[1], 0)]
    if part.shape[:2] == size:
        return part
    patch = np.full((*size, *pixels.shape[2:]), fill, np.uint8)
    patch[size[0] - part.shape[0] :, size[1] - part.shape[1] :] = part
    return patch


def oversample_class(image: Pixels, mask: Pixels, label: int, name: str) -> list[tuple[Pixels, Pixels]]:
    """A random crop of a patch, resized back, and three copies of it, where over 10 % of it are of the class `label`.

    The crop's side is 3/8 to 1/2 of the patch's. Resized bilinearly, the mask by nearest neighbour. The copies:
    vertical flip, horizontal flip, rotation by 90, 180 or 270 degrees. The name of the patch seeds the random numbers.
    Gives four pairs of image (H, W, 3) and mask (H, W) of the patch's size, or none.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    shape = mask.shape
    height = int(rng.integers(3 * shape[0] // 8, shape[0] // 2, endpoint=True))
    height, width = max(1, height), max(1, height * shape[1] // shape[0])
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(shape, (height, width), strict=True))
    turns = int(rng.integers(1, 4)) if shape[0] == shape[1] else 2
    crop = np.s_[top : top + height, left : left + width]
    rows, columns = (  # that hold the centres of the stretched pixels
        (2 * np.arange(side) + 1) * part // (2 * side) for side, part in zip(shape, (height, width), strict=True)
    )
    labels: Pixels = mask[crop][rows[:, None], columns]
    if np.count_nonzero(labels == label) <= OVERSAMPLE_ABOVE * labels.size:
        return []
    pixels = cv2.resize(np.ascontiguousarray(image[crop]), shape[::-1], interpolation=cv2.INTER_LINEAR)
    copies = [(array, array[::-1], array[:, ::-1], np.rot90(array, turns)) for array in (pixels, labels)]
    return list(zip(*copies, strict=True))


def threshold_colours(rgb: Pixels) -> tuple[int, int]:
    """Threshold each channel of a colour mask (H, W, 3) at 128, in place, for colours of channels 0 or 255.

    Gives the number of pixels that are changed, and of those that become a colour of no ISPRS class.
    """
    changed = unknown = 0
    for top in range(0, len(rgb), _BLOCK):
        rows = rgb[top : top + _BLOCK]
        flat = (rows >= 128) * np.uint8(255)
        changed += int(np.any(rows != flat, axis=2).sum())
        black = ~flat.any(axis=2) & rows.any(axis=2)
        mixed = flat[..., 0] & flat[..., 2] & ~flat[..., 1]
        unknown += int(black.sum() + (mixed > 0).sum())
        rows[...] = flat
    return changed, unknown


def _read(tile: OriginalTile, tiling: Tiling, summary: Summary) -> tuple[Pixels, Pixels]:
    """RGB and class indices; the mask first, whose colours are freed before the image is read."""
    rgb, unknown = files.read_colours(tile.mask), tiling.unknown
    if reason := tiling.off_palette.get(tile.stem):
        changed, lost = threshold_colours(rgb)
        unknown = "ignore"
        summary.notes.append(
            f"{tile.mask.name}: official labels off their palette ({reason}); colours read by threshold, {changed} "
            f"pixels changed, {lost} of no class read as ignore"
        )
    mask = colours_to_index(rgb, tiling.spec, path=tile.mask, unknown=unknown)
    del rgb
    image = files.read_image(tile.image)
    check_sizes(Pair(tile.image, tile.mask, tile.stem), image.shape, mask.shape)
    if tiling.canvas and mask.shape[1] > tiling.canvas[1]:
        raise DataError(f"{tile.image}: {mask.shape[1]} pixels wide, expected at most {tiling.canvas[1]}.")
    return image, mask


def _write(name: str, image: Pixels, mask: Pixels, tiling: Tiling, summary: Summary) -> None:
    mask = np.ascontiguousarray(mask)
    labels = index_to_colours(mask, tiling.spec, tiling.legend) if tiling.colours else mask
    path = tiling.images / f"{name}{tiling.suffix}"
    if tiling.suffix == ".tif":
        files.write_tiff(path, image)
    else:
        files.write_png(path, np.ascontiguousarray(image))
    files.write_png(tiling.masks / f"{name}.png", labels)
    summary.written.append(name)
    summary.pixels += count_values(mask)
