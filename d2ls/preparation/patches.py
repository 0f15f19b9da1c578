"""Big tiles to training patches: where they lie, what they are called, and which variants are made."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2ls.data import io as files
from d2ls.data.labels import colours_to_index, index_to_colours
from d2ls.data.pairs import Pair, check_sizes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError, DataError
from d2ls.preparation.originals import Original
from d2ls.preparation.palette import flat_colours

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
ORIGINALS = "origin"  # folder of whole colour masks, beside the patches of --gt
_CROWDED = 0.1  # share of Car pixels that makes a crop replace its patch
_FLIPS = (np.s_[:, :], np.s_[:, ::-1], np.s_[::-1, :])  # variants 0, 1 and 2: original, horizontal, vertical flip


class Window(NamedTuple):
    """A full patch: its number among all grid positions, and its upper left corner."""

    number: int
    top: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How tiles are cut, and where the patches go.

    Attributes:
        spec: what the labels mean.
        images, masks: folders of the patches; `masks` also holds the folder `origin` of a run with `colours`.
        size, stride: of the grid, (rows, columns) in pixels.
        variants: 1, or 3 for horizontal and vertical flips as well.
        scale: image and mask are resized by it first.
        canvas: fixed (rows, columns) to cut from, instead of the next multiple of the size.
        crowds: the class around whose crowds crops are taken, or None.
        colours: write colour masks instead of indices.
        legend: which colours.
        unknown: what colours of no class do: an error, or read as ignore.
        suffix: format of the image patches.

    Raises:
        ConfigError: a size, stride or scale that cannot be meant.
    """

    spec: DatasetSpec
    images: Path
    masks: Path
    size: Size
    stride: Size
    variants: Literal[1, 3] = 1
    scale: float = 1.0
    canvas: Size | None = None
    crowds: int | None = None
    colours: bool = False
    legend: Literal["official", "reference"] = "official"
    unknown: Literal["error", "ignore"] = "error"
    suffix: Literal[".tif", ".png"] = ".tif"

    def __post_init__(self) -> None:
        for name, values in (("split size", self.size), ("stride", self.stride)):
            if min(values) < 1:
                raise ConfigError(f"{name} is {min(values)}; expected pixels, 1 or more.")
        if self.images.resolve() == self.masks.resolve():
            raise ConfigError(f"{self.images}: images and masks of one name need two folders; give two different ones.")
        if not 1 / 64 <= self.scale <= 64:
            raise ConfigError(f"val-scale is {self.scale}; expected a factor from 1/64 to 64.")


