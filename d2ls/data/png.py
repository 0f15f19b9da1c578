"""Index masks in PNG files whose rows are stored as differences, as OpenCV writes them: decoded faster than by OpenCV.

A PNG is one zlib stream of rows, each led by the number of its filter (PNG specification, sections 7 and 9).
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from d2ls.data.headers import FormatError

_SUB = 1  # the filter that keeps differences to the left neighbour, mod 256


def read_differences(data: bytes, height: int, width: int) -> NDArray[np.uint8] | None:
    """The values of an 8-bit grey or palette PNG, its chunks found whole before.

    Returns:
        (height, width); None where it is interlaced or a row has another filter.

    Raises:
        FormatError: the stream is damaged, or not as long as the pixels.
    """
    length, interlaced = height * (width + 1), data[28]
    stream = _stream(data)
    try:
        if interlaced or zlib.decompressobj().decompress(stream, 1) != bytes([_SUB]):
            return None
        decoder = zlib.decompressobj()
        rows = np.frombuffer(decoder.decompress(stream, length + 1), np.uint8)  # a bomb would go on
    except zlib.error as problem:
        raise FormatError(f"the file is damaged ({problem})") from problem
    if rows.size != length or not decoder.eof:
        raise FormatError(f"decodes to {rows.size} bytes, expected {length}; the file is damaged")
    rows = rows.reshape(height, width + 1)
    if (rows[:, 0] != _SUB).any():
        return None
    pixels = rows[:, 1:].copy()
    _add_up(pixels)
    return pixels


def _stream(data: bytes) -> bytes:
    """The contents of all IDAT chunks."""
    parts, position = [], 8
    while (name := data[position + 4 : position + 8]) != b"IEND":
        (length,) = struct.unpack_from(">I", data, position)
        if name == b"IDAT":
            parts.append(data[position + 8 : position + 8 + length])
        position += length + 12
    return b"".join(parts)


def _add_up(pixels: NDArray[np.uint8]) -> None:
    """Replace the values of each row by their sums from the left, mod 256.

    Each round doubles how many values a sum takes in. A few rounds over all pixels at once are faster than one sum
    after the other.
    """
    step = 1
    while step < pixels.shape[1]:
        pixels[:, step:] += pixels[:, :-step]
        step *= 2
