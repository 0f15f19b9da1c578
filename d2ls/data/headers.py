"""What PNG, JPEG and TIFF files say of themselves before any pixel is decoded, and whether they are whole."""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from d2ls.data import tiff

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KINDS = {0: "grey", 2: "rgb", 3: "palette", 4: "grey+alpha", 6: "rgb+alpha"}
_JPEG_KINDS = {1: "grey", 3: "rgb", 4: "cmyk"}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)


class FormatError(ValueError):
    """Why a file is not an image that can be read; the caller adds its name."""


@dataclass(frozen=True)
class Header:
    """Facts of an image file.

    Attributes:
        kind: "grey", "rgb", "palette", "cmyk", ...; with "+alpha" where a further channel follows.
        bits: per sample (per index of a palette).
        page: the directory of a TIFF's first page.
    """

    format: str
    height: int
    width: int
    kind: str
    bits: int
    page: tiff.Page | None = None


def read_header(file: BinaryIO) -> Header:
    """Facts of an open image file; the position in it is left anywhere.

    Raises:
        FormatError: no PNG, JPEG or TIFF, or one that breaks off in its header.
    """
    try:
        start = file.read(26)
        if start.startswith(_PNG):
            header = _png(file, start)
        elif start.startswith(b"\xff\xd8"):
            header = _jpeg(file)
        elif start[:2] in (b"II", b"MM"):
            header = _tiff(file)
        elif not start:
            raise FormatError("the file is empty")
        else:
            raise FormatError("neither PNG, JPEG nor TIFF")
    except (struct.error, IndexError, KeyError, OverflowError) as problem:
        raise FormatError("the file breaks off in its header, or its header is damaged") from problem
    except tiff.TiffError as problem:
        raise FormatError(str(problem)) from problem
    if header.height < 1 or header.width < 1:
        raise FormatError(f"its header gives {header.width} x {header.height} pixels")
    return header


def check_png(data: bytes | memoryview) -> None:
    """Compare every chunk with its checksum.

    Raises:
        FormatError: a chunk is damaged or the file breaks off.
    """
    position = len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise FormatError("the file is damaged (a checksum does not hold)")
        if bytes(data[position + 4 : position + 8]) == b"IEND":
            return
        position = end
    raise FormatError("the file breaks off before its end")


def check_jpeg(data: bytes) -> None:
    """Walk over all segments and scans to the end marker.

    Raises:
        FormatError: the file breaks off.
    """
    position = 2
    while position + 4 <= len(data) or data[position : position + 2] == b"\xff\xd9":
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0xD9:
            break
        if marker == 0xFF or marker in _JPEG_BARE:  # fill bytes
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xDA:  # entropy-coded data follow, up to the next marker
            found = _AFTER_SCAN.search(data, position)
            if found is None:
                break
            position = found.start()
    if data[position : position + 2] != b"\xff\xd9":
        raise FormatError("the file breaks off before its end, or is damaged")


def _png(file: BinaryIO, start: bytes) -> Header:
    width, height, bits, code = struct.unpack_from(">IIBB", start, 16)
    kind = _PNG_KINDS[code]
    file.seek(33)
    while "+alpha" not in kind:  # a chunk tRNS makes a further channel
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"tRNS":
            kind += "+alpha"
        elif name in (b"IDAT", b"IEND"):
            break
        file.seek(length + 4, 1)
    return Header("png", height, width, kind, bits)


def _jpeg(file: BinaryIO) -> Header:
    file.seek(2)
    while True:
        mark, marker = file.read(2)
        while marker == 0xFF:
            (marker,) = file.read(1)
        if mark != 0xFF:
            raise FormatError("the header is damaged")
        if marker in _JPEG_BARE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack(">BHHB", file.read(6))
            return Header("jpeg", height, width, _JPEG_KINDS[channels], bits)
        file.seek(length - 2, 1)


def _tiff(file: BinaryIO) -> Header:
    page = tiff.read_page(file)
    return Header("tiff", page.height, page.width, page.kind, page.bits, page)
