"""Images of any bands and type: TIFF files by rasterio, several files as one image, pixels without data.

A path with braces stands for a stack of files: `images/{R,G,B,N}/x.tif` is `images/R/x.tif` and the three others, whose
bands follow one another. Several groups of braces change together.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NodataShadowWarning
from rasterio.windows import Window as RasterWindow

from d2ls.data import io as files
from d2ls.data.augment import to_dtype
from d2ls.data.decode import Window, check_window, naming, open_tiff
from d2ls.data.pairs import Pair, match
from d2ls.data.spec import RGB, DatasetSpec
from d2ls.errors import DataError

Pixels = NDArray[Any]
_GROUP = re.compile(r"\{([^{}]*,[^{}]*)\}")


def stack_files(path: Path) -> list[Path]:
    """The files that a path with braces stands for, in order; else the path (DataError: groups differ in length)."""
    groups = [group.split(",") for group in _GROUP.findall(str(path))]
    if not groups:
        return [path]
    if len({len(group) for group in groups}) > 1:
        raise DataError(f"{path}: groups of braces with {' and '.join(str(len(group)) for group in groups)} entries.")
    texts = _GROUP.split(str(path))[::2]
    return [Path("".join(chain(*zip_longest(texts, names, fillvalue="")))) for names in zip(*groups, strict=True)]


def match_stacks(images: Path, masks: Path | None, made_by: str) -> list[Pair]:
    """Pairs of a folder with braces, such as `images/{R,G,B,N}`, and a folder of masks; see `d2ls.data.pairs.match`."""
    pairs = match(stack_files(images)[0], masks, made_by)
    return [replace(pair, image=images / pair.image.name) for pair in pairs]


def is_picture(path: Path, spec: DatasetSpec) -> bool:
    """Whether an image is one file of 8-bit RGB, which `d2ls.data.io` reads."""
    return spec.is_rgb8 and ("{" not in str(path) or len(stack_files(path)) == 1)


def read_size(path: Path, spec: DatasetSpec) -> tuple[int, int]:
    """Height and width of an image from its headers (raises DataError: its type or bands are not as in the spec)."""
    if is_picture(path, spec):
        return files.read_size(path)
    with _opened(path) as datasets:
        _check_dtype(path, _choose(path, datasets, spec.file_bands)[1], spec)
        return datasets[0].shape


def band_facts(path: Path) -> dict[str, Any]:
    """Fields of a `DatasetSpec` that stand in the header of a TIFF: bands, file_bands, dtype; alpha bands are left out.

    Bands are called red, green or blue where the file says so, else by their descriptions, else band1, band2, ...
    """
    with _opened(path) as datasets:
        meanings, titles = datasets[0].colorinterp, datasets[0].descriptions
        numbers = tuple(n for n, meaning in enumerate(meanings, 1) if meaning != ColorInterp.alpha)
        _, dtype = _choose(path, datasets, numbers)
        names = [meanings[n - 1].name if meanings[n - 1].name in RGB else titles[n - 1] or f"band{n}" for n in numbers]
    if len(set(names)) < len(names):
        names = [f"band{n}" for n in numbers]
    return {"bands": tuple(names), "file_bands": numbers, "dtype": str(dtype)}


def read_pixels(path: Path, spec: DatasetSpec, window: Window | None = None) -> Pixels:
    """Pixels (H, W, bands) of an image or a stack, or of a window in it, with the bands in the order of the data set.

    They are uint8 of 8-bit RGB; otherwise float32, NaN in all bands where there are no data: by the file's nodata
    value, mask or alpha band, where all bands have the value `spec.nodata`, and where one is NaN. Pixels that are not
    as the spec describes them are a DataError.
    """
    if is_picture(path, spec):
        return files.read_image(path) if window is None else files.read_window(path, *window)
    pixels, valid = read_bands(path, window, spec.file_bands)
    _check_dtype(path, pixels.dtype, spec)
    if spec.is_rgb8:
        return pixels
    if spec.nodata is not None:
        valid &= (pixels != spec.nodata).any(axis=2)
    values = pixels.astype(np.float32)
    valid &= np.isfinite(values).all(axis=2)
    values[~valid] = np.nan
    return values


def read_bands(
    path: Path, window: Window | None = None, bands: Sequence[int] | None = None
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pixels of a TIFF, or of a stack of them, as they are: of a window, or of bands numbered from 1, or all.

    Gives the values (H, W, bands), and where the files' nodata values, masks and alpha bands say that they are data,
    (H, W). A palette, a band that does not exist, a window outside, and files of different sizes are a DataError.
    """
    with _opened(path) as datasets:
        chosen, dtype = _choose(path, datasets, bands)
        top, left, rows, columns = window = window or (0, 0, *datasets[0].shape)
        with naming(path):
            check_window(window, *datasets[0].shape)
        area = RasterWindow(left, top, columns, rows)
        pixels, valid = np.empty((rows, columns, len(chosen)), dtype), np.ones((rows, columns), bool)
        for file in dict.fromkeys(of for of, _ in chosen):
            positions = [position for position, (of, _) in enumerate(chosen) if of == file]
            numbers = [chosen[position][1] for position in positions]
            with naming(Path(datasets[file].name)):
                pixels[..., positions] = datasets[file].read(numbers, window=area).transpose(1, 2, 0)
                valid &= valid_pixels(datasets[file], area, numbers)
    return pixels, valid


