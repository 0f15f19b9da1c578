"""Labels laid over a raster: label rasters and polygons, read on the raster's grid window by window."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio import features, warp
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import array_bounds
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from d2ls.data.decode import Window, as_bytes, naming, open_tiff
from d2ls.data.labels import Mask, values_to_index
from d2ls.data.regions import Blocks, Grid
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

POLYGONS = (".gpkg", ".geojson", ".json", ".shp")  # endings of the files of polygons that are read
_CELLS = 8  # a side of a block, in cells on which the presence of labels is drawn
_TOLERANCE = 0.01  # pixels by which two grids may differ
_WARP = "Save both in one, or have the labels warped: warp=True."
Shapes = list[tuple[Any, int]]  # shapely geometries and their values


@dataclass(frozen=True)
class Georeference:
    """Place of a raster on Earth."""

    height: int  # rows
    width: int  # columns
    transform: Affine  # from columns and rows to coordinates
    crs: CRS  # of the coordinates

    @classmethod
    def of(cls, path: Path) -> "Georeference":
        """That of a GeoTIFF (raises DataError: unreadable, or without a coordinate reference system)."""
        with naming(path), open_tiff(path) as raster:
            found = cls(raster.height, raster.width, raster.transform, raster.crs)
        if found.crs is None:
            raise DataError(
                f"{path}: no coordinate reference system (CRS), so nothing can be laid over it. Assign it, or use a "
                "folder of images and masks (config/folder/d2ls.py)."
            )
        return found

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Lowest x and y, highest x and y."""
        return array_bounds(self.height, self.width, self.transform)


@dataclass(frozen=True)
class LabelRasters:
    """A label raster, or a folder of them with the stems of the images; pixels without data are ignored."""

    path: Path  # a GeoTIFF of one band, or the folder
    spec: DatasetSpec  # the classes and what the values mean
    warp: bool = False  # whether labels in another CRS or grid are resampled (nearest neighbour), else refused

    def presence(self, image: Path, grid: Grid, value: int | None = None) -> Blocks:
        """Blocks of a raster's grid under the label raster, whatever the value (raises DataError: they do not fit)."""
        place, file = Georeference.of(image), self.file(image)
        labels = Georeference.of(file)
        with open_tiff(file) as raster:
            if raster.count != 1:
                raise DataError(f"{file}: {raster.count} bands; expected labels in one band.")
        if not self.warp:
            _check_crs(image, place.crs, file, labels.crs)
            _check_grid(image, place, file, labels)
        outline = _transform([shapely.box(*labels.bounds)], labels.crs, place.crs)[0]
        found = _draw_blocks([outline], place, grid)
        if not found.any():
            raise DataError(_apart(image, place, file, labels.bounds, labels.crs))
        return found

    def read(self, image: Path, window: Window) -> Mask:
        """Class indices and the ignore index in a window of a raster, (H, W) (raises DataError: damaged, no class)."""
        place, file = Georeference.of(image), self.file(image)
        top, left, height, width = window
        grid = {"crs": place.crs, "transform": place.transform, "width": place.width, "height": place.height}
        part = RasterWindow(left, top, width, height)
        with naming(file):
            with open_tiff(file) as raster, WarpedVRT(raster, **grid, add_alpha=True) as laid:  # nearest neighbour
                raw, valid = laid.read(1, window=part), laid.dataset_mask(window=part) > 0
            known = as_bytes(raw[valid][None])
        index = np.full((height, width), self.spec.ignore_index, np.uint8)
        index[valid] = values_to_index(known, self.spec, file)[0]
        return index

    def file(self, image: Path) -> Path:
        """The label raster of an image (raises DataError: the folder has none of its stem)."""
        if not self.path.is_dir():
            return self.path
        for suffix in (image.suffix, ".tif", ".tiff"):
            if (file := self.path / f"{image.stem}{suffix}").is_file():
                return file
        raise DataError(f"{self.path}: no label raster {image.stem}.tif for {image}. Add it, or move the image away.")


