"""Rasters as files: GeoTIFF and VRT by rasterio, read by rows; PNG and JPEG, which are read whole."""

import hashlib
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from d2ls.data import io as files
from d2ls.data.bands import valid_pixels
from d2ls.data.decode import check_pages
from d2ls.data.io import SUFFIXES
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.memory import mapped_array

RASTER_SUFFIXES = (*SUFFIXES, ".vrt")
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".vrt": "VRT"}
_LARGEST_VRT = 1 << 24  # bytes
_CACHE = 32 << 20  # bytes of GDAL's block cache, beside the rows of blocks that it reads twice
_HIGHEST_BLOCK = 1024  # rows of blocks that are read whole
_WIDE = 1 << 14  # columns of a raster that is better read by columns, if it has fewer rows by far
_END = 1 << 20  # bytes at both ends of a file that its fingerprint covers


@dataclass(frozen=True)
class RasterFile:
    """An open raster.

    `read` gives values (C, n, W) of the rows from a first to a last, which is not included, and where they are data,
    (n, W). `turned` is the same raster as its transpose, whose rows are columns of the file: of a wide strip, so that
    memory grows with its shorter side; None of others, and where the file's blocks are as wide as itself.
    """

    path: Path
    height: int
    width: int
    read: Callable[[int, int], tuple[NDArray[Any], NDArray[np.bool_]]]
    chunk: int = 256  # rows that are best read at once
    turned: "RasterFile | None" = None
    crs: CRS | None = None
    transform: Affine = Affine.identity()  # noqa: RUF009  (immutable; of columns and rows to coordinates)

    @property
    def is_georeferenced(self) -> bool:
        """Whether the file says where on Earth it lies."""
        return self.crs is not None or not self.transform.is_identity

    @property
    def square_metres(self) -> float | None:
        """Area of a pixel; None where the coordinates are no lengths."""
        if self.crs is None or not self.crs.is_projected:
            return None
        return abs(float(self.transform.determinant)) * float(self.crs.linear_units_factor[1]) ** 2


