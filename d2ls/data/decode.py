"""Decoders of image files: PNG and JPEG by OpenCV, TIFF by rasterio, the rest by Pillow; checks before they run."""

import io
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from d2ls.data.image_header import DEFLATE, NONE, RGB_KINDS, FormatError, Header, read_header, tiff_blocks
from d2ls.errors import DataError

Pixels = NDArray[np.uint8]
Window = tuple[int, int, int, int]  # top, left, height, width, in pixels
MAX_PIXELS = 1 << 29  # 23 170 pixels square; more is taken for a decompression bomb
GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": False, "GDAL_NUM_THREADS": "1",
}  # fmt: skip
"""No look at neighbouring files, no sidecar files, no threads of its own."""
_PNG_END = b"IEND\xaeB`\x82"
_LARGEST_TILE = 1 << 26  # bytes of padding that a tile may add to an image
_MOST_COMPRESSED = 4000  # bytes that one byte of a file can stand for in any of the formats


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file; any error of a decoder becomes one that names the file."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for ever
            raise FormatError("a pipe or a device where a file is expected")
        with path.open("rb") as file:
            yield file
    except FormatError as problem:
        raise DataError(f"{path}: {problem}.") from problem
    except Image.DecompressionBombError as problem:
        raise DataError(f"{path}: too many pixels for this kind of file: {problem} Split it first.") from problem
    except (cv2.error, RasterioError, OSError, ValueError, SyntaxError) as problem:
        if isinstance(problem, OSError) and problem.strerror:  # of the disk; decoders' have no such text
            raise DataError(f"{path}: cannot be read: {problem.strerror}.") from problem
        raise DataError(f"{path}: cannot be decoded, the file is damaged or unusual: {problem}.") from problem
    except MemoryError as problem:
        raise DataError(f"{path}: too large for this machine's memory.") from problem


