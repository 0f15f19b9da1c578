"""Training crops out of one image or a mosaic of four, of which only what is kept is read.

Scale and crop are chosen first, by the masks, which are cheap; then the images are read where the crop lies, and only
that part is resized. The result is that of joining whole images, resizing them (bicubic; mask nearest) and cropping.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.data.augment import Augmentation
from d2ls.data.pairs import Pair, check_sizes
from d2ls.errors import DataError

Pixels = NDArray[Any]  # uint8 RGB, or float32 of any bands with NaN where there are no data
Mask = NDArray[np.uint8]
_CONTEXT = 4  # source pixels beside a window on which its bicubic values may depend


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def common(self, other: "Box") -> "Box | None":
        """Intersection, or None."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Box(top, left, bottom, right) if top < bottom and left < right else None

    def moved(self, down: int, right: int) -> "Box":
        """The same box elsewhere."""
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def of(self, pixels: Pixels) -> Pixels:
        """The box's part of an array (a view)."""
        return pixels[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Tile:
    """Part of an image of `size` that fills a box of the mosaic; (down, right) leads from the file to the mosaic."""

    pair: Pair
    size: tuple[int, int]
    box: Box
    down: int
    right: int


@dataclass
class Mosaic:
    """One or four tiles in a picture of `shape`; what none of them fills has no data and is ignored.

    Of `dataset`, a `SegmentationDataset`, it uses `spec`, `pairs`, `read_size`, `read_pixels` and `read_mask`.
    """

    dataset: Any
    shape: tuple[int, int]
    tiles: Sequence[Tile]
    _masks: dict[Tile, Mask] = field(default_factory=dict)

    @classmethod
    def random(cls, dataset: Any, index: int, augmentation: Augmentation, rng: np.random.Generator) -> "Mosaic":
        """The image `index` alone or, with probability `mosaic`, with three random ones (in GeoSeg's order)."""
        pair = dataset.pairs[index]
        height, width = shape = dataset.read_size(pair)
        if rng.random() >= augmentation.mosaic:
            return cls(dataset, shape, [Tile(pair, shape, Box(0, 0, height, width), 0, 0)])
        down = int(rng.integers(height // 4, 3 * height // 4, endpoint=True))
        right = int(rng.integers(width // 4, 3 * width // 4, endpoint=True))
        boxes = [
            Box(top, left, bottom, end)
            for top, bottom in ((0, down), (down, height))
            for left, end in ((0, right), (right, width))
        ]
        chosen = [pair, *(dataset.pairs[other] for other in rng.integers(len(dataset.pairs), size=3))]
        filled = [(pair, box) for pair, box in zip(chosen, boxes, strict=True) if min(box.shape)]
        return cls(dataset, shape, [_random_tile(dataset, pair, box, rng) for pair, box in filled])

    def sample(self, augmentation: Augmentation, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """Scale and crop: an image (H, W, bands) and its mask (H, W), of the crop's size or the mosaic's."""
        if augmentation.crop is None:
            whole = Box(0, 0, *self.shape)
            return self._image(whole), self._mask(whole)
        scale = augmentation.random_scale(rng)
        height, width = (max(1, round(side * scale)) for side in self.shape)
        crop, mask = self._choose(augmentation, (height, width), scale, rng)
        image = self._scaled_image(crop, scale)
        missing = [(0, augmentation.crop - side) for side in mask.shape]  # of an image smaller than the crop
        if any(after for _, after in missing):
            image = np.pad(image, (*missing, (0, 0)), constant_values=0 if image.dtype == np.uint8 else np.nan)
            mask = np.pad(mask, missing, constant_values=self.dataset.spec.ignore_index)
        return image, mask

    def _choose(
        self, augmentation: Augmentation, scaled: tuple[int, int], scale: Fraction, rng: np.random.Generator
    ) -> tuple[Box, Mask]:
        """A crop of the scaled mosaic and its mask: the first that is mixed enough, else the last one tried."""
        limit, ignore_index = augmentation.smart_crop, self.dataset.spec.ignore_index
        height, width = (min(augmentation.crop or side, side) for side in scaled)
        for _ in range(augmentation.tries):
            top, left = (int(rng.integers(side - part + 1)) for side, part in zip(scaled, (height, width), strict=True))
            crop = Box(top, left, top + height, left + width)
            mask = self._scaled_mask(crop, scale)
            if limit is None or is_mixed(mask, ignore_index, limit):
                break
        return crop, mask

    def _scaled_mask(self, crop: Box, scale: Fraction) -> Mask:
        """Nearest neighbour: each pixel of the crop takes the source pixel in which its centre lies."""
        if scale == 1:
            return self._mask(crop)
        rows = _nearest(crop.top, crop.bottom, scale, self.shape[0])
        columns = _nearest(crop.left, crop.right, scale, self.shape[1])
        source = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        nearest: Mask = np.take(np.take(self._mask(source), rows - rows[0], 0), columns - columns[0], 1)
        return nearest

    def _scaled_image(self, crop: Box, scale: Fraction) -> Pixels:
        """Bicubic, as OpenCV resizes the whole: the window begins where source and target grids meet."""
        if scale == 1:
            return self._image(crop)
        (top, bottom), (left, right) = (
            _window(begin, end, scale, side)
            for begin, end, side in zip((crop.top, crop.left), (crop.bottom, crop.right), self.shape, strict=True)
        )
        source = self._image(Box(top, left, bottom, right))
        below, beside = (-side % scale.denominator for side in source.shape[:2])
        if below or beside:  # the mosaic ends between two points where the grids meet
            source = cv2.copyMakeBorder(source, 0, below, 0, beside, cv2.BORDER_REPLICATE)
        resized = cv2.resize(source, None, fx=float(scale), fy=float(scale), interpolation=cv2.INTER_CUBIC)
        down, over = int(top * scale), int(left * scale)  # exact: both are multiples of the denominator
        part: Pixels = crop.moved(-down, -over).of(resized)
        return part.reshape(*crop.shape, -1)  # OpenCV drops the axis of a single band

    def _image(self, box: Box) -> Pixels:
        spec = self.dataset.spec
        nothing, dtype = (0, np.uint8) if spec.is_rgb8 else (np.nan, np.float32)
        return self._join(box, self._read, (len(spec.bands),), nothing, dtype)

    def _mask(self, box: Box) -> Mask:
        return self._join(box, self._labels, (), self.dataset.spec.ignore_index, np.uint8)

    def _join(
        self, box: Box, read: Callable[[Tile, Box], Pixels], axes: tuple[int, ...], nothing: float, dtype: type
    ) -> Pixels:
        """The parts of the tiles that lie in a box of the mosaic."""
        parts = [(tile, part) for tile in self.tiles if (part := tile.box.common(box))]
        if len(parts) == 1 and parts[0][1] == box:
            return read(*parts[0])
        pixels: Pixels = np.full((*box.shape, *axes), nothing, dtype)
        for tile, part in parts:
            part.moved(-box.top, -box.left).of(pixels)[...] = read(tile, part)
        return pixels

    def _read(self, tile: Tile, part: Box) -> Pixels:
        source = part.moved(-tile.down, -tile.right)
        pixels: Pixels = self.dataset.read_pixels(tile.pair, (source.top, source.left, *source.shape))
        return pixels

    def _labels(self, tile: Tile, part: Box) -> Mask:
        if tile not in self._masks:  # a file is read once
            mask = self.dataset.read_mask(tile.pair)
            if mask is None:
                raise DataError(f"{tile.pair.image}: no mask. Training needs one for each image.")
            check_sizes(tile.pair, tile.size, mask.shape)
            self._masks[tile] = mask
        return part.moved(-tile.down, -tile.right).of(self._masks[tile])


def is_mixed(mask: Mask, ignore_index: int, limit: float) -> bool:
    """Whether two classes or more are present, and none has `limit` or more of the non-ignored pixels."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).reshape(256)
    counts[ignore_index] = 0
    total = counts.sum(dtype=np.float64)
    return bool(np.count_nonzero(counts) > 1 and counts.max() < limit * total)


def _random_tile(dataset: Any, pair: Pair, box: Box, rng: np.random.Generator) -> Tile:
    """A random crop of an image that fills a box of a mosaic; a smaller image leaves its right or lower part empty."""
    size = dataset.read_size(pair)
    height, width = (min(part, side) for part, side in zip(box.shape, size, strict=True))
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(size, (height, width), strict=True))
    return Tile(pair, size, Box(box.top, box.left, box.top + height, box.left + width), box.top - top, box.left - left)


def _nearest(begin: int, end: int, scale: Fraction, side: int) -> NDArray[np.intp]:
    """Source pixels in which the centres of scaled pixels `begin` to `end` lie."""
    centres = 2 * np.arange(begin, end) + 1  # in half scaled pixels
    return np.minimum(centres * scale.denominator // (2 * scale.numerator), side - 1)


def _window(begin: int, end: int, scale: Fraction, side: int) -> tuple[int, int]:
    """Source pixels, from a multiple of the denominator on, on which scaled pixels `begin` to `end` depend."""
    step = scale.denominator
    first = max(0, int(begin / scale) - _CONTEXT) // step * step
    last = min(side, -(-int(end / scale + _CONTEXT) // step) * step)
    return first, last
