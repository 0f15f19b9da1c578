import io
import itertools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from d2ls.data import io as files
from d2ls.data import png
from d2ls.data.headers import FormatError
from d2ls.errors import DataError

INDICES = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 6) | st.integers(0, 255)
)


def encoded(rows: bytes, height: int, width: int, *, parts: int = 1, interlaced: int = 0, kind: int = 0) -> bytes:
    """A PNG of these bytes (each row led by its filter), its stream dealt out to chunks."""
    stream = zlib.compress(rows)
    cuts = [len(stream) * part // parts for part in range(parts + 1)]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, interlaced))]
    chunks += [(b"PLTE", bytes(768))] if kind == 3 else []
    chunks += [(b"IDAT", stream[begin:end]) for begin, end in itertools.pairwise(cuts)]
    chunks += [(b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def filtered(index: NDArray[np.uint8], filters: list[int]) -> bytes:
    """Rows as PNG filters 0 (none), 1 (sub) and 2 (up) store them, value by value."""
    rows = bytearray()
    for row, number in enumerate(filters):
        rows.append(number)
        for column, value in enumerate(index[row].tolist()):
            left = int(index[row, column - 1]) if column else 0
            above = int(index[row - 1, column]) if row else 0
            rows.append((value - (0, left, above)[number]) % 256)
    return bytes(rows)


@given(index=INDICES, parts=st.integers(1, 4), kind=st.sampled_from([0, 3]))
def test_differences_are_added_up(index: NDArray[np.uint8], parts: int, kind: int) -> None:
    data = encoded(filtered(index, [1] * len(index)), *index.shape, parts=parts, kind=kind)
    values = png.read_differences(data, *index.shape)
    assert np.array_equal(values, index)
    assert values.flags.c_contiguous
    assert values.flags.writeable
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), index)  # the file itself is sound


@given(index=INDICES, data=st.data())
def test_other_filters_are_left_to_the_decoder(index: NDArray[np.uint8], data: st.DataObject) -> None:
    filters = data.draw(st.lists(st.integers(0, 2), min_size=len(index), max_size=len(index)))
    values = png.read_differences(encoded(filtered(index, filters), *index.shape), *index.shape)
    assert (values is not None) == all(number == 1 for number in filters)
    assert values is None or np.array_equal(values, index)


@pytest.mark.parametrize("kind", ["opencv", "pillow", "palette", "ours"])
def test_masks_of_any_writer_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    index = np.kron(np.random.default_rng(0).integers(0, 7, (9, 11), dtype=np.uint8), np.ones((5, 4), np.uint8))
    path = tmp_path / "m.png"
    if kind == "opencv":
        cv2.imwrite(str(path), index)
    elif kind == "ours":
        files.write_png(path, index)
    else:
        picture = Image.fromarray(index)
        if kind == "palette":
            picture.putpalette(list(range(256)) * 3)
        picture.save(path)
    read = files.read_index(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, index)
    assert (png.read_differences(path.read_bytes(), *index.shape) is not None) == (kind == "opencv")


def test_interlaced_rows_are_left_to_the_decoder() -> None:
    assert png.read_differences(encoded(bytes([1, 5]), 1, 1, interlaced=1), 1, 1) is None


@pytest.mark.parametrize("rows", [bytes([1, 5, 0]), bytes([1, 5, 0] * 3)], ids=["short", "long"])
def test_streams_of_another_length_are_damaged(rows: bytes, tmp_path: Path) -> None:
    words = r"decodes to \d bytes.*, expected 6"
    with pytest.raises(FormatError, match=words):
        png.read_differences(encoded(rows, 2, 2), 2, 2)
    path = tmp_path / "m.png"
    path.write_bytes(encoded(rows, 2, 2))
    with pytest.raises(DataError, match=f"m.png: {words}"):
        files.read_index(path)


def test_a_damaged_stream_is_an_error() -> None:
    whole = encoded(filtered(np.arange(200, dtype=np.uint8).reshape(10, 20), [1] * 10), 10, 20)
    at = whole.index(b"IDAT") + 4
    for place in (at, at + 40):
        with pytest.raises(FormatError, match="damaged"):
            png.read_differences(whole[:place] + b"\xff\xff\xff" + whole[place + 3 :], 10, 20)