@contextmanager
def naming(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn a FormatError, and what GDAL raises or exceptions of the given kinds, into an error that names the file."""
    try:
        yield
    except FormatError as problem:
        raise DataError(f"{path}: {problem}.") from problem
    except (RasterioError, *kinds) as problem:
        reason = str(problem.__cause__ or problem).split(";")[0].rstrip(".")
        raise DataError(f"{path}: cannot be read, it is damaged or of another kind: {reason}.") from problem


def check_window(window: Window, height: int, width: int) -> None:
    """Refuse a window that is not inside an image, by a FormatError."""
    top, left, rows, columns = window
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
        raise FormatError(f"window of {columns} x {rows} at ({left}, {top}) is not inside {width} x {height} pixels")


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF of one page as a rasterio data set, without a look at any other file."""
    with rasterio.Env(**GDAL_OPTIONS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pictures lie nowhere
            raster = rasterio.open(path, driver="GTiff", sharing=False)
        with raster:
            check_pages(path, raster)
            yield raster


def check_pages(path: Path, raster: Any) -> None:
    """Refuse a TIFF of several images, by a DataError; overviews and masks are none."""
    if (pages := len(raster.subdatasets)) > 1:
        raise DataError(
            f"{path}: {pages} pages where one image is expected. Save each as a file of its own or, if they are bands, "
            "all of them as the bands of one image."
        )


def check_size(file: BinaryIO, header: Header) -> None:
    """Refuse to decode what would fill the memory: too many pixels, or more than the file can hold."""
    number, sides = header.height * header.width, f"{header.width} x {header.height} pixels"
    if number > MAX_PIXELS:
        raise FormatError(f"its header gives {sides}, expected at most {MAX_PIXELS}; split it first")
    if header.format == "tiff":
        check_blocks(file, header)
    elif number * header.bits // 8 > _MOST_COMPRESSED * (size := file.seek(0, 2)):
        raise FormatError(f"{size} bytes cannot hold {sides}; the file is damaged")


def check_blocks(file: BinaryIO, header: Header) -> None:
    """Refuse a TIFF that breaks off, or whose blocks are too short; a sparse file may leave blocks out."""
    starts, counts = tiff_blocks(header)
    size = file.seek(0, 2)
    if (starts + counts).max(initial=0) > size or min(starts.min(initial=0), counts.min(initial=0)) < 0:
        raise FormatError("the file breaks off before its end, or its header is damaged")
    rows, columns = header.stored
    tile, samples = 324 in header.tags, header.tag(277, 1)
    across = header.tag(322, columns) if tile else columns
    down = header.tag(323, rows) if tile else min(rows, header.tag(278, rows))
    planes = samples if header.tag(284, 1) == 2 else 1
    if across < 1 or down < 1:
        raise FormatError("blocks of no pixels; the header is damaged")
    line = -(-across * samples // planes * header.bits // 8)
    grid = -(-rows // down) * -(-columns // across) * planes
    if len(starts) < grid:
        raise FormatError(f"{len(starts)} blocks for {grid} parts of the image; the header is damaged")
    there = counts[:grid] > 0
    expected = np.full(grid, line * down)
    if not tile and rows % down:
        expected[rows // down :: -(-rows // down)] = line * (rows % down)
    least = expected if header.compression == NONE else expected // _MOST_COMPRESSED
    if (short := there & (counts[:grid] < least)).any():
        at, what = int(short.argmax()), "tile" if tile else "strip"
        raise FormatError(f"a {what} of the TIFF has {counts[at]} bytes, expected {least[at]} or more")


def check_exact(file: BinaryIO, header: Header) -> None:
    """Refuse a mask whose values may not be those that were saved; of TIFFs only deflated ones have checksums."""
    if not header.is_lossless:
        name = header.format.upper()
        raise FormatError(f"a mask saved as {name} with loss: its values are no longer exact; use the original")
    if header.compression in DEFLATE:
        most = header.height * header.width * header.tag(277, 1) * max(1, header.bits // 8) + _LARGEST_TILE
        for start, count in zip(*tiff_blocks(header), strict=True):
            file.seek(int(start))
            stream = zlib.decompressobj()
            try:
                stream.decompress(file.read(int(count)), most)
            except zlib.error as problem:
                raise FormatError(f"the file is damaged ({problem})") from problem
            if count and not stream.eof:
                raise FormatError("the file is damaged (a block of deflated pixels does not end)")


def colour_header(file: BinaryIO) -> Header:
    """Header of an image that can be read as 8-bit RGB."""
    header = read_header(file)
    check_size(file, header)
    if header.bits > 8:
        raise FormatError(f"{header.bits} bits a sample where 8 are expected; rescale all images alike to 8-bit RGB")
    if header.kind not in RGB_KINDS:
        raise FormatError(f"{header.kind} pixels where RGB is expected; save it as 8-bit RGB")
    return header


def read_rgb(file: BinaryIO, path: Path, header: Header, window: Window | None = None) -> Pixels:
    """RGB of a whole image, or of a window (top, left, height, width)."""
    part = window if header.has_blocks and header.orientation == 1 else None
    if header.has_blocks:
        pixels = through_palette(read_samples(path, header, part), header)
    else:
        if header.format == "tiff":
            with open_tiff(path):
                pass  # several pages are refused
        pixels = checked(decoded_colours(whole_file(file, header), header), header, 3)
    pixels = upright(pixels, header)
    if window is not None and part is None:
        top, left, height, width = window
        pixels = pixels[top : top + height, left : left + width]
    return np.require(opaque(pixels), requirements=("C", "W"))


def read_samples(path: Path, header: Header, window: Window | None = None) -> NDArray[Any]:
    """Samples of a TIFF as they are stored, (H, W, samples)."""
    part = None if window is None else RasterWindow(window[1], window[0], window[3], window[2])
    with open_tiff(path) as raster:
        planes: NDArray[Any] = raster.read(window=part)
    # OpenCV interleaves bytes four times as fast as a copy by NumPy does.
    interleave = planes.dtype == np.uint8 and len(planes) > 1
    values: NDArray[Any] = cv2.merge(list(planes)) if interleave else np.moveaxis(planes, 0, -1)
    return values if window is not None else checked(values, header, 3)


def through_palette(values: NDArray[Any], header: Header) -> Pixels:
    """Colours of a palette's indices, (H, W, 3); other pixels as they are."""
    if header.kind != "palette":
        return np.asarray(values, np.uint8)
    table = np.asarray(header.tags.get(320, ()), np.int64)
    if len(table) != 3 << header.bits:
        raise FormatError(f"a palette of {len(table)} values, expected {3 << header.bits}; the header is damaged")
    table = table.reshape(3, -1).T
    colours = (table if table.max() <= 255 else table >> 8).astype(np.uint8)  # some writers store bytes
    return np.asarray(colours[values[..., 0]], np.uint8)


def upright(pixels: NDArray[Any], header: Header) -> NDArray[Any]:
    """The stored pixels turned and mirrored as their orientation says."""
    if header.orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if header.orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if header.orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def opaque(pixels: Pixels) -> Pixels:
    """RGB (a view) of RGB, or of RGBA where nothing is transparent."""
    if pixels.shape[2] == 4:
        if pixels[..., 3].min(initial=255) < 255:
            raise FormatError(
                "a fourth channel that is not opaque throughout (transparency, or infrared?) where RGB is expected; "
                "save the three channels alone"
            )
        pixels = pixels[..., :3]
    return pixels


def as_bytes(values: NDArray[Any]) -> Pixels:
    """Mask values of a wider type as bytes (raises FormatError: some are no whole numbers from 0 to 255)."""
    with np.errstate(invalid="ignore"):
        small = values.astype(np.uint8)
    if (wrong := small != values).any():
        some = ", ".join(str(value) for value in np.unique(values[wrong])[:5])
        raise FormatError(f"{values.dtype} values such as {some} where whole numbers from 0 to 255 are expected")
    return small


def whole_file(file: BinaryIO, header: Header) -> bytes:
    """All bytes of a file, found complete."""
    file.seek(0)
    data = file.read()
    if header.format == "png":  # OpenCV would go on after some damage, and print of the rest
        try:
            PngImagePlugin.PngImageFile(io.BytesIO(data)).verify()  # the checksum of every chunk
            if _PNG_END not in data:
                raise ValueError("no end")
        except Exception as problem:  # a damaged file can make Pillow raise nearly anything
            kind = "a checksum does not hold" if "checksum" in str(problem) else "it breaks off before its end"
            raise FormatError(f"the file is damaged ({kind}: {problem})") from problem
    # Inside the coded pixels of a JPEG no byte 0xff stands before one that is not 0: the last scan is complete.
    if header.format == "jpeg" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise FormatError("the file breaks off before its end, or is damaged")
    return data


def decoded_colours(data: bytes, header: Header) -> Pixels:
    """RGB or RGBA, (H, W, 3 or 4), as it is stored."""
    if header.format not in ("png", "jpeg") or header.kind == "palette+alpha":
        return by_pillow(data, "RGBA" if "alpha" in header.kind else "RGB")
    if "alpha" in header.kind:
        bgra = decoded(data, cv2.IMREAD_UNCHANGED)
        return bgra if bgra.ndim != 3 else cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA)
    return decoded(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decoded(data: bytes, flags: int) -> NDArray[Any]:
    """Pixels by OpenCV, in its order of colours unless the flags ask for RGB."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise FormatError("cannot be decoded, the file is damaged or of an unusual kind; save it again as PNG")
    return pixels


def by_pillow(data: bytes, mode: str) -> NDArray[Any]:
    """Pixels by Pillow: indices of a palette or grey values (mode "P"), or colours ("RGB", "RGBA")."""
    with Image.open(io.BytesIO(data)) as picture:
        if mode == "P":
            mode = "L" if picture.mode == "1" else picture.mode
        return np.asarray(picture.convert(mode))


def checked(pixels: NDArray[Any], header: Header, dimensions: int) -> NDArray[Any]:
    """The pixels, if they are as many as the header says."""
    if pixels.ndim != dimensions or pixels.shape[:2] != header.stored:
        raise FormatError(f"decodes to shape {pixels.shape}, expected {header.stored} {header.kind} pixels")
    return pixels
