"""A drawn scene of any size: 4 bands of 16 bits in UTM with nodata, fields of four classes, and their truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.windows import Window

CLASSES = ("water", "crop", "forest", "town")
TABLE = "value,name\n" + "".join(f"{value},{name}\n" for value, name in enumerate(CLASSES, 1))
COLOURS = np.array([(400, 700, 2600, 200), (500, 2000, 400, 3900), (500, 2000, 400, 700), (2600, 2500, 2400, 2000)])
NOISE = 60
CRS, TRANSFORM = "EPSG:32633", Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000)
BANDS = ("red", "green", "blue", "nir")


@dataclass(frozen=True)
class Scene:
    """Rectangular fields between lines of rows and columns; a corner is without data (value 0 in all bands)."""

    height: int
    width: int
    seed: int = 0

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns at which fields begin, and the ends."""
        rng = np.random.default_rng(self.seed)
        found = []
        for side in (self.height, self.width):
            steps = np.cumsum(rng.integers(80, 140, side // 80))
            found.append(np.array([0, *steps[steps < side - 40], side]))
        return found[0], found[1]

    def fields(self) -> NDArray[np.uint8]:
        """Class of each field."""
        rows, columns = self.edges()
        rng = np.random.default_rng((self.seed, 1))
        fields = rng.integers(0, len(CLASSES), (len(rows) - 1, len(columns) - 1), np.uint8)
        fields[0, : len(CLASSES)] = range(len(CLASSES))
        return fields

    def truth(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Class of each pixel of some rows, data or not."""
        rows, columns = self.edges()
        lines = np.searchsorted(rows, np.arange(top, bottom), "right") - 1
        return np.repeat(self.fields()[lines], np.diff(columns), axis=1)

    def has_data(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """Where some rows have data: not in the lower right corner."""
        rows, columns = np.ogrid[top:bottom, : self.width]
        return rows / self.height + columns / self.width < 1.7

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Rows that are drawn at once."""
        return ((top, min(top + 256, self.height)) for top in range(0, self.height, 256))

    def write(self, path: Path) -> None:
        """Write the image, a chunk of rows at a time."""
        facts = {"driver": "GTiff", "width": self.width, "height": self.height, "count": 4, "dtype": "uint16"}
        tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256}
        with rasterio.open(path, "w", **facts, **tiles, crs=CRS, transform=TRANSFORM, nodata=0) as file:
            for top, bottom in self.chunks():
                truth, rng = self.truth(top, bottom), np.random.default_rng((self.seed, top))
                noise = rng.integers(-NOISE, NOISE + 1, (4, *truth.shape), np.int16)
                pixels = COLOURS.T.astype(np.int16)[:, truth] + noise
                pixels[:, ~self.has_data(top, bottom)] = 0
                file.write(pixels.astype(np.uint16), window=Window(0, top, self.width, bottom - top))
            file.descriptions = BANDS

    def write_labels(self, path: Path) -> None:
        """Write the fields as a label raster with the values of TABLE."""
        facts = {"driver": "GTiff", "width": self.width, "height": self.height, "count": 1, "dtype": "uint8"}
        with rasterio.open(path, "w", **facts, crs=CRS, transform=TRANSFORM, compress="deflate") as file:
            for top, bottom in self.chunks():
                window = Window(0, top, self.width, bottom - top)
                file.write(self.truth(top, bottom) + np.uint8(1), 1, window=window)

    def write_polygons(self, path: Path) -> None:
        """Write the fields as polygons with the column class."""
        rows, columns = self.edges()
        (x, y), (side, _) = (TRANSFORM.c, TRANSFORM.f), (TRANSFORM.a, TRANSFORM.e)
        left, top = np.meshgrid(x + side * columns[:-1], y - side * rows[:-1])
        right, bottom = np.meshgrid(x + side * columns[1:], y - side * rows[1:])
        shapes = shapely.to_wkb(shapely.box(left.ravel(), bottom.ravel(), right.ravel(), top.ravel()))
        names = np.array(CLASSES, object)[self.fields().ravel()]
        pyogrio.raw.write(path, shapes, [names], ["class"], layer="fields", geometry_type="Polygon", crs=CRS)