@contextmanager
def open_raster(path: Path, spec: DatasetSpec, bands: Sequence[int] | None = None) -> Iterator[RasterFile]:
    """Open a raster as the input of a network.

    Pixels without data are those of the file's nodata value, mask or alpha band, those whose bands all have the value
    `spec.nodata`, and NaN. `bands` are numbers of the file's bands, from 1, in the order of `spec.bands`; None takes
    `spec.file_bands`.

    Raises:
        DataError: unreadable, too few bands or ambiguous ones, another type, or a VRT with files outside its folder.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file." if not path.exists() else f"{path}: not a file.")
    driver = _DRIVERS.get(path.suffix.lower())
    if driver is None:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: expected one of {', '.join(RASTER_SUFFIXES)}.")
        if not spec.is_rgb8 or bands not in (None, (1, 2, 3)):
            raise DataError(f"{path}: holds RGB, the network takes {_wanted(spec)}. Use a TIFF.")
        yield _picture(path)
        return
    if driver == "VRT":
        vrt_sources(path)
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):  # the map is a PNG then
            dataset = rasterio.open(path, driver=driver)
    except rasterio.errors.RasterioError as problem:
        raise DataError(f"{path}: cannot be opened: {_reason(problem)}.") from problem
    with dataset:
        check_pages(path, dataset)
        numbers = _check(path, dataset, spec, bands)
        blocks = [max(sides) for sides in zip(*dataset.block_shapes, strict=True)]
        wide = dataset.width > max(_WIDE, 2 * dataset.height) and blocks[1] <= _HIGHEST_BLOCK
        block, line = (blocks[1], dataset.height) if wide else (blocks[0], dataset.width)
        least = 512 if driver == "VRT" else 256  # the sources' blocks are mostly of one or the other
        chunk = block * max(1, least // block) if block <= _HIGHEST_BLOCK else least
        # Blocks are read again for the mask, and for the next chunk where they are higher than one.
        masked = any(flags != [MaskFlags.all_valid] for flags in dataset.mask_flag_enums)
        again = masked * chunk if block <= _HIGHEST_BLOCK else 2 * block
        cache = again * line * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        with rasterio.Env(GDAL_CACHEMAX=_CACHE + cache):
            read = partial(_read, path, dataset, list(numbers), spec.nodata)
            turned = RasterFile(path, dataset.width, dataset.height, partial(read, True), chunk) if wide else None
            place = dataset.crs, dataset.transform
            yield RasterFile(path, dataset.height, dataset.width, partial(read, False), chunk, turned, *place)


def fingerprint(path: Path) -> str:
    """Hash of a raster's name, size, time and both ends of its content (of a VRT, its sources' too), 64 digits."""
    digest = hashlib.sha256()
    for file in (path, *(vrt_sources(path) if path.suffix.lower() == ".vrt" else ())):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_END))
            stream.seek(max(0, status.st_size - _END))
            digest.update(stream.read(_END))
    return digest.hexdigest()


def vrt_sources(path: Path) -> list[Path]:
    """The files that a VRT is made of: TIFFs that are there, in its folder or below it."""
    try:
        if path.stat().st_size > _LARGEST_VRT:
            raise DataError(f"{path}: {path.stat().st_size} bytes, too large for a VRT.")
        root = ET.fromstring(path.read_bytes())
    except ET.ParseError as problem:
        raise DataError(f"{path}: not a VRT: {problem}.") from problem
    folder = path.parent.resolve()
    found = []
    for node in root.iter():
        if node.tag not in ("SourceFilename", "SourceDataset"):
            continue
        name = (node.text or "").strip()
        source = (folder / name).resolve()
        if not source.is_relative_to(folder):
            raise DataError(f"{path}: its source {name} lies outside {path.parent}. Put the files beside the VRT.")
        if not source.is_file():
            raise DataError(f"{path}: its source {name} is missing.")
        if source.suffix.lower() not in (".tif", ".tiff"):
            raise DataError(f"{path}: its source {name} is no TIFF.")
        found.append(source)
    return found


def _picture(path: Path) -> RasterFile:
    """A PNG or JPEG, in memory."""
    image = np.moveaxis(files.read_image(path), -1, 0)
    height, width = image.shape[1:]
    valid = np.ones((height, width), bool)
    return RasterFile(path, height, width, lambda top, bottom: (image[:, top:bottom], valid[top:bottom]))


def _read(
    path: Path, dataset: Any, bands: list[int], nodata: float | None, turned: bool, first: int, last: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Rows from `first` to `last`, which is not included; columns as rows if turned."""
    number = last - first
    window = Window(first, 0, number, dataset.height) if turned else Window(0, first, dataset.width, number)
    try:
        out = mapped_array((len(bands), round(window.height), round(window.width)), dataset.dtypes[bands[0] - 1])
        pixels = dataset.read(bands, window=window, out=out)
        valid = valid_pixels(dataset, window, bands)
    except rasterio.errors.RasterioError as problem:
        lines = "columns" if turned else "rows"
        raise DataError(f"{path}: {lines} {first} to {last} cannot be read: {_reason(problem)}.") from problem
    if nodata is not None:
        valid &= (pixels != nodata).any(axis=0)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(axis=0)
    valid = np.broadcast_to(np.True_, valid.shape) if valid.all() else valid
    return (pixels.swapaxes(1, 2), valid.T) if turned else (pixels, valid)


def _check(path: Path, dataset: Any, spec: DatasetSpec, bands: Sequence[int] | None) -> Sequence[int]:
    """Numbers of the bands to read."""
    numbers = spec.file_bands if bands is None else bands
    count, wanted = dataset.count, _wanted(spec)
    if len(numbers) != len(spec.bands):
        raise DataError(f"{path}: --bands names {len(numbers)} bands, the network takes {wanted}.")
    if max(numbers) > count:
        raise DataError(f"{path}: {count} band(s), but the network reads band {max(numbers)}: it takes {wanted}.")
    alpha = ColorInterp.alpha in dataset.colorinterp
    # A spec that names no bands of the file takes the first ones, which is a guess where there are more.
    first = tuple(range(1, len(numbers) + 1))
    if bands is None and tuple(numbers) == first and count - alpha > len(numbers):
        raise DataError(
            f"{path}: {count} bands where the network takes {wanted}. Name those to read, such as "
            f"--bands {','.join(map(str, numbers))}."
        )
    if wrong := [kind for kind in (dataset.dtypes[number - 1] for number in numbers) if kind != spec.dtype]:
        raise DataError(f"{path}: {wrong[0]} values; the network was trained on {spec.dtype}. Convert the raster.")
    if ColorInterp.palette in dataset.colorinterp:
        raise DataError(f"{path}: a palette where {wanted} is expected. Save it as RGB.")
    return numbers


def _wanted(spec: DatasetSpec) -> str:
    names = spec.bands if len(spec.bands) <= 8 else (*spec.bands[:8], "...")
    return f"{len(spec.bands)} bands of {spec.dtype} ({', '.join(names)})"


def _reason(problem: Exception) -> str:
    """GDAL's own words, which rasterio chains behind its error."""
    return str(problem.__cause__ or problem).rstrip(".")
