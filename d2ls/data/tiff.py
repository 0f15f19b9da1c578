"""The directory of a TIFF file, and the strips or tiles that a window of it needs.

TIFF compresses strips and tiles one by one. A window is read by copying those it touches, as they are, into a small
TIFF in memory for the decoder (TIFF 6.0, sections 2 and 15), so that nothing else is read or decompressed.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_TYPES |= {13: "I", 16: "Q", 17: "q", 18: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 262, 273, 277
_ROWS, _COUNTS, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT = 278, 279, 284, 317, 322, 323
_TILE_OFFSETS, _TILE_COUNTS, _FORMAT = 324, 325, 339
_KEPT = (258, 259, 262, 266, 277, 284, 317, 320, 322, 323, 338, 339, 347, 530, 532)  # what a decoder needs to know
_LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)  # none, fax, LZW, deflate, PackBits, deflate, LZMA, Zstd
_DEFLATE = (8, 32946)
_KINDS = {0: "white-is-zero grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb", 8: "cielab"}


class TiffError(ValueError):
    """Why a TIFF cannot be read; the caller adds its name."""


@dataclass(frozen=True)
class Entry:
    """One entry of the directory: its TIFF type and its values."""

    type: int
    values: tuple[int | float, ...]

    def packed(self, order: str) -> bytes:
        """The values as the file has them."""
        letters = _TYPES[self.type]
        return struct.pack(order + letters * (len(self.values) // len(letters)), *self.values)


@dataclass(frozen=True)
class Page:
    """The first page's directory; `order` is "<" or ">", the byte order."""

    order: str
    entries: dict[int, Entry]

    def get(self, tag: int, default: int) -> int:
        """First value of an entry."""
        entry = self.entries.get(tag)
        return int(entry.values[0]) if entry and entry.values else default

    @property
    def height(self) -> int:
        """Rows of the image."""
        return self.get(_HEIGHT, 0)

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return self.get(_WIDTH, 0)

    @property
    def samples(self) -> int:
        """Channels of a pixel."""
        return self.get(_SAMPLES, 1)

    @property
    def bits(self) -> int:
        """Bits of the widest channel."""
        entry = self.entries.get(_BITS)
        return int(max(entry.values)) if entry else 1

    @property
    def kind(self) -> str:
        """Kind of pixels in the words of `headers.Header`."""
        if self.get(_FORMAT, 1) not in (1, 4):
            return "signed or floating-point"
        kind = _KINDS.get(self.get(_PHOTOMETRIC, 1), "unknown")
        colours = 4 if kind == "cmyk" else 3 if kind in ("rgb", "cielab") else 1
        extra = self.samples - colours
        return kind if extra == 0 else f"{kind}+alpha" if extra == 1 else f"{self.samples}-channel"

    @property
    def raw(self) -> bool:
        """Whether the strips are the pixels themselves, 8 bit a sample."""
        plain = self.get(_COMPRESSION, 1) == 1 and self.get(_PREDICTOR, 1) == 1 and not self.tiled
        return plain and self.bits == 8 and self.kind in ("rgb", "grey", "rgb+alpha") and self.get(_PHOTOMETRIC, 1) != 6

    @property
    def lossless(self) -> bool:
        """Whether decoding gives the pixels that were saved."""
        return self.get(_COMPRESSION, 1) in _LOSSLESS

    @property
    def deflated(self) -> bool:
        """Whether every strip or tile is a zlib stream, which ends in a checksum."""
        return self.get(_COMPRESSION, 1) in _DEFLATE

    @property
    def tiled(self) -> bool:
        """Whether it has tiles rather than strips."""
        return _TILE_OFFSETS in self.entries

    @property
    def separable(self) -> bool:
        """Whether parts of it can be read by themselves: channels lie together, not in planes."""
        return self.samples == 1 or self.get(_PLANAR, 1) == 1

    @property
    def part(self) -> tuple[int, int]:
        """Height and width of a strip or tile."""
        if self.tiled:
            return self.get(_TILE_HEIGHT, 0), self.get(_TILE_WIDTH, 0)
        return min(self.get(_ROWS, self.height), self.height), self.width

    def locations(self) -> NDArray[np.int64]:
        """Offset and length of every strip or tile, in bytes, (n, 2)."""
        tags = (_TILE_OFFSETS, _TILE_COUNTS) if self.tiled else (_OFFSETS, _COUNTS)
        if tags[1] not in self.entries and len(self.entries[tags[0]].values) == 1 and self.raw:
            count = self.height * self.width * self.samples  # old writers leave it out
            return np.array([(self.get(tags[0], 0), count)], np.int64)
        return np.array([self.entries[tag].values for tag in tags], np.int64).T


