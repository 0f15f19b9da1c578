"""Prediction on rasters of any size: windows are read, segmented and blended a few rows at a time.

Memory is about window x width x (4 K + bytes of the input's bands) and a constant; it does not grow with the height.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2ls.inference.predictor import classes_of
from d2ls.inference.sliding_window import Axis, WindowMap, Windows, blend_rows, blended_axis
from d2ls.inference.tta import Model
from d2ls.inference.writer import Writer

NODATA = 255
"""Value of pixels without a prediction, in every layer of a map."""
LEVELS = 250
"""Value of the probability 1 in a layer of probabilities; 0 is 0."""
_CHUNK = 1 << 20  # pixels whose probabilities are turned into classes at once

Pixels = NDArray[Any]


class Source(Protocol):
    """A raster that is read by rows: `d2ls.inference.raster_file.RasterFile`, or an array in a test."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    def read(self, top: int, bottom: int) -> tuple[Pixels, NDArray[np.bool_]]:
        """Values (C, n, W) of the rows from top to bottom, and where they are data, (n, W)."""


class WindowRow(NamedTuple):
    """The input of one row of windows.

    Attributes:
        row: its number.
        own: rows of the raster, from its first, that no later row of windows covers.
        pixels: values, (C, h, W).
        valid: where they are data, (h, W).
    """

    row: int
    own: int
    pixels: Pixels
    valid: NDArray[np.bool_]


class Rows(NamedTuple):
    """Finished rows of a map, each value uint8.

    Attributes:
        top: the first of the n rows.
        classes: class indices, NODATA where there is no data, (n, W).
        probabilities: of each class, 0 to LEVELS, (K, n, W); None unless asked for.
        confidence: probability of the predicted class, 0 to LEVELS, (n, W); None unless asked for.
    """

    top: int
    classes: NDArray[np.uint8]
    probabilities: NDArray[np.uint8] | None
    confidence: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Segmentation:
    """Settings of the segmentation of a raster.

    Attributes:
        model: logits (B, K, h, w) of normalised windows (B, C, h, w).
        normalise: values (C, h, w) as the model takes them.
        num_classes: K.
        windows: size and overlap; a raster smaller than a window is one smaller window.
        batch: windows for one call of the model.
        probabilities: whether the probabilities are wanted.
        confidence: whether the confidence is wanted.
    """

    model: Model
    normalise: Callable[[Pixels], Tensor]
    num_classes: int
    windows: Windows
    batch: int = 1
    probabilities: bool = False
    confidence: bool = False

    def rows(self, height: int) -> Axis:
        """The windows of a raster of this height, from the top to the bottom."""
        return blended_axis(height, self.windows.height, self.windows.overlap)

    def run(
        self,
        source: Source,
        write: Callable[[Rows], None],
        *,
        finished: int = 0,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Segment a raster; reading, the model and `write`, which has its own thread, overlap.

        Args:
            source: the raster.
            write: called for successive rows.
            finished: rows at the top that an earlier run has written: as many as it was called for.
            progress: called with the number of rows that were finished since the last call.

        Raises:
            DataError: the raster cannot be read, or the model gives no numbers.
        """
        rows = self.rows(source.height)
        columns = blended_axis(source.width, self.windows.width, self.windows.overlap)
        first = next((i for i, start in enumerate(rows.starts) if start + rows.window > finished), len(rows.starts))
        progress(finished)
        valid: deque[NDArray[np.bool_]] = deque()
        with closing(_read_rows(source, rows, first)) as inputs, Writer(write, waiting=2) as writer:
            for row, summed in blend_rows(rows, columns, self._maps(inputs, columns, valid), first):
                top, known = rows.starts[row], valid.popleft()
                if top >= finished:
                    writer.put(self._result(top, summed, known))
                    progress(len(known))

    def _maps(self, inputs: Iterator[WindowRow], columns: Axis, valid: deque[NDArray[np.bool_]]) -> Iterator[WindowMap]:
        """Probabilities of the windows in order; those without data are left out."""
        waiting: list[tuple[int, int, Tensor]] = []
        for row, own, pixels, data in inputs:
            valid.append(data[:own].copy())
            for column, left in enumerate(columns.starts):
                if not data[:, left : left + columns.window].any():
                    continue
                waiting.append((row, column, self.normalise(pixels[:, :, left : left + columns.window])))
                if len(waiting) == self.batch:
                    yield from self._segment(waiting)
                    waiting.clear()
        if waiting:
            yield from self._segment(waiting)

    def _segment(self, windows: list[tuple[int, int, Tensor]]) -> Iterator[WindowMap]:
        logits = self.model(torch.stack([window for _, _, window in windows]))
        for (row, column, _), values in zip(windows, logits, strict=True):
            yield WindowMap(row, column, values.softmax(dim=0))

    def _result(self, top: int, summed: Tensor | None, valid: NDArray[np.bool_]) -> Rows:
        shape = valid.shape
        classes = np.full(shape, NODATA, np.uint8)
        confidence = np.full(shape, NODATA, np.uint8) if self.confidence else None
        probabilities = np.full((self.num_classes, *shape), NODATA, np.uint8) if self.probabilities else None
        step = max(1, _CHUNK // shape[1])
        for begin in range(0, shape[0] if summed is not None else 0, step):
            part, known = summed[None, :, begin : begin + step], valid[begin : begin + step]  # type: ignore[index]
            rows = slice(begin, begin + step)
            classes[rows][known] = classes_of(part, self.num_classes)[0].numpy()[known]
            if confidence is not None:
                confidence[rows][known] = _levels(part.amax(dim=1))[0][known]
            if probabilities is not None:
                probabilities[:, rows][:, known] = _levels(part)[0][:, known]
        return Rows(top, classes, probabilities, confidence)


def _levels(probabilities: Tensor) -> NDArray[np.uint8]:
    return probabilities.mul(LEVELS).round_().clamp_(0, LEVELS).to(torch.uint8).cpu().numpy()


def _read_rows(source: Source, rows: Axis, first: int) -> Generator[WindowRow]:
    """The input of each row of windows; rows of the raster are read once, and ahead, by a thread."""
    if first == len(rows.starts):
        return
    with ThreadPoolExecutor(1, thread_name_prefix="d2ls-reader") as pool:
        top = rows.starts[first]
        waiting = pool.submit(source.read, top, top + rows.window)
        kept: tuple[Pixels, NDArray[np.bool_]] | None = None
        for row in range(first, len(rows.starts)):
            pixels, valid = waiting.result()
            if row + 1 < len(rows.starts):
                waiting = pool.submit(source.read, rows.starts[row] + rows.window, rows.starts[row + 1] + rows.window)
            if kept is not None:
                pixels, valid = np.concatenate((kept[0], pixels), axis=1), np.concatenate((kept[1], valid))
            own = rows.ends[row] - rows.starts[row]
            yield WindowRow(row, own, pixels, valid)
            kept = pixels[:, own:], valid[own:]
