"""Prediction on rasters of any size: windows are read, segmented and blended a few rows at a time.

Memory is about width x (4 K x overlapping rows + 2 x window x bytes of the input's bands) and a constant; it does not
grow with the height. Large arrays that live on beside the network's are kept few: they would leave holes in the heap.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2ls.inference.predictor import classes_of
from d2ls.inference.raster_file import RasterFile
from d2ls.inference.sliding_window import Axis, Blend, Windows, blended_axis
from d2ls.inference.tta import Model
from d2ls.inference.writer import Writer
from d2ls.memory import mapped_array

NODATA = 255
"""Value of pixels without a prediction, in every layer of a map."""
LEVELS = 250
"""Value of the probability 1 in a layer of probabilities; 0 is 0."""
_WAITING = 1  # windows between the network and their blending

Pixels = NDArray[Any]


class Window(NamedTuple):
    """The input of one window."""

    row: int  # its number from the top
    column: int  # its number from the left
    pixels: Pixels | None  # values, (C, h, w); None where none of them is data
    valid: NDArray[np.bool_]  # where the pixels that no later window covers are data, (n, m)


class Rows(NamedTuple):
    """Finished rows of a map; NODATA where there is no data, and None for layers that nobody asked for."""

    top: int  # the first of the n rows
    classes: NDArray[np.uint8]  # class indices, (n, W)
    probabilities: NDArray[np.uint8] | None  # of each class, 0 to LEVELS, (K, n, W)
    confidence: NDArray[np.uint8] | None  # probability of the predicted class, 0 to LEVELS, (n, W)


@dataclass(frozen=True)
class Segmentation:
    """Settings of the segmentation of a raster."""

    model: Model  # logits (B, K, h, w) of normalised windows (B, C, h, w)
    normalise: Callable[[Pixels], Tensor]  # values (C, h, w) as the model takes them
    num_classes: int  # K
    windows: Windows  # a raster smaller than a window is one smaller window
    batch: int = 1  # windows for one call of the model
    probabilities: bool = False  # whether this layer is wanted
    confidence: bool = False  # whether this one is

    def run(
        self, source: RasterFile, write: Callable[[Rows], None], *, turned: bool = False, finished: int = 0,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Segment a raster; reading, the model and `write`, which has its own thread, overlap.

        Args:
            source: the raster.
            write: called for successive rows.
            turned: whether the source is the transpose of an image, as its map is; the model gets the image's windows.
            finished: rows at the top that an earlier run has written: as many as it was called for.
            progress: called with the number of rows that were finished since the last call.
        """
        sides = (self.windows.height, self.windows.width)[:: -1 if turned else 1]
        rows, columns = (
            blended_axis(length, side, self.windows.overlap)
            for length, side in zip((source.height, source.width), sides, strict=True)
        )
        first = next((i for i, start in enumerate(rows.starts) if start + rows.window > finished), len(rows.starts))
        progress(finished)
        with closing(_read_windows(source, rows, columns, first)) as inputs, Writer(write, waiting=1) as writer:

            def done(result: Rows) -> None:
                writer.put(result)
                progress(len(result.classes))

            with Writer(_Assembly(self, rows, columns, finished, done).add, waiting=_WAITING) as assembly:
                for windows in self._batches(inputs):
                    self._segment(windows, turned, assembly)

    def _segment(self, windows: list[Window], turned: bool, assembly: Writer[tuple[Window, Tensor | None]]) -> None:
        """Run the model on windows that have data, and hand all of them on; their inputs end here."""
        cuts = [self.normalise(window.pixels) for window in windows if window.pixels is not None]
        maps = iter(self._logits(cuts, turned) if cuts else ())
        for window in windows:
            assembly.put((window._replace(pixels=None), None if window.pixels is None else next(maps)))

    def _logits(self, cuts: list[Tensor], turned: bool) -> Tensor:
        images = torch.stack(cuts) if len(cuts) > 1 else cuts[0][None]  # a window alone is not copied
        return self.model(images.mT.contiguous()).mT.contiguous() if turned else self.model(images)

    def _batches(self, inputs: Iterator[Window]) -> Iterator[list[Window]]:
        """Windows of one row in order, so that a resumed run groups them in the same way; `batch` of them have data."""
        for _, row in groupby(inputs, attrgetter("row")):
            group: list[Window] = []
            for window in row:
                group.append(window)
                if sum(w.pixels is not None for w in group) == self.batch:
                    yield group
                    group = []
            yield group


