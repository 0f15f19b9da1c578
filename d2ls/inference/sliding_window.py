"""Large frames window by window: where the windows lie, and how they are joined."""

import math
from dataclasses import dataclass
from itertools import product

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
        overlap: share of a window, at least, that its neighbour covers too; 0 puts them edge to edge.

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
    """The windows along one side of a frame.

    Attributes:
        padding: pixels added before the frame's first.
        starts: first pixel of each window, in the padded frame.
        weights: how much each window counts at each of its pixels, (number, window); they sum to 1 at each pixel.
    """

    padding: int
    starts: tuple[int, ...]
    weights: Tensor


def axis(length: int, window: int, overlap: float = 0.0) -> Axis:
    """Place windows along a side.

    Without overlap the side is padded at its beginning to a multiple of the window, as the reference does. With
    overlap it is padded up to one window only, and windows lie evenly from end to end; each counts by a raised
    cosine over its length, so that its neighbour takes over without a step.

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
    room = padding + length - window
    steps = math.ceil(room / max(1, math.floor(window * (1 - overlap))))
    starts = tuple(round(room * step / steps) for step in range(steps + 1)) if steps else (0,)
    ramp = torch.sin(math.pi * (torch.arange(window, dtype=torch.float64) + 0.5) / window).square()
    total = torch.zeros(padding + length, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += ramp
    weights = torch.stack([ramp / total[start : start + window] for start in starts])
    return Axis(padding, starts, weights.float())


def segment_windows(model: Model, frame: Tensor, windows: Windows, batch: int = 1) -> Tensor:
    """Logits of a frame, put together from those of its windows.

    Args:
        model: called on windows, batched; all have the full size.
        frame: ImageNet-normalised, (3, H, W), of any size; it is padded with black pixels at the top and left.
        windows: size and overlap.
        batch: windows that the model gets at once.

    Returns:
        (K, H, W), on the device of the model's logits.
    """
    height, width = frame.shape[-2:]
    rows, columns = axis(height, windows.height, windows.overlap), axis(width, windows.width, windows.overlap)
    padded = _black(height + rows.padding, width + columns.padding, frame)
    padded[:, rows.padding :, columns.padding :] = frame
    places = list(product(rows.starts, columns.starts))
    weights = list(product(rows.weights, columns.weights))
    logits = frame.new_zeros(0)
    for first in range(0, len(places), batch):
        group = places[first : first + batch]
        parts = model(torch.stack([_cut(padded, place, windows) for place in group]))
        if first == 0:
            logits = parts.new_zeros(parts.shape[1], *padded.shape[1:])
        for place, (down, across), part in zip(group, weights[first:], parts, strict=False):
            _cut(logits, place, windows).addcmul_(part, torch.outer(down, across).to(part))
    return logits[:, rows.padding :, columns.padding :]


def _cut(frame: Tensor, place: tuple[int, int], windows: Windows) -> Tensor:
    top, left = place
    return frame[:, top : top + windows.height, left : left + windows.width]


def _black(height: int, width: int, like: Tensor) -> Tensor:
    """Black pixels as an ImageNet-normalised image, (3, height, width)."""
    values = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return like.new_tensor(values)[:, None, None].repeat(1, height, width)
