"""The one reader and writer of image files: 8-bit PNG, JPEG and TIFF, RGB outside, OpenCV's BGR only in here."""

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from d2ls.data import lzw, png, tiff
from d2ls.data.headers import FormatError, Header, check_jpeg, check_png, read_header
from d2ls.errors import DataError

Pixels = NDArray[np.uint8]
MAX_PIXELS = 1 << 29  # 23 170 pixels square; more is taken for a decompression bomb
_MOST_COMPRESSED = 4000  # bytes that one byte of a file can stand for in any of the formats
_BAND = 1 << 20  # pixels of a compressed TIFF decoded at a time
_STRIP = 1 << 16  # bytes of a strip that we write


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, from its header alone.

    Raises:
        DataError: no image that can be read.
    """
    header = read_kind(path)
    return header.height, header.width


def read_kind(path: Path) -> Header:
    """What an image file says of itself, from its header alone.

    Raises:
        DataError: no image that can be read.
    """
    with _reading(path) as file:
        return read_header(file)


def read_image(path: Path) -> Pixels:
    """Read an image of 8-bit RGB (or palette) pixels.

    An orientation noted in the file's metadata is not applied: masks have none.

    Returns:
        RGB, (H, W, 3).

    Raises:
        DataError: unreadable, damaged, 16-bit, grey, CMYK, or with a fourth channel that is not opaque throughout.
    """
    with _reading(path) as file:
        header = _colour_header(file)
        return _pixels(file, header, (0, 0, header.height, header.width))


def read_window(path: Path, top: int, left: int, height: int, width: int) -> Pixels:
    """Read a window of an image; of a TIFF, only the strips or tiles that it touches are read and decoded.

    The window must lie inside the image; otherwise as `read_image`.

    Returns:
        RGB, (height, width, 3).

    Raises:
        DataError: as `read_image`; of a TIFF only where the window touches.
    """
    with _reading(path) as file:
        header = _colour_header(file)
        if min(top, left) < 0 or min(height, width) < 1 or top + height > header.height or left + width > header.width:
            raise FormatError(
                f"window of {width} x {height} at ({left}, {top}) is not inside {header.width} x {header.height} pixels"
            )
        return _pixels(file, header, (top, left, height, width))


def read_colours(path: Path) -> Pixels:
    """Read a colour mask; a palette's pixels mean their colours. Otherwise as `read_image`.

    Returns:
        RGB, (H, W, 3).

    Raises:
        DataError: as `read_image`, and lossy, or not what its checksums say.
    """
    with _reading(path) as file:
        header = _colour_header(file)
        _check_exact(file, header)
        return _pixels(file, header, (0, 0, header.height, header.width))


def read_index(path: Path) -> Pixels:
    """Read the raw values of an index mask: grey values, or the indices of a palette.

    Returns:
        Values as they stand in the file, (H, W).

    Raises:
        DataError: unreadable, damaged, lossy, or a colour mask.
    """
    with _reading(path) as file:
        header = read_header(file)
        _check_size(file, header)
        kind = header.kind.removesuffix("+alpha") if header.kind == "palette+alpha" else header.kind
        if kind not in ("grey", "palette") or header.bits > 8:
            raise FormatError(
                f"{header.bits}-bit {header.kind} pixels where an index mask (8-bit grey or palette) is expected; "
                "convert colour masks first (see the tools)"
            )
        _check_exact(file, header)
        data = _whole(file, header)
    with _naming(path):
        if header.bits == 8 and header.format == "png":
            values = png.read_differences(data, header.height, header.width)
            if values is not None:
                return values
            if kind == "grey":
                return _checked(_decode(data, cv2.IMREAD_UNCHANGED), header, 2)
        index = _pillow(data)
        if kind == "grey" and header.bits < 8:  # decoded as shades of grey up to 255
            index = index // np.uint8(255 // (2**header.bits - 1))
        return _checked(index, header, 2)


def write_png(path: Path, pixels: Pixels) -> None:
    """Write a mask (H, W) or a picture or colour mask (H, W, 3), RGB, as PNG: whole or not at all.

    Masks are stored unfiltered, at zlib's level 3: of OpenCV's default size, and decoded two to three times as fast.
    Runs alone, or a lower level, decode more slowly; a higher one takes three times as long to write.

    Raises:
        DataError: it cannot be written.
    """
    if pixels.ndim == 2:
        settings = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
        settings += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    else:
        settings, pixels = [], cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, settings)
    if not done:
        raise DataError(f"{path}: these pixels {pixels.shape} cannot be written as PNG.")
    write_bytes(path, data.tobytes())


def write_tiff(path: Path, rgb: Pixels) -> None:
    """Write an RGB (H, W, 3) TIFF, uncompressed in short strips, so that `read_window` reads only what it needs.

    Raises:
        DataError: it cannot be written.
    """
    height, width = rgb.shape[:2]
    rows = max(1, min(height, _STRIP // (3 * width)))
    blocks = [rgb[top : top + rows].tobytes() for top in range(0, height, rows)]
    counts = [len(block) for block in blocks]
    write_bytes(path, tiff.build("<", tiff.rgb_entries(), (height, width), counts, blocks, rows))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it: whole or not at all.

    Raises:
        DataError: it cannot be written (no such folder, no permission, no space).
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.stem}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as problem:
        raise DataError(f"{path}: cannot be written: {problem.strerror or problem}.") from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what a decoder may raise into an error that names the file."""
    try:
        yield
    except (FormatError, tiff.TiffError) as problem:
        raise DataError(f"{path}: {problem}.") from problem
    except Image.DecompressionBombError as problem:
        raise DataError(f"{path}: too many pixels for this kind of file: {problem} Split it first.") from problem
    except (cv2.error, OSError, ValueError, SyntaxError) as problem:
        if isinstance(problem, OSError) and problem.strerror:  # of the disk; Pillow's have no such text
            raise DataError(f"{path}: cannot be read: {problem.strerror}.") from problem
        raise DataError(f"{path}: cannot be decoded, the file is damaged or unusual: {_reason(problem)}.") from problem
    except MemoryError as problem:
        raise DataError(f"{path}: too large for this machine's memory.") from problem


