"""Rasters by rows of windows: exact for functions of single pixels, flat in memory, resumed where they were left."""

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from d2ls.errors import DataError
from d2ls.inference.raster import LEVELS, NODATA, Rows, Segmentation
from d2ls.inference.sliding_window import Windows

CLASSES = 4


class Array:
    """A raster in memory that notes which rows were read."""

    def __init__(self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None = None, chunk: int = 8) -> None:
        self.pixels, self.valid = pixels, np.ones(pixels.shape[1:], bool) if valid is None else valid
        self.height, self.width = pixels.shape[1:]
        self.chunk = chunk
        self.read_rows: list[tuple[int, int]] = []

    def read(self, top: int, bottom: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        assert 0 <= top < bottom <= self.height
        self.read_rows.append((top, bottom))
        return self.pixels[:, top:bottom], self.valid[top:bottom]


def single_pixels(images: Tensor) -> Tensor:
    """Logits that depend on one pixel alone, and in which the classes are well apart."""
    value = images[:, :1]
    return torch.cat([((value * (k + 3) + 7 * k) % 11) for k in range(CLASSES)], dim=1)


def segmentation(window: tuple[int, int], overlap: float, **options: Any) -> Segmentation:
    model = options.pop("model", single_pixels)
    to_float = lambda pixels: torch.from_numpy(pixels.astype(np.float32))  # noqa: E731
    return Segmentation(model, to_float, CLASSES, Windows(*window, overlap), **options)


def collect(work: Segmentation, source: Array, finished: int = 0) -> list[Rows]:
    found: list[Rows] = []
    work.run(source, found.append, finished=finished)
    return found


def random_pixels(height: int, width: int, bands: int = 2) -> NDArray[np.uint16]:
    return np.random.default_rng(height * 1000 + width).integers(0, 1000, (bands, height, width), dtype=np.uint16)


@given(
    st.integers(1, 90), st.integers(1, 90), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(0, 0.9),
    st.integers(1, 5), st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=60)
def test_a_function_of_single_pixels_is_exactly_the_unwindowed_result(
    height: int, width: int, window: tuple[int, int], overlap: float, batch: int, missing: float
) -> None:
    pixels = random_pixels(height, width)
    valid = np.random.default_rng(1).random((height, width)) >= missing
    valid[height // 3 :, width // 2 :] = False
    source = Array(pixels, valid)
    work = segmentation(window, overlap, batch=batch, probabilities=True, confidence=True)
    found = collect(work, source)
    logits = single_pixels(torch.from_numpy(pixels.astype(np.float32))[None])[0]
    expected = np.where(valid, logits.argmax(dim=0).numpy(), NODATA)
    np.testing.assert_array_equal(np.concatenate([rows.classes for rows in found]), expected)
    shares = np.concatenate([rows.probabilities for rows in found], axis=1)
    exact = logits.softmax(dim=0).numpy() * LEVELS
    assert np.abs(shares[:, valid] - exact[:, valid]).max(initial=0) <= 0.501
    assert (shares[:, ~valid] == NODATA).all()
    confidence = np.concatenate([rows.confidence for rows in found])
    np.testing.assert_array_equal(confidence[valid], shares.max(axis=0)[valid])
    assert [rows.top for rows in found] == np.cumsum([0, *(len(rows.classes) for rows in found[:-1])]).tolist()
    ends = [bottom for _, bottom in source.read_rows]
    assert source.read_rows == list(zip([0, *ends[:-1]], ends, strict=True))  # every row once, in order
    assert ends[-1] == height


@given(st.integers(20, 80), st.integers(1, 30), st.floats(0, 0.9), st.integers(0, 20))
@settings(max_examples=30)
def test_resumed_after_any_row_the_rest_is_the_same(height: int, window: int, overlap: float, at: int) -> None:
    kernel = torch.rand(CLASSES, 2, 3, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    model = partial(torch.nn.functional.conv2d, weight=kernel, padding=1)
    work = segmentation((window, 16), overlap, model=model, confidence=True)
    pixels = random_pixels(height, 33)
    whole = collect(work, Array(pixels))
    at %= len(whole) + 1
    finished = whole[at].top if at < len(whole) else height
    rest = collect(work, Array(pixels), finished)
    assert len(rest) == len(whole) - at
    for one, other in zip(whole[at:], rest, strict=True):
        assert one.top == other.top
        np.testing.assert_array_equal(one.classes, other.classes)
        np.testing.assert_array_equal(one.confidence, other.confidence)


@given(st.integers(20, 60), st.integers(20, 60), st.floats(0, 0.9), st.integers(1, 3))
@settings(max_examples=20)
def test_a_raster_read_by_columns_gives_the_same(height: int, width: int, overlap: float, batch: int) -> None:
    kernel = torch.rand(CLASSES, 2, 3, 5, generator=torch.Generator().manual_seed(0)) - 0.5  # of no symmetry
    model = partial(torch.nn.functional.conv2d, weight=kernel / 100, padding=(1, 2))
    work = segmentation((16, 24), overlap, model=model, probabilities=True, batch=batch)
    pixels = random_pixels(height, width)
    valid = pixels[0] > 300
    found = collect(work, Array(pixels, valid))
    turned: list[Rows] = []
    work.run(Array(pixels.swapaxes(1, 2), valid.T), turned.append, turned=True)
    expected = np.concatenate([rows.probabilities for rows in found], axis=1).astype(int)
    shares = np.concatenate([rows.probabilities for rows in turned], axis=1).swapaxes(1, 2).astype(int)
    assert np.abs(shares - expected).max() <= 1
    assert (shares == expected).mean() > 0.999
    assert (shares.argmax(axis=0) == expected.argmax(axis=0)).mean() > 0.99


def test_windows_without_data_are_skipped() -> None:
    valid = np.zeros((64, 64), bool)
    valid[40:, 5] = True
    calls = []
    work = segmentation((16, 16), 0, model=lambda images: calls.append(len(images)) or single_pixels(images))
    found = collect(work, Array(random_pixels(64, 64), valid))
    assert calls == [1, 1]  # rows 32 to 48 and 48 to 64 of the first column
    classes = np.concatenate([rows.classes for rows in found])
    assert ((classes == NODATA) == ~valid).all()


def test_reading_and_writing_have_threads_of_their_own() -> None:
    threads: dict[str, set[str]] = {"read": set(), "model": set(), "write": set()}

    def note(part: str, value: Any) -> Any:
        threads[part].add(threading.current_thread().name)
        return value

    source = Array(random_pixels(64, 16))
    read = source.read
    source.read = lambda top, bottom: note("read", read(top, bottom))  # type: ignore[method-assign]
    work = segmentation((16, 16), 0.25, model=lambda images: note("model", single_pixels(images)))
    work.run(source, lambda rows: note("write", None))
    assert threads["read"] == {"d2ls-reader_0"}
    assert threads["write"] == {"d2ls-writer_0"}
    assert threads["model"] == {threading.current_thread().name}


def test_errors_of_reading_and_writing_come_through() -> None:
    source = Array(random_pixels(64, 16))
    read = source.read

    def damaged(top: int, bottom: int) -> Any:
        if bottom > 40:
            raise DataError("rows are damaged")
        return read(top, bottom)

    source.read = damaged  # type: ignore[method-assign]
    with pytest.raises(DataError, match="rows are damaged"):
        collect(segmentation((16, 16), 0.25), source)

    def full(_: Rows) -> None:
        raise DataError("the disk is full")

    with pytest.raises(DataError, match="the disk is full"):
        segmentation((16, 16), 0.25).run(Array(random_pixels(64, 16)), full)