def read_page(file: BinaryIO) -> Page:
    """Read the first page's directory.

    Raises:
        TiffError: it is damaged, or strips lie outside the file.
    """
    size = file.seek(0, 2)
    file.seek(0)
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    (version,) = struct.unpack(order + "H", file.read(2))
    big = version == 43
    if version not in (42, 43):
        raise TiffError(f"TIFF of version {version}, expected 42 or 43")
    if big:
        file.seek(8)
    word, entry_size, count = ("Q", 20, "Q") if big else ("I", 12, "H")
    file.seek(_one(file, order + word))
    number = _one(file, order + count)
    if number * entry_size > size:
        raise TiffError("the directory of the TIFF is damaged")
    directory = file.read(number * entry_size)
    entries: dict[int, Entry] = {}
    for position in range(0, number * entry_size, entry_size):
        tag, kind, length = struct.unpack_from(f"{order}HH{word}", directory, position)
        if kind in _TYPES and tag < 1024:
            value = directory[position + entry_size - struct.calcsize(word) : position + entry_size]
            entries[tag] = _entry(file, order, kind, length, value, size)
    page = Page(order, entries)
    _check(page, size)
    return page


def check_deflated(file: BinaryIO, page: Page) -> None:
    """Compare every strip or tile of a `deflated` page with its checksum, which decoders do not read.

    Raises:
        TiffError: one is damaged, or holds more or less than its pixels.
    """
    part_height, part_width = page.part
    row = -(-part_width * page.bits * (page.samples if page.separable else 1) // 8)
    down, across = -(-page.height // part_height), -(-page.width // part_width)
    for number, part in enumerate(_read_each(file, page.locations())):
        last = not page.tiled and number // across % down == down - 1
        rows = page.height - (down - 1) * part_height if last else part_height
        stream = zlib.decompressobj()
        try:
            length = len(stream.decompress(part, row * part_height + 1))
        except zlib.error as problem:
            raise TiffError(f"a strip or tile of the TIFF is damaged ({problem})") from problem
        if not stream.eof or not row * rows <= length <= row * part_height:
            raise TiffError(f"a strip or tile of the TIFF has {length} bytes, expected {row * rows}")


def read_rows(file: BinaryIO, page: Page, top: int, height: int) -> bytes:
    """The pixels of rows `top` to `top + height` of a `raw` page, 8 bit a sample.

    Raises:
        TiffError: the file breaks off, or a strip is shorter than its rows.
    """
    part_height, length = page.part[0], page.width * page.samples
    parts = page.locations()[top // part_height : -(-(top + height) // part_height)]
    first = (top // part_height + np.arange(len(parts))) * part_height
    begin = np.maximum(top - first, 0) * length
    end = np.minimum(top + height - first, part_height) * length
    if (short := end > parts[:, 1]).any():
        worst = int(short.argmax())
        raise TiffError(f"a strip of the TIFF has {parts[worst, 1]} bytes, expected {end[worst]} or more")
    return b"".join(read_at(file, np.stack([parts[:, 0] + begin, end - begin], 1)))


def read_part(file: BinaryIO, page: Page, top: int, left: int, height: int, width: int) -> tuple[bytes, int, int]:
    """The strips or tiles of a `separable` page that a window touches.

    Returns:
        A TIFF of them, and the row and column of the page where it begins.

    Raises:
        TiffError: the file breaks off.
    """
    part_height, part_width = page.part
    rows = range(top // part_height, -(-(top + height) // part_height))
    columns = range(left // part_width, -(-(left + width) // part_width))
    across = -(-page.width // part_width)
    wanted = page.locations()[np.add.outer(np.array(rows) * across, np.array(columns)).ravel()]
    begin, start = rows[0] * part_height, columns[0] * part_width
    shape = (min(page.height, rows.stop * part_height) - begin, min(page.width, columns.stop * part_width) - start)
    kept = {tag: page.entries[tag] for tag in _KEPT if tag in page.entries}
    rows_of_a_strip = None if page.tiled else part_height
    return build(page.order, kept, shape, wanted[:, 1].tolist(), read_at(file, wanted), rows_of_a_strip), begin, start


def build(
    order: str,
    entries: dict[int, Entry],
    shape: tuple[int, int],
    counts: Sequence[int],
    data: Iterable[bytes],
    rows: int | None,
) -> bytes:
    """A TIFF of one page, its strips (`rows` rows each) or tiles (`rows` None) one behind the other.

    Args:
        order: byte order, "<" or ">".
        entries: what to say of the pixels besides their place and size.
        shape: height and width.
        counts: bytes of each encoded strip or tile.
        data: these bytes, in pieces of any length.
        rows: rows of a strip.
    """
    *offsets, position = accumulate(counts, initial=8)
    places = (_OFFSETS, _COUNTS) if rows else (_TILE_OFFSETS, _TILE_COUNTS)
    directory = dict(entries) | {
        _HEIGHT: Entry(4, (shape[0],)),
        _WIDTH: Entry(4, (shape[1],)),
        places[0]: Entry(4, tuple(offsets)),
        places[1]: Entry(4, tuple(counts)),
    }
    if rows:
        directory[_ROWS] = Entry(4, (rows,))
    padding = position % 2
    start = position + padding
    overflow_at = start + 2 + 12 * len(directory) + 4
    head, overflow = [struct.pack(order + "H", len(directory))], b""
    for tag, entry in sorted(directory.items()):
        value = entry.packed(order)
        count = len(entry.values) // len(_TYPES[entry.type])
        if len(value) > 4:
            place = struct.pack(order + "I", overflow_at + len(overflow))
            value, overflow = place, overflow + value + b"\0" * (len(value) % 2)
        head.append(struct.pack(order + "HHI", tag, entry.type, count) + value.ljust(4, b"\0"))
    magic = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, start)
    return b"".join((magic, *data, b"\0" * padding, *head, b"\0" * 4, overflow))


def rgb_entries() -> dict[int, Entry]:
    """The directory of uncompressed 8-bit RGB."""
    one = {_COMPRESSION: 1, _PHOTOMETRIC: 2, _SAMPLES: 3, _PLANAR: 1}
    return {_BITS: Entry(3, (8, 8, 8))} | {tag: Entry(3, (value,)) for tag, value in one.items()}


def _one(file: BinaryIO, layout: str) -> int:
    (value,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(value)


def _entry(file: BinaryIO, order: str, kind: int, length: int, value: bytes, size: int) -> Entry:
    letters = _TYPES[kind]
    needed = struct.calcsize(order + letters) * length
    if needed > size:
        raise TiffError("the directory of the TIFF is damaged")
    if needed > len(value):
        (offset,) = struct.unpack(order + ("I" if len(value) == 4 else "Q"), value)
        file.seek(offset)
        value = file.read(needed)
    return Entry(kind, struct.unpack(order + letters * length, value[:needed]))


def _check(page: Page, size: int) -> None:
    """Refuse a page whose parts do not cover it or lie outside the file."""
    part_height, part_width = page.part
    if min(page.height, page.width, part_height, part_width) < 1:
        raise TiffError(
            f"its header gives {page.width} x {page.height} pixels in parts of {part_width} x {part_height}"
        )
    try:
        locations = page.locations()
    except (KeyError, ValueError, OverflowError) as problem:
        raise TiffError("the TIFF does not say where its pixels are") from problem
    planes = 1 if page.separable else page.samples
    expected = -(-page.height // part_height) * -(-page.width // part_width) * planes
    if len(locations) < expected:
        raise TiffError(f"the TIFF has {len(locations)} strips or tiles, expected {expected}")
    used = locations[:expected]
    if used.min() < 1 or used.max() > size or used.sum(1).max() > size:
        raise TiffError("the file breaks off before its end")


def _read_each(file: BinaryIO, locations: NDArray[np.int64]) -> Iterator[bytes]:
    """The bytes of each of these places."""
    for place in locations:
        yield from read_at(file, place[None])


def read_at(file: BinaryIO, locations: NDArray[np.int64]) -> Iterator[bytes]:
    """The bytes at these places (offset and length each), those that lie one behind the other at once."""
    starts, ends = locations[:, 0], locations.sum(1)
    breaks = np.flatnonzero(starts[1:] != ends[:-1])
    for start, end in zip(starts[[0, *(breaks + 1)]].tolist(), ends[[*breaks, -1]].tolist(), strict=True):
        file.seek(start)
        data = file.read(end - start)
        if len(data) < end - start:
            raise TiffError("the file breaks off before its end")
        yield data