def _reason(problem: Exception) -> str:
    """A decoder's words, without the place in memory that Pillow names instead of the file."""
    return "Pillow knows no such kind of image" if isinstance(problem, UnidentifiedImageError) else str(problem)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    with _naming(path):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for ever
            raise FormatError("a pipe or a device where a file is expected")
        with path.open("rb") as file:
            yield file


def _check_size(file: BinaryIO, header: Header) -> None:
    """Refuse to decode what would fill the memory: too many pixels, or more than the file can hold."""
    pixels = header.height * header.width
    if pixels > MAX_PIXELS:
        raise FormatError(
            f"its header gives {header.width} x {header.height} pixels, expected at most {MAX_PIXELS}; split it first"
        )
    if pixels * header.bits // 8 > _MOST_COMPRESSED * (size := file.seek(0, 2)):
        raise FormatError(f"{size} bytes cannot hold {header.width} x {header.height} pixels; the file is damaged")


def _check_exact(file: BinaryIO, header: Header) -> None:
    """Refuse a mask whose values are not those that were saved, as far as its format can tell.

    A PNG's checksums are compared when it is read. Of TIFFs only deflated ones have checksums: a bit that flips in
    another one shows where it makes an unknown value, colour or length.
    """
    if header.format == "jpeg" or (header.page is not None and not header.page.lossless):
        raise FormatError("a mask saved as JPEG or otherwise lossy: its values are no longer exact; use the original")
    if header.page is not None and header.page.deflated:
        tiff.check_deflated(file, header.page)


def _colour_header(file: BinaryIO) -> Header:
    """Header of an image that can be read as 8-bit RGB."""
    header = read_header(file)
    _check_size(file, header)
    if header.bits > 8:
        raise FormatError(
            f"{header.bits} bits a sample where 8 are expected; rescale it to 8-bit RGB, the same way for all images"
        )
    if header.kind not in ("rgb", "palette", "rgb+alpha", "palette+alpha"):
        raise FormatError(f"{header.kind} pixels where RGB is expected; save it as 8-bit RGB")
    return header


