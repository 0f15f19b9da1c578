"""Sliding-window inference: where windows lie, and how their maps are blended, a few rows at a time."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from d2ls.data.spec import IMAGENET_MEAN, IMAGENET_STD
from d2ls.errors import ConfigError
from d2ls.inference.tta import Model


@dataclass(frozen=True)
class Windows:
    """Size and overlap of windows.

    Attributes:
        height: in pixels.
        width: in pixels.
        overlap: share of a window, at least, that its neighbour covers too.

    Raises:
        ConfigError: no size, or an overlap outside 0 to 0.9.
    """

    height: int
    width: int
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ConfigError(f"windows of {self.width} x {self.height} pixels; expected 1 or more each way.")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"windows overlap by {self.overlap}; expected a share from 0 to 0.9.")


@dataclass(frozen=True)
class Axis:
    """The windows along one side of an image.

    Attributes:
        padding: pixels added before the image's first.
        starts: first pixel of each window, in the padded image.
        weights: weight of each window at each of its pixels, (number, window); they sum to 1 at each pixel.
    """

    padding: int
    starts: tuple[int, ...]
    weights: Tensor

    @property
    def window(self) -> int:
        """Pixels of a window."""
        return self.weights.shape[1]

    @property
    def ends(self) -> tuple[int, ...]:
        """Of each window, the first pixel that the next one covers too; of the last window, its end."""
        return (*self.starts[1:], self.starts[-1] + self.window)


class WindowMap(NamedTuple):
    """The map of one window: values (K, h, w), and the window's numbers from the top and from the left."""

    row: int
    column: int
    values: Tensor


def axis(length: int, window: int, overlap: float = 0.0) -> Axis:
    """Place windows of one size along a side, which is padded at its beginning where they do not fit.

    Without overlap the side is padded to a multiple of the window, as in the reference implementation; with overlap
    to one window at least, see `blended_axis`.

    Args:
        length: pixels of the side.
        window: pixels of a window.
        overlap: share of the window.
    """
    if overlap == 0:
        padding = -length % window
        starts = tuple(range(0, padding + length, window))
        return Axis(padding, starts, torch.ones(len(starts), window))
    padding = max(0, window - length)
    return replace(blended_axis(padding + length, window, overlap), padding=padding)


def blended_axis(length: int, window: int, overlap: float) -> Axis:
    """Place windows evenly from end to end, without padding; a side shorter than a window is one window.

    Each window's weight is a raised cosine (sin^2) over its length that is nowhere zero, divided by the sum of all.

    Args:
        length: pixels of the side.
        window: pixels of a window.
        overlap: share of the window, at least.
    """
    window = min(window, length)
    room = length - window
    steps = math.ceil(room / max(1, math.floor(window * (1 - overlap))))
    starts = tuple(round(room * step / steps) for step in range(steps + 1)) if steps else (0,)
    ramp = torch.sin(math.pi * (torch.arange(window, dtype=torch.float64) + 0.5) / window).square()
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    weights = torch.stack([ramp / total[start : start + window] for start in starts])
    return Axis(0, starts, weights.float())


def blend_rows(
    rows: Axis, columns: Axis, maps: Iterable[WindowMap], first: int = 0
) -> Iterator[tuple[int, Tensor | None]]:
    """Weighted sums of windows, from the top to the bottom.

    Only rows that windows still to come may change are held: K x window x width values.

    Args:
        rows: the windows from the top to the bottom.
        columns: the windows from the left to the right.
        maps: in order, row by row; windows may be left out.
        first: number of the first row of windows.

    Yields:
        For each row of windows, its number and the rows of the image that no later window covers, (K, n, width); they
        are valid until the next is asked for. None where no window has come yet.
    """
    held: Tensor | None = None
    ends, width = rows.ends, columns.ends[-1]
    row = first
    for at, column, values in maps:
        while row < at:
            yield row, None if held is None else held[:, : ends[row] - rows.starts[row]]
            _shift(held, ends[row] - rows.starts[row])
            row += 1
        if held is None:
            held = values.new_zeros(len(values), rows.window, width)
        left = columns.starts[column]
        weights = torch.outer(rows.weights[at], columns.weights[column]).to(values)
        held[:, :, left : left + columns.window].addcmul_(values, weights)
    for last in range(row, len(ends)):
        yield last, None if held is None else held[:, : ends[last] - rows.starts[last]]
        _shift(held, ends[last] - rows.starts[last])


def _shift(held: Tensor | None, number: int) -> None:
    """Drop the first rows of (K, H, W) in place and append as many zero rows, without a second copy of all."""
    if held is None or number == 0:
        return
    height = held.shape[1]
    for top in range(0, height - number, number):
        count = min(number, height - number - top)
        held[:, top : top + count] = held[:, top + number : top + number + count]
    held[:, height - number :] = 0


def segment_windows(model: Model, frame: Tensor, windows: Windows, batch: int = 1) -> Tensor:
    """Logits of a frame, blended from those of its windows.

    Args:
        model: called on batches of windows, all of the full size.
        frame: ImageNet-normalised, (3, H, W), of any size; it is padded with black pixels at the top and left.
        windows: size and overlap.
        batch: windows for one call of the model.

    Returns:
        (K, H, W), on the device of the model's logits.
    """
    height, width = frame.shape[-2:]
    rows, columns = axis(height, windows.height, windows.overlap), axis(width, windows.width, windows.overlap)
    padded = _black(height + rows.padding, width + columns.padding, frame)
    padded[:, rows.padding :, columns.padding :] = frame

    def maps() -> Iterator[WindowMap]:
        places = list(product(enumerate(rows.starts), enumerate(columns.starts)))
        for group in (places[at : at + batch] for at in range(0, len(places), batch)):
            cuts = [padded[:, y : y + rows.window, x : x + columns.window] for (_, y), (_, x) in group]
            for ((row, _), (column, _)), logits in zip(group, model(torch.stack(cuts)), strict=True):
                yield WindowMap(row, column, logits)

    parts = [part.clone() for _, part in blend_rows(rows, columns, maps()) if part is not None]
    return torch.cat(parts, dim=1)[:, rows.padding :, columns.padding :]


def _black(height: int, width: int, like: Tensor) -> Tensor:
    """Black pixels as an ImageNet-normalised image, (3, height, width)."""
    values = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return like.new_tensor(values)[:, None, None].repeat(1, height, width)
