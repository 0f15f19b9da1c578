"""Picture and mask that are painted together, so that a drawn label is exact; texture and camera come last."""

from collections.abc import Sequence
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
RGB = tuple[float, float, float]

_SHIFT = 4  # drawing coordinates are integers of 1/16 pixel
_SUBPIXELS = 1 << _SHIFT
_SKY_LIGHT = np.array([0.60, 0.54, 0.45], dtype=np.float32)  # how much of R, G, B a full shadow takes away


class Label(IntEnum):
    """Class indices of the drawn mask: those of Vaihingen and Potsdam."""

    IM_SURF = 0
    BUILDING = 1
    LOW_VEG = 2
    TREE = 3
    CAR = 4
    CLUTTER = 5


class Material(IntEnum):
    """What a surface is made of: decides its texture, not its label."""

    ASPHALT = 0
    PAVING = 1
    LAWN = 2
    SOIL = 3
    TILES = 4
    GRAVEL = 5
    SMOOTH = 6
    CROWN = 7
    WATER = 8


# Relative strength of pixel grain, of 3 px clumps, of 12 px patches and of slow change, one row per material.
_TEXTURE = np.array(
    [
        [0.045, 0.02, 0.03, 0.05],
        [0.05, 0.03, 0.03, 0.04],
        [0.06, 0.05, 0.07, 0.11],
        [0.07, 0.07, 0.08, 0.10],
        [0.05, 0.05, 0.03, 0.03],
        [0.08, 0.04, 0.04, 0.05],
        [0.02, 0.01, 0.02, 0.03],
        [0.11, 0.15, 0.05, 0.06],
        [0.015, 0.01, 0.02, 0.04],
    ],
    dtype=np.float32,
)
# How slow change moves R, G, B: lawns dry out to yellow, the rest keeps its hue.
_TINT = np.ones((len(Material), 3), dtype=np.float32)
_TINT[Material.LAWN] = (1.4, 0.8, 0.9)
_TINT[Material.SOIL] = (1.2, 1.0, 0.8)


def tone(colour: RGB, factor: float) -> RGB:
    """A colour made brighter or darker by a factor, clipped to 0..255."""
    red, green, blue = (min(max(value * factor, 0.0), 255.0) for value in colour)
    return red, green, blue


def _fixed(points: ArrayLike) -> NDArray[np.int32]:
    return np.rint(np.asarray(points, dtype=np.float64) * _SUBPIXELS).astype(np.int32)


class Canvas:
    """An RGB picture, its mask and its materials, all (H, W), coordinates in pixels (x to the right, y down).

    Everything with a label is painted into picture and mask by one call; shadows and texture touch the picture only.
    """

    def __init__(self, height: int, width: int) -> None:
        self.image = np.zeros((height, width, 3), dtype=np.uint8)
        self.mask = np.zeros((height, width), dtype=np.uint8)
        self.material = np.zeros((height, width), dtype=np.uint8)

    def fill(self, colour: RGB, label: Label, material: Material) -> None:
        """Paint everything."""
        self.image[:] = np.round(colour)
        self.mask[:] = label
        self.material[:] = material

    def polygon(
        self, points: ArrayLike, colour: RGB, label: Label | None = None, material: Material | None = None
    ) -> None:
        """Fill a polygon (N, 2); without a label or a material that layer keeps what it had."""
        corners = [_fixed(points)]
        cv2.fillPoly(self.image, corners, colour, cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillPoly(self.mask, corners, int(label), cv2.LINE_8, _SHIFT)
        if material is not None:
            cv2.fillPoly(self.material, corners, int(material), cv2.LINE_8, _SHIFT)

    def discs(self, centres: Points, radii: NDArray[np.float64], colours: Sequence[RGB], label: Label) -> None:
        """Fill discs (N, 2) of radii (N,) in pixels, one colour each, in this order; the material stays."""
        for middle, size, colour in zip(_fixed(centres).tolist(), _fixed(radii).tolist(), colours, strict=True):
            cv2.circle(self.image, middle, size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
            cv2.circle(self.mask, middle, size, int(label), cv2.FILLED, cv2.LINE_8, _SHIFT)

    def line(self, points: ArrayLike, colour: RGB, thickness: int = 1, closed: bool = False) -> None:
        """Draw a line in the picture alone: markings, ridges, seams."""
        cv2.polylines(self.image, [_fixed(points)], closed, colour, thickness, cv2.LINE_AA, _SHIFT)

    def shade(self, shadows: Sequence[Points]) -> None:
        """Darken the picture, never the mask, where shadows fall, polygons (N, 2); blue sky light remains."""
        shadow = np.zeros(self.mask.shape, dtype=np.uint8)
        for outline in shadows:
            cv2.fillPoly(shadow, [_fixed(outline)], 255, cv2.LINE_8, _SHIFT)
        soft = cv2.blur(shadow, (3, 3))
        table = np.round(255.0 - np.arange(256, dtype=np.float32)[:, None] * _SKY_LIGHT).astype(np.uint8)
        self.image = cv2.multiply(self.image, cv2.LUT(cv2.merge([soft, soft, soft]), table[None]), scale=1.0 / 255.0)


def sweep(points: Points, offset: NDArray[np.float64]) -> Points:
    """The outline (M, 2) of a convex polygon together with its copy at an offset, both in pixels: its shadow."""
    both = np.concatenate([points, points + offset]).astype(np.float32)
    return np.asarray(cv2.convexHull(both)[:, 0], dtype=np.float64)


def noise(rng: np.random.Generator, height: int, width: int, period: float) -> NDArray[np.float32]:
    """Smooth noise (H, W) of mean about 0 and deviation about 1 whose bumps are `period` pixels apart."""
    rows, columns = int(height / period) + 3, int(width / period) + 3
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    big = cv2.resize(grid, (int(columns * period) + 1, int(rows * period) + 1), interpolation=cv2.INTER_CUBIC)
    return np.asarray(big[:height, :width] * np.float32(1.25))


def _by_material(table: NDArray[np.float32], material: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A value per material (M,) looked up for a map (H, W)."""
    full = np.zeros((256, 1), dtype=np.float32)
    full[: len(table), 0] = table
    return np.asarray(cv2.LUT(material, full))


def add_texture(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.float32]:
    """The picture times the texture of its materials, float32 (H, W, 3) about 0..255."""
    height, width = canvas.mask.shape
    fields = [
        rng.standard_normal((height, width), dtype=np.float32),
        noise(rng, height, width, 3.0),
        noise(rng, height, width, 12.0),
    ]
    detail = np.ones((height, width), dtype=np.float32)
    for column, values in enumerate(fields):
        detail += values * _by_material(_TEXTURE[:, column], canvas.material)
    slow = noise(rng, height, width, 45.0) + np.float32(0.6) * noise(rng, height, width, 110.0)
    bands = [detail + slow * _by_material(_TEXTURE[:, 3] * _TINT[:, band], canvas.material) for band in range(3)]
    return np.asarray(canvas.image * cv2.merge(bands), dtype=np.float32)


def photograph(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the camera makes of a picture: haze, white balance, contrast, slight blur, sensor noise; uint8 (H, W, 3)."""
    gain = rng.uniform(0.88, 1.25) * rng.uniform(0.94, 1.06, size=3)
    haze = rng.uniform(0.0, 22.0) * np.array([0.85, 0.95, 1.1])
    sharp = picture * (gain * (1.0 - haze / 255.0)).astype(np.float32) + haze.astype(np.float32)
    blurred = cv2.GaussianBlur(sharp, (5, 5), float(rng.uniform(0.45, 0.8)))
    blurred += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(1.5, 4.0))
    return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)