@dataclass(frozen=True)
class Polygons:
    """Polygons whose column is drawn: a pixel has the value of the last one in the file that holds its centre."""

    path: Path  # a GeoPackage, GeoJSON or shapefile of one layer
    column: str  # name of the column
    values: Mapping[str, int]  # what is drawn (0..255) for each entry of the column; others are an error
    background: int  # value of pixels in no polygon
    is_ranked: bool = False  # whether the higher value covers the lower one, whatever the order in the file
    is_sparse: bool = True  # whether blocks without a polygon are left out
    warp: bool = False  # whether polygons in another CRS are transformed; else they are an error

    @cached_property
    def crs(self) -> CRS:
        """Coordinate reference system of the polygons."""
        with _vectors(self.path) as pyogrio:
            return CRS.from_user_input(pyogrio.read_info(self.path)["crs"])

    def entries(self) -> Counter[str]:
        """How often each entry of the column occurs, in order (raises DataError: no such column, polygons or CRS)."""
        with _vectors(self.path) as pyogrio:
            if len(layers := pyogrio.list_layers(self.path)) != 1:
                names = ", ".join(str(name) for name, _ in layers)
                raise DataError(f"{self.path}: {len(layers)} layers ({names}); expected one. Save it as its own file.")
            info = pyogrio.read_info(self.path)
            if self.column not in info["fields"]:
                names = ", ".join(info["fields"]) or "none"
                raise DataError(f"{self.path}: no column {self.column!r}; its columns: {names}.")
            if str(info["geometry_type"]).split()[-1] not in ("Polygon", "MultiPolygon", "Unknown"):
                raise DataError(f"{self.path}: {info['geometry_type']} geometries; expected polygons.")
            if info["crs"] is None:
                raise DataError(f"{self.path}: no coordinate reference system (CRS). Assign it.")
            entries = pyogrio.raw.read(self.path, columns=[self.column], read_geometry=False)[3][0]
        counts = Counter(map(_as_text, entries))
        if not counts:
            raise DataError(f"{self.path}: no polygons in it.")
        return counts

    def check(self) -> None:
        """Look at the column of all polygons once (raises DataError: as `entries`, or entries without a value)."""
        counts = self.entries()
        if wrong := [f"{entry} ({count})" for entry, count in counts.items() if entry not in self.values]:
            found = f"column {self.column!r} has {len(wrong)} other entries: {', '.join(wrong[:5])}"
            raise DataError(f"{self.path}: {found}. Expected {', '.join(self.values)}.")

    def presence(self, image: Path, grid: Grid, value: int | None = None) -> Blocks:
        """Blocks of a raster's grid that polygons (of a value) touch; all unless `is_sparse` (DataError: none)."""
        place = Georeference.of(image)
        shapes = self.shapes(image, place, place.bounds)
        if not shapes:
            with _vectors(self.path) as pyogrio:
                info = pyogrio.read_info(self.path, force_total_bounds=True)
            raise DataError(_apart(image, place, self.path, info["total_bounds"], self.crs))
        if not self.is_sparse:
            return np.ones(grid.shape, bool)
        return _draw_blocks([geometry for geometry, drawn in shapes if value in (None, drawn)], place, grid)

    def read(self, image: Path, window: Window) -> Mask:
        """Values in a window of a raster, (H, W)."""
        place, (top, left, height, width) = Georeference.of(image), window
        transform = place.transform * Affine.translation(left, top)
        shapes = self.shapes(image, place, array_bounds(height, width, transform))
        return _draw(shapes, (height, width), transform, self.background)

    def shapes(self, image: Path, place: Georeference, bounds: tuple[float, float, float, float]) -> Shapes:
        """Polygons that touch bounds in the raster's CRS, in this CRS, and their values, in the order of drawing."""
        with _vectors(self.path) as pyogrio:
            crs = self.crs
            if not self.warp:
                _check_crs(image, place.crs, self.path, crs)
            if crs != place.crs:
                bounds = warp.transform_bounds(place.crs, crs, *bounds)
            _, numbers, shapes, (entries,) = pyogrio.raw.read(
                self.path, columns=[self.column], bbox=bounds, return_fids=True
            )
            values = np.array([self.values[_as_text(entry)] for entry in entries], int)
            order = np.lexsort((numbers, values) if self.is_ranked else (numbers,))
            geometries = _transform(shapely.from_wkb(shapes)[order], crs, place.crs)
        return [pair for pair in zip(geometries, values[order].tolist(), strict=True) if not pair[0].is_empty]