class _Assembly:
    """Maps of windows become rows of a map, in a thread of their own; `done` gets them but for the `finished` ones."""

    def __init__(
        self, settings: Segmentation, rows: Axis, columns: Axis, finished: int, done: Callable[[Rows], None]
    ) -> None:
        self._settings, self._rows, self._columns = settings, rows, columns
        self._finished, self._done = finished, done
        self._blend = Blend(rows, columns)
        self._shares: Tensor | None = None  # probabilities of a window, (K, h, w)
        self._open: Rows | None = None

    @torch.inference_mode()
    def add(self, item: tuple[Window, Tensor | None]) -> None:
        """Blend a window and its logits (K, h, w), None of one without data, with those before it."""
        (row, column, _, valid), logits = item
        if logits is not None:
            self._shares = torch.softmax(logits, 0, out=self._shares)
        elif self._shares is not None:
            self._shares.zero_()
        part = self._blend.add(row, column, self._shares)
        top = self._rows.starts[row]
        if top < self._finished:
            return
        if self._open is None:
            self._open = self._empty(top, len(valid))
        if part is not None:
            left, known = self._columns.starts[column], valid.shape[1]
            self._fill(self._open, slice(left, left + known), part, valid)
        if column == len(self._columns.starts) - 1:
            self._done(self._open)
            self._open = None

    def _empty(self, top: int, number: int) -> Rows:
        settings, shape = self._settings, (number, self._columns.ends[-1])

        def layer(*shape: int) -> NDArray[np.uint8]:
            values = mapped_array(shape, np.uint8)
            values.fill(NODATA)
            return values

        return Rows(
            top,
            layer(*shape),
            layer(settings.num_classes, *shape) if settings.probabilities else None,
            layer(*shape) if settings.confidence else None,
        )

    def _fill(self, rows: Rows, columns: slice, part: Tensor, valid: NDArray[np.bool_]) -> None:
        """Write the layers of probabilities (K, n, m)."""
        classes = classes_of(part, self._settings.num_classes)
        np.copyto(rows.classes[:, columns], classes.get().numpy(), where=valid)
        if rows.confidence is not None:
            np.copyto(rows.confidence[:, columns], _levels(part.amax(dim=0)), where=valid)
        if rows.probabilities is not None:
            np.copyto(rows.probabilities[:, :, columns], _levels(part), where=valid)


def _levels(probabilities: Tensor) -> NDArray[np.uint8]:
    return probabilities.mul(LEVELS).round_().clamp_(0, LEVELS).to(torch.uint8).cpu().numpy()


def _read_windows(source: RasterFile, rows: Axis, columns: Axis, first: int) -> Generator[Window]:
    """The windows in order; chunks of rows are read once, by a thread, as far ahead as the next row of windows."""
    chunks: deque[_Chunk] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="d2ls-reader") as pool:
        asked = rows.starts[first] // source.chunk * source.chunk if first < len(rows.starts) else 0
        for row in range(first, len(rows.starts)):
            top, end = rows.starts[row], rows.starts[row] + rows.window
            while chunks and chunks[0].bottom <= top:
                chunks.popleft()
            ahead = rows.starts[min(row + 1, len(rows.starts) - 1)] + rows.window
            for begin in range(asked, ahead, source.chunk):
                asked = min(begin + source.chunk, source.height)
                chunks.append(_Chunk(begin, asked, pool.submit(source.read, begin, asked)))
            parts = [(chunk, *chunk.pixels.result()) for chunk in chunks if chunk.top < end]
            for column, left in enumerate(columns.starts):
                across = slice(left, left + columns.window)
                along = [slice(max(0, top - chunk.top), end - chunk.top) for chunk, _, _ in parts]
                valid = np.concatenate([mask[cut, across] for (*_, mask), cut in zip(parts, along, strict=True)])
                pixels = None
                if valid.all():
                    valid = np.broadcast_to(np.True_, valid.shape)
                if valid.any():
                    cuts = [values[:, cut, across] for (_, values, _), cut in zip(parts, along, strict=True)]
                    pixels = np.concatenate(cuts, axis=1)
                yield Window(row, column, pixels, valid[: rows.ends[row] - top, : columns.ends[column] - left])


class _Chunk(NamedTuple):
    """Rows of the raster that are being read, from `top` to `bottom`: values (C, n, W), and where they are data."""

    top: int
    bottom: int
    pixels: Future[tuple[Pixels, NDArray[np.bool_]]]