@dataclass
class Report:
    """What became of one original, or of all.

    Attributes:
        written: names of the patches.
        pixels: number of mask pixels by value, (256,).
        notes: what the user should know.
    """

    written: list[str] = field(default_factory=list)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Take the figures of another report in."""
        self.written += other.written
        self.pixels += other.pixels
        self.notes += other.notes


def split(original: Original, cutting: Cutting) -> Report:
    """Cut one tile and write its patches; the result depends on the tile and the settings alone.

    Raises:
        DataError: image or mask cannot be read or do not fit each other, or a patch cannot be written.
    """
    report = Report()
    image, mask = _read(original, cutting, report)
    if cutting.colours:
        colours = index_to_colours(mask, cutting.spec, cutting.legend)
        files.write_tiff(cutting.masks / ORIGINALS / f"{original.stem}.tif", colours)
        del colours
    if cutting.scale != 1:
        image, mask = _rescale(image, mask, cutting.scale)
    canvas = cutting.canvas or _next_multiple(mask.shape, cutting.size)
    for variant in range(cutting.variants):
        pixels, labels = image[_FLIPS[variant]], mask[_FLIPS[variant]]
        for window in windows(canvas, cutting.size, cutting.stride):
            patch = cut(pixels, canvas, window, cutting.size, 0)
            target = cut(labels, canvas, window, cutting.size, cutting.spec.ignore_index)
            name = f"{original.stem}_{variant}_{window.number}"
            crops = [] if cutting.crowds is None else crowd_crops(patch, target, cutting.crowds, name)
            for number, (patch_crop, target_crop) in enumerate(crops):
                _write(f"{name}_{number}", patch_crop, target_crop, cutting, report)
            if not crops:
                _write(name, patch, target, cutting, report)
    return report


def windows(canvas: Size, size: Size, stride: Size) -> Iterator[Window]:
    """The full patches of a canvas, row by row; every grid position counts, whether its patch is full or not."""
    corners = product(range(0, canvas[0], stride[0]), range(0, canvas[1], stride[1]))
    for number, (top, left) in enumerate(corners):
        if top + size[0] <= canvas[0] and left + size[1] <= canvas[1]:
            yield Window(number, top, left)


def cut(pixels: Pixels, canvas: Size, window: Window, size: Size, fill: int) -> Pixels:
    """A patch of the canvas at whose lower right corner the pixels lie; what they leave empty is `fill`.

    Pixels that are larger than the canvas lose their upper or left part. No padded copy of them is made.
    """
    top, left = (at + side - whole for at, side, whole in zip(window[1:], pixels.shape, canvas, strict=False))
    part = pixels[max(top, 0) : max(top + size[0], 0), max(left, 0) : max(left + size[1], 0)]
    if part.shape[:2] == size:
        return part
    patch = np.full((*size, *pixels.shape[2:]), fill, np.uint8)
    patch[size[0] - part.shape[0] :, size[1] - part.shape[1] :] = part
    return patch


def crowd_crops(image: Pixels, mask: Pixels, label: int, name: str) -> list[tuple[Pixels, Pixels]]:
    """A random crop, resized back, and three turned copies of it, where it is crowded with a class; else nothing.

    The crop's side is 3/8 to 1/2 of the patch's; crowded is a share above 10 % of all its pixels. Resized bilinearly,
    the mask by nearest neighbour. The copies: vertical flip, horizontal flip, a turn by 90, 180 or 270 degrees.

    Args:
        image: RGB, (H, W, 3).
        mask: class indices, (H, W).
        label: the class.
        name: of the patch; decides what is drawn.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    shape = mask.shape
    height = int(rng.integers(3 * shape[0] // 8, shape[0] // 2, endpoint=True))
    height, width = max(1, height), max(1, height * shape[1] // shape[0])
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(shape, (height, width), strict=True))
    turns = int(rng.integers(1, 4)) if shape[0] == shape[1] else 2
    crop = np.s_[top : top + height, left : left + width]
    rows, columns = (_centres(side, part) for side, part in zip(shape, (height, width), strict=True))
    labels: Pixels = mask[crop][rows[:, None], columns]
    if np.count_nonzero(labels == label) <= _CROWDED * labels.size:
        return []
    pixels = cv2.resize(np.ascontiguousarray(image[crop]), shape[::-1], interpolation=cv2.INTER_LINEAR)
    copies = [(array, array[::-1], array[:, ::-1], np.rot90(array, turns)) for array in (pixels, labels)]
    return list(zip(*copies, strict=True))


def _read(original: Original, cutting: Cutting, report: Report) -> tuple[Pixels, Pixels]:
    """RGB and class indices of a tile; the mask first, whose colours are gone before the image comes."""
    rgb = files.read_colours(original.mask)
    unknown, note = cutting.unknown, flat_colours(original, rgb, cutting.spec)
    if note:
        report.notes.append(note)
        unknown = "ignore"
    mask = colours_to_index(rgb, cutting.spec, path=original.mask, unknown=unknown)
    del rgb
    image = files.read_image(original.image)
    check_sizes(Pair(original.image, original.mask, original.stem), image.shape, mask.shape)
    if cutting.canvas and mask.shape[1] > cutting.canvas[1]:
        raise DataError(
            f"{original.image}: {mask.shape[1]} pixels wide, expected at most {cutting.canvas[1]} (3840 or 4096)."
        )
    return image, mask


def _rescale(image: Pixels, mask: Pixels, scale: float) -> tuple[Pixels, Pixels]:
    """Both resized by a factor, sides rounded down: bilinear (averaging where it shrinks), the mask nearest."""
    height, width = (max(1, int(side * scale)) for side in mask.shape)
    resized = [
        np.asarray(Image.fromarray(array).resize((width, height), kind))
        for array, kind in ((image, Image.Resampling.BILINEAR), (mask, Image.Resampling.NEAREST))
    ]
    return resized[0], resized[1]


def _centres(side: int, part: int) -> NDArray[np.intp]:
    """Source pixels in which the centres of `side` pixels lie that are stretched over `part`."""
    return (2 * np.arange(side) + 1) * part // (2 * side)


def _next_multiple(shape: tuple[int, ...], size: Size) -> Size:
    return -(-shape[0] // size[0]) * size[0], -(-shape[1] // size[1]) * size[1]


def _write(name: str, image: Pixels, mask: Pixels, cutting: Cutting, report: Report) -> None:
    mask = np.ascontiguousarray(mask)
    labels = index_to_colours(mask, cutting.spec, cutting.legend) if cutting.colours else mask
    path = cutting.images / f"{name}{cutting.suffix}"
    if cutting.suffix == ".tif":
        files.write_tiff(path, image)
    else:
        files.write_png(path, np.ascontiguousarray(image))
    files.write_png(cutting.masks / f"{name}.png", labels)
    report.written.append(name)
    report.pixels += cv2.calcHist([mask], [0], None, [256], [0, 256]).reshape(256).astype(np.int64)
