"""The one reader and writer of image files: RGB outside, OpenCV's BGR only in the decoders.

A PNG shows any damage to its pixels by its checksums, as does a mask in a deflated TIFF. Other TIFFs show it only where
a block cannot be decoded, is too short or missing: a flipped bit may pass, so masks are safest as PNG. A flipped bit
inside a JPEG is never seen. Orientations that a file notes are applied.
"""

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from d2ls.data import decode
from d2ls.data.image_header import FormatError, Header, read_header
from d2ls.errors import DataError

Pixels = NDArray[np.uint8]
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2")
"""Endings of the image files that are read, in lower case."""
_TILE = 256  # pixels of a side of the tiles that we write


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, as it is shown, from its header (raises DataError: no readable image)."""
    header = read_kind(path)
    return header.height, header.width


def read_kind(path: Path) -> Header:
    """Header of an image file; raises as `read_size`."""
    with decode.reading(path) as file:
        return read_header(file)


def read_image(path: Path) -> Pixels:
    """Read an image of 8-bit RGB (or palette) pixels, RGB (H, W, 3), upright where the file notes an orientation.

    Raises:
        DataError: unreadable, damaged, 16-bit, grey, CMYK, or with a fourth channel that is not opaque throughout.
    """
    with decode.reading(path) as file:
        return decode.read_rgb(file, path, decode.colour_header(file))


def read_window(path: Path, top: int, left: int, height: int, width: int) -> Pixels:
    """Read a window inside an image as `read_image` does; of a TIFF only the blocks that it touches are decoded."""
    with decode.reading(path) as file:
        header = decode.colour_header(file)
        decode.check_window((top, left, height, width), header.height, header.width)
        return decode.read_rgb(file, path, header, (top, left, height, width))


def read_colours(path: Path) -> Pixels:
    """Read a colour mask as `read_image` does, by a palette's colours (raises DataError: as that, and lossy)."""
    with decode.reading(path) as file:
        header = decode.colour_header(file)
        decode.check_exact(file, header)
        return decode.read_rgb(file, path, header)


def read_index(path: Path) -> Pixels:
    """Read the raw values of an index mask, (H, W): grey values, or the indices of a palette.

    Masks of other types are read where all values are whole numbers from 0 to 255.

    Raises:
        DataError: unreadable, damaged, lossy, a colour mask, or values that are no whole numbers from 0 to 255.
    """
    with decode.reading(path) as file:
        header = read_header(file)
        decode.check_size(file, header)
        if header.kind not in ("grey", "palette", "palette+alpha"):
            raise FormatError(
                f"{header.bits}-bit {header.kind} pixels where an index mask (grey or palette) is expected; "
                "convert colour masks first (see the tools)"
            )
        decode.check_exact(file, header)
        if header.format == "tiff":
            values: NDArray[Any] = decode.read_samples(path, header)[..., 0]
        elif header.kind == "grey" and header.format == "png" and header.bits >= 8:
            values = decode.checked(decode.decoded(decode.whole_file(file, header), cv2.IMREAD_UNCHANGED), header, 2)
        else:
            values = decode.checked(decode.by_pillow(decode.whole_file(file, header), "P"), header, 2)
            if header.kind == "grey" and header.bits < 8:  # decoded as shades of grey up to 255
                values = values // np.uint8(255 // (2**header.bits - 1))
        values = decode.upright(values, header)
        values = values if values.dtype == np.uint8 else decode.as_bytes(values)
        return np.require(values, requirements=("C", "W"))


def write_png(path: Path, pixels: Pixels, palette: Sequence[tuple[int, int, int]] | None = None) -> None:
    """Write `png_bytes` as `write_bytes` does."""
    write_bytes(path, png_bytes(pixels, palette))


def png_bytes(pixels: Pixels, palette: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """Encode a mask (H, W) or a picture or colour mask (H, W, 3), RGB, as PNG.

    Masks are stored unfiltered, at zlib's level 3: of OpenCV's default size, and decoded two to three times as fast. A
    palette gives colours that viewers show for the values 0, 1, ... of a mask; the values stay what they are.
    """
    if palette is not None and pixels.ndim == 2:
        picture, stream = Image.fromarray(pixels), io.BytesIO()
        picture.putpalette(np.ravel(palette).tolist() + [0] * (768 - 3 * len(palette)))
        picture.save(stream, "PNG", compress_level=3, bits=8)
        return stream.getvalue()
    if pixels.ndim == 2:
        settings = [cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
        settings += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    else:
        settings, pixels = [], cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, settings)
    if not done:
        raise DataError(f"pixels of the shape {pixels.shape} cannot be written as PNG.")
    return data.tobytes()


def write_tiff(path: Path, rgb: Pixels) -> None:
    """Write an RGB (H, W, 3) TIFF, uncompressed in tiles (small ones in strips), which `read_window` reads fastest."""
    height, width = rgb.shape[:2]
    tiles = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE} if min(height, width) >= _TILE else {}
    with rasterio.Env(**decode.GDAL_OPTIONS), MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
        with memory.open(**profile, interleave="pixel", photometric="RGB", **tiles) as raster:
            raster.write(np.moveaxis(rgb, -1, 0))
        write_bytes(path, bytes(memory.getbuffer()))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: under a temporary name, then renamed (raises DataError: it cannot be)."""
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as problem:
        raise DataError(f"{path}: cannot be written: {problem.strerror or problem}.") from problem
    finally:
        with suppress(OSError):
            temporary.unlink()