def _pixels(file: BinaryIO, header: Header, window: tuple[int, int, int, int]) -> Pixels:
    """RGB of a window (top, left, height, width)."""
    top, left, height, width = window
    page = header.page
    whole = (height, width) == (header.height, header.width)
    if page is None or not page.separable or (whole and not page.raw and height * width <= _BAND):
        pixels = _checked(_decode_colours(_whole(file, header), header), header, 3)
        return _own(_opaque(pixels[top : top + height, left : left + width]))
    if page.raw:
        rows = np.frombuffer(tiff.read_rows(file, page, top, height), np.uint8)
        return _own(_opaque(rows.reshape(height, page.width, page.samples)[:, left : left + width]))
    if height * (left + width) <= _BAND and lzw.suits(page, window):
        return _own(_opaque(lzw.read_window(file, page, window, _pillow)))
    part_height = page.part[0]
    step = max(part_height, _BAND // page.width // part_height * part_height)
    rgb = np.empty((height, width, 3), np.uint8)
    for begin in range(top // step * step, top + height, step):
        band = max(begin, top), left, min(begin + step, top + height) - max(begin, top), width
        data, down, right = tiff.read_part(file, page, *band)
        pixels = _decode_colours(data, header)[band[0] - down :, left - right :][: band[2], :width]
        if pixels.shape[:2] != band[2:]:
            raise FormatError(f"decodes to {pixels.shape[1]} x {pixels.shape[0]} pixels, expected {width} x {band[2]}")
        rgb[band[0] - top :][: band[2]] = _opaque(pixels)
    return rgb


def _opaque(pixels: Pixels) -> Pixels:
    """RGB (a view) of RGB, or of RGBA where nothing is transparent."""
    if pixels.shape[2] == 4:
        if pixels[..., 3].min(initial=255) < 255:
            raise FormatError(
                "a fourth channel that is not opaque throughout (transparency, or infrared?) where RGB is expected; "
                "save the three channels alone"
            )
        pixels = pixels[..., :3]
    return pixels


def _own(pixels: Pixels) -> Pixels:
    """The pixels, contiguous and free to be written to."""
    return np.require(pixels, requirements=("C", "W"))


def _whole(file: BinaryIO, header: Header) -> bytes:
    """All bytes of a file, found complete."""
    file.seek(0)
    data = file.read()
    if header.format == "png":
        check_png(data)
    elif header.format == "jpeg":
        check_jpeg(data)
    return data


def _decode_colours(data: bytes, header: Header) -> Pixels:
    """RGB or RGBA, (H, W, 3 or 4)."""
    if header.format == "tiff":  # OpenCV goes on, silently, where a strip cannot be decoded
        return _pillow(data, "RGB")
    if header.kind == "palette+alpha":
        return _pillow(data, "RGBA")
    if header.kind == "rgb+alpha":
        bgra = _decode(data, cv2.IMREAD_UNCHANGED)
        return cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA)
    return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode(data: bytes, flags: int) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise FormatError("cannot be decoded, the file is damaged or of an unusual kind; save it again as PNG")
    if pixels.dtype != np.uint8:
        raise FormatError(f"decodes to {pixels.dtype} samples, expected 8 bits")
    return pixels


def _pillow(data: bytes, palette: str | None = None) -> Pixels:
    """What OpenCV cannot give: damage in a TIFF, a palette's indices or (mode `palette`) transparency, few bits."""
    with Image.open(io.BytesIO(data)) as picture:
        mode = {"1": "L", "P": palette or "P"}.get(picture.mode, picture.mode)
        return np.asarray(picture.convert(mode) if mode != picture.mode else picture, np.uint8)


def _checked(pixels: Pixels, header: Header, dimensions: int) -> Pixels:
    """The pixels, if they are as many as the header says."""
    if pixels.ndim != dimensions or pixels.shape[:2] != (header.height, header.width):
        raise FormatError(
            f"decodes to shape {pixels.shape}, expected {header.height} rows of {header.width} {header.kind} pixels"
        )
    return pixels
