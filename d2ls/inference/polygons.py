"""A map of classes as polygons: blocks of rows are traced one by one, and joined where they touch."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio import features
from rasterio.crs import CRS
from shapely.geometry.base import BaseGeometry

from d2ls.inference.raster import LEVELS, NODATA

_BLOCK = 1 << 22  # pixels that are traced at once
_WRITTEN = 10_000  # polygons that are written at once
_FIELDS = ("class", "value", "pixels", "area_m2", "confidence")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Polygon:
    """A connected region of one class (pixels that touch by a side)."""

    geometry: BaseGeometry  # in pixels: columns from the left, rows from the top
    value: int  # class index
    pixels: int  # their number
    confidence: float  # mean probability of the class, 0..1


class _Region:
    """A region that may still grow; regions that turn out to be one are joined."""

    def __init__(self, geometry: dict[str, Any], value: int, pixels: int, confidence: float) -> None:
        self.pieces, self.value, self.pixels, self.confidence = [geometry], value, pixels, confidence
        self._joined: _Region | None = None

    def root(self) -> "_Region":
        region = self
        while region._joined is not None:
            region = region._joined
        return region

    def join(self, other: "_Region") -> None:
        large, small = self.root(), other.root()
        if large is small:
            return
        if len(large.pieces) < len(small.pieces):
            large, small = small, large
        large.pieces += small.pieces
        large.pixels += small.pixels
        large.confidence += small.confidence
        small.pieces, small._joined = [], large

    def polygon(self) -> Polygon:
        shapes = [shapely.geometry.shape(piece) for piece in self.pieces]
        whole = shapely.union_all(shapes).simplify(0) if len(shapes) > 1 else shapes[0]
        return Polygon(whole, self.value, self.pixels, self.confidence / (self.pixels * LEVELS))


def trace(classes: Pixels, confidence: Pixels, *, min_pixels: float = 1, block: int | None = None) -> Iterator[Polygon]:
    """The regions of a map, but for smaller ones than `min_pixels`.

    Of class indices and NODATA, (H, W), such as a file that is mapped into memory, and the confidence of each pixel, 0
    to LEVELS. Memory holds a `block` of rows and the regions that reach its lower edge.
    """
    height, width = classes.shape
    step = block or max(1, _BLOCK // width)
    values_above = np.full(width, NODATA, np.uint8)
    above: list[_Region | None] = [None] * width
    for top in range(0, height, step):
        values = np.asarray(classes[top : top + step])
        regions, numbers = _trace_block(values, np.asarray(confidence[top : top + step]), top)
        first, last = numbers[0], numbers[-1]
        touching = np.flatnonzero((values[0] == values_above) & (first > 0))
        for column in touching[_changes(first[touching], touching)]:
            neighbour = above[column]
            assert neighbour is not None
            neighbour.join(regions[first[column] - 1])
        seen = {id(region.root()): region.root() for region in (*filter(None, set(above)), *regions)}
        above = [regions[number - 1].root() if number else None for number in last]
        still_open = {id(region) for region in above if region is not None} if top + step < height else set()
        done = (region for key, region in seen.items() if key not in still_open)
        yield from (region.polygon() for region in done if region.pixels >= min_pixels)
        values_above = values[-1]


def _changes(numbers: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a run of neighbouring columns with one number begins."""
    begins = np.ones(len(numbers), bool)
    begins[1:] = (np.diff(numbers) != 0) | (np.diff(columns) != 1)
    return begins


def _trace_block(values: Pixels, confidence: Pixels, top: int) -> tuple[list[_Region], NDArray[np.int32]]:
    """The regions of a block, and the number (from 1) of the region at each pixel; 0 where there is no data."""
    place = Affine.translation(0, top)
    found = list(features.shapes(values, mask=values != NODATA, connectivity=4, transform=place))
    if not found:
        return [], np.zeros(values.shape, np.int32)
    numbered = ((geometry, number) for number, (geometry, _) in enumerate(found, 1))
    numbers = features.rasterize(numbered, values.shape, transform=place, dtype="int32")
    pixels = np.bincount(numbers.ravel(), minlength=len(found) + 1)[1:]
    sums = np.bincount(numbers.ravel(), weights=confidence.ravel(), minlength=len(found) + 1)[1:]
    regions = [
        _Region(geometry, int(value), int(count), float(total))
        for (geometry, value), count, total in zip(found, pixels, sums, strict=True)
    ]
    return regions, numbers


def write_polygons(
    path: Path, polygons: Iterable[Polygon], names: Sequence[str], transform: Affine, crs: CRS | None,
    *, square_metres: float | None = None, simplify: float = 0,
) -> int:  # fmt: skip
    """Write polygons as a GeoPackage with the fields class, value, pixels, area_m2 and confidence; gives their number.

    The transform leads from pixels to coordinates; `square_metres` is the area of a pixel, None where it is not known.
    `simplify` is the tolerance of Douglas and Peucker, in the unit of the coordinates; shapes stay valid, but
    neighbours may overlap or leave gaps by as much.
    """
    import pyogrio.raw  # noqa: PLC0415  (a hundred megabytes where pandas is installed)

    coefficients = np.array([[transform.a, transform.d], [transform.b, transform.e]])
    offset = np.array([transform.c, transform.f])
    waiting = iter(polygons)
    number = 0
    while (group := list(islice(waiting, _WRITTEN))) or number == 0:
        shapes = shapely.transform([polygon.geometry for polygon in group], lambda xy: xy @ coefficients + offset)
        if simplify:
            shapes = shapely.simplify(shapes, simplify, preserve_topology=True)
        areas = [polygon.pixels * square_metres if square_metres else np.nan for polygon in group]
        columns = [
            np.array([names[polygon.value] for polygon in group], object),
            np.array([polygon.value for polygon in group], np.int32),
            np.array([polygon.pixels for polygon in group], np.int64),
            np.array(areas, np.float64),
            np.array([round(polygon.confidence, 4) for polygon in group], np.float64),
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")  # pictures have none
            pyogrio.raw.write(
                path, shapely.to_wkb(shapes), columns, list(_FIELDS), layer="classes", driver="GPKG",
                geometry_type="Polygon", crs=None if crs is None else crs.to_wkt(), append=number > 0,
            )  # fmt: skip
        number += len(group)
        if not group:
            break
    return number
