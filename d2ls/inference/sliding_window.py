"""Sliding-window inference: where windows lie, and how their maps are blended, one after the other."""

import math
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from d2ls.data.spec import IMAGENET_MEAN, IMAGENET_STD
from d2ls.errors import ConfigError
from d2ls.inference.tta import Model

LARGEST_WINDOW, LARGEST_SCALED_WINDOW = 1024, 4096


def window_for(train_size: int | None, scale: float = 1.0) -> int:
    """Side of the windows for a network: what it sees of one is as large as its training samples, at most 1024 px.

    Its dictionary depends on all that a window shows; figures are in docs/predict.md. The training samples have
    `train_size` px at most, 1024 where that is unknown, whatever the scale. `scale` is the factor of the image's size
    for the network; windows are cut before, and have at most 4096 px.
    """
    if train_size is None:
        return LARGEST_WINDOW
    return min(round(min(train_size, LARGEST_WINDOW) / scale), LARGEST_SCALED_WINDOW)


@dataclass(frozen=True)
class Windows:
    """Size in pixels, and share of a window, 0 to 0.9, that its neighbour covers too, at least."""

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
    """The windows along one side of an image."""

    padding: int  # pixels added before the image's first
    starts: tuple[int, ...]  # first pixel of each window, in the padded image
    weights: Tensor  # of each window at each of its pixels, (number, window); they sum to 1 at each pixel

    @property
    def window(self) -> int:
        """Pixels of a window."""
        return self.weights.shape[1]

    @property
    def ends(self) -> tuple[int, ...]:
        """Of each window, the first pixel that the next one covers too; of the last window, its end."""
        return (*self.starts[1:], self.starts[-1] + self.window)


def axis(length: int, window: int, overlap: float = 0.0) -> Axis:
    """Place windows of one size along a side, which is padded at its beginning where they do not fit.

    Without overlap the side is padded to a multiple of the window, as in the reference implementation; with overlap
    to one window at least, see `blended_axis`.
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


class Blend:
    """Weighted sums of windows, which are added from the left to the right, row of windows by row of windows.

    Held are the sums that a window still to come may change: those of one window, and of the rows that two rows of
    windows share, K x (window - step) x width values.
    """

    def __init__(self, rows: Axis, columns: Axis) -> None:
        self._rows, self._columns = rows, columns
        self._shared = [start + rows.window - end for start, end in zip(rows.starts, rows.ends, strict=True)]
        self._below: Tensor | None = None  # (K, rows, width): of the row of windows above, and of this one to the left
        self._left: Tensor | None = None  # (K, h, w): at its left what the window to the left shares with the next

    def add(self, row: int, column: int, values: Tensor | None) -> Tensor | None:
        """Add a window by its numbers from the top and the left; the first one is the leftmost of any row.

        Its values (K, h, w) are overwritten; None of a window that is left out count as 0. Returned are the pixels that
        no later window covers, (K, n, m), from its top left corner, a part of `values`; None while no window had any.
        """
        rows, columns = self._rows, self._columns
        left, right, own = columns.starts[column], columns.starts[column] + columns.window, columns.ends[column]
        if self._below is None or self._left is None:
            if values is None:
                return None
            self._below = values.new_zeros(len(values), max(self._shared), columns.ends[-1])
            self._left = torch.zeros_like(values)
        if values is None:
            values = torch.zeros_like(self._left)
        summed = values.mul_(torch.outer(rows.weights[row], columns.weights[column]).to(values))
        known = columns.starts[column - 1] + columns.window - left if column else 0
        summed[:, :, :known] += self._left[:, :, :known]
        above = self._shared[row - 1] if row else 0
        summed[:, :above, known:] += self._below[:, :above, left + known : right]
        finished, last = rows.ends[row] - rows.starts[row], own - left
        self._below[:, : rows.window - finished, left:own] = summed[:, finished:, :last]
        self._left[:, :, : columns.window - last] = summed[:, :, last:]
        return summed[:, :finished, :last]


def segment_windows(model: Model, frame: Tensor, windows: Windows, batch: int = 1, *, padded: bool = True) -> Tensor:
    """Logits of a frame, blended from those of its windows.

    Args:
        model: called on batches of windows, all of the full size.
        frame: normalised, (bands, H, W), of any size.
        windows: size and overlap.
        batch: windows for one call of the model.
        padded: pad the frame, RGB normalised as ImageNet's, with black pixels at the top and left where windows do not
            fit, as the reference does; else windows lie closer together, and are as small as a smaller frame.
    """
    height, width = frame.shape[-2:]
    place = axis if padded else blended_axis
    rows, columns = place(height, windows.height, windows.overlap), place(width, windows.width, windows.overlap)
    canvas = frame
    if rows.padding or columns.padding:
        black = frame.new_tensor([-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)])
        canvas = black[:, None, None].repeat(1, height + rows.padding, width + columns.padding)
        canvas[:, rows.padding :, columns.padding :] = frame

    blend, places = Blend(rows, columns), list(product(enumerate(rows.starts), enumerate(columns.starts)))
    whole: Tensor | None = None
    for group in (places[at : at + batch] for at in range(0, len(places), batch)):
        cuts = [canvas[:, y : y + rows.window, x : x + columns.window] for (_, y), (_, x) in group]
        for ((row, y), (column, x)), logits in zip(group, model(torch.stack(cuts)), strict=True):
            part = blend.add(row, column, logits.clone())
            assert part is not None
            if whole is None:
                whole = part.new_empty(len(part), *canvas.shape[-2:])
            whole[:, y : rows.ends[row], x : columns.ends[column]] = part
    assert whole is not None
    return whole[:, rows.padding :, columns.padding :]


def segment_images(model: Model, images: Tensor, windows: Windows, batch: int) -> Tensor:
    """Logits (B, K, H, W) of images (B, bands, H, W), each blended from its windows, without padding."""
    return torch.stack([segment_windows(model, image, windows, batch, padded=False) for image in images])