def valid_pixels(dataset: Any, window: RasterWindow, bands: Sequence[int]) -> NDArray[np.bool_]:
    """Where a raster, open in rasterio, has data: by its nodata value, its mask, and alpha bands.

    Alpha bands among the `bands` to read do not count: tools often call the fourth band alpha where it is infrared.
    """
    valid = np.ones((round(window.height), round(window.width)), bool)
    flags = {flag for of_band in dataset.mask_flag_enums for flag in of_band}
    if MaskFlags.alpha not in flags and flags != {MaskFlags.all_valid}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NodataShadowWarning)  # alpha is minded here
            valid &= dataset.dataset_mask(window=window) > 0
    for number, meaning in enumerate(dataset.colorinterp, 1):
        if meaning == ColorInterp.alpha and number not in bands:
            valid &= dataset.read(number, window=window) > 0
    return valid


def fill_missing(image: Pixels, mask: NDArray[np.uint8] | None, spec: DatasetSpec) -> tuple[Pixels, Any]:
    """Give NaN pixels of an image (H, W, bands) their bands' means, ignored in the mask; back to the file's type."""
    if spec.is_rgb8:
        return image, mask
    missing = np.asarray(np.isnan(image).any(axis=2))
    if missing.any():
        image = np.where(missing[..., None], np.array(spec.mean or 0, np.float32), image)
        if mask is not None:
            mask = np.where(missing, np.uint8(spec.ignore_index), mask)
    return to_dtype(image, spec.dtype), mask


@contextmanager
def _opened(path: Path) -> Iterator[list[Any]]:
    """The files of an image, of one size, as datasets of rasterio."""
    with ExitStack() as stack:
        datasets: list[Any] = []
        for file in stack_files(path):
            if not file.is_file() or file.suffix.lower() not in (".tif", ".tiff"):
                found = "expected a TIFF: only 8-bit RGB is read from other kinds" if file.is_file() else "no such file"
                raise DataError(f"{file}: {found}.")
            with naming(file):
                dataset = stack.enter_context(open_tiff(file))
            if ColorInterp.palette in dataset.colorinterp:
                raise DataError(f"{file}: a palette; save the image with its colours or values as bands.")
            if datasets and dataset.shape != datasets[0].shape:
                sizes = " and ".join(f"{width} x {height}" for height, width in (datasets[0].shape, dataset.shape))
                raise DataError(f"{file}: {sizes} pixels in one stack; expected one size.")
            datasets.append(dataset)
        yield datasets


def _choose(
    path: Path, datasets: list[Any], bands: Sequence[int] | None
) -> tuple[list[tuple[int, int]], np.dtype[Any]]:
    """File and number of each band that is wanted, and their type."""
    every = [(file, number) for file, dataset in enumerate(datasets) for number in dataset.indexes]
    if bands is not None and not 1 <= min(bands) <= max(bands) <= len(every):
        raise DataError(f"{path}: {len(every)} band(s); the data set reads bands {', '.join(map(str, bands))}.")
    chosen = every if bands is None else [every[band - 1] for band in bands]
    types = sorted({datasets[file].dtypes[number - 1] for file, number in chosen})
    if len(types) > 1:
        raise DataError(f"{path}: bands of {' and '.join(types)}; expected one type.")
    return chosen, np.dtype(types[0])


def _check_dtype(path: Path, dtype: np.dtype[Any], spec: DatasetSpec) -> None:
    if dtype != spec.dtype:
        raise DataError(
            f"{path}: {dtype} values where data set {spec.name!r} has {spec.dtype}. Set its dtype, or convert."
        )