def _draw(shapes: Shapes, shape: tuple[int, int], transform: Affine, fill: int = 0, **options: Any) -> Mask:
    """Values of geometries as pixels; a later one covers earlier ones."""
    if not shapes:
        return np.full(shape, fill, np.uint8)
    return features.rasterize(shapes, shape, fill=fill, transform=transform, dtype="uint8", **options)


def _draw_blocks(geometries: Sequence[Any], place: Georeference, grid: Grid) -> Blocks:
    """Blocks that geometries touch, to an eighth of a block."""
    rows, columns = grid.shape
    cell = Affine.scale(place.width / (columns * _CELLS), place.height / (rows * _CELLS))
    shapes = [(geometry, 1) for geometry in geometries]
    cells = _draw(shapes, (rows * _CELLS, columns * _CELLS), place.transform * cell, all_touched=True)
    return np.asarray(cells.reshape(rows, _CELLS, columns, _CELLS).any(axis=(1, 3)))


def _transform(geometries: Any, crs: CRS, other: CRS) -> Any:
    if crs == other or not len(geometries):
        return geometries
    return shapely.transform(geometries, lambda xy: np.column_stack(warp.transform(crs, other, *xy.T)))


def _check_crs(image: Path, crs: CRS, labels: Path, other: CRS) -> None:
    if crs != other:
        raise DataError(f"{labels}: in {_name(other)}, but its image {image} is in {_name(crs)}. {_WARP}")


def _check_grid(image: Path, place: Georeference, labels: Path, other: Georeference) -> None:
    """Refuse a label raster whose pixels are not those of the image."""
    between = ~other.transform * place.transform  # from pixels of the image to those of the labels
    drift = (between.a - 1) * place.width, between.b * place.height, between.d * place.width, between.e - 1
    offset = between.c - round(between.c), between.f - round(between.f), drift[3] * place.height
    if max(map(abs, (*drift, *offset))) > _TOLERANCE:
        sizes = [
            f"pixels of {abs(t.a):g} x {abs(t.e):g} at ({t.c:g}, {t.f:g})" for t in (other.transform, place.transform)
        ]
        raise DataError(f"{labels}: {sizes[0]}, but its image {image} has {sizes[1]}. {_WARP}")


def _apart(image: Path, place: Georeference, labels: Path, bounds: Any, crs: CRS) -> str:
    here, there = (", ".join(f"{value:g}" for value in each) for each in (place.bounds, bounds))
    return (
        f"{image}: nothing of {labels} lies on it. It lies at ({here}) in {_name(place.crs)}, that at ({there}) in "
        f"{_name(crs)} (lowest x and y, highest x and y). Is one georeferenced wrongly? Else move the image away."
    )


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt()[:60]


def _as_text(entry: Any) -> str:
    """An entry of a column as it stands in a table of classes."""
    if isinstance(entry, float | np.floating):
        return "empty" if np.isnan(entry) else f"{entry:g}"
    return "empty" if entry is None else str(entry).strip()


@contextmanager
def _vectors(path: Path) -> Iterator[Any]:
    """Give pyogrio, and turn what it and the others raise into an error that names the file."""
    import pyogrio.raw  # noqa: PLC0415  (a hundred megabytes where pandas is installed)

    with naming(path, RuntimeError, CRSError, shapely.GEOSException):
        yield pyogrio


Overlay = LabelRasters | Polygons
"""Values that are laid over rasters: they tell in which blocks of a raster they are, and are read by windows."""
