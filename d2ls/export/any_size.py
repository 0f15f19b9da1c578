"""Layers of timm that branch on the image size, in a form that a graph of all sizes can hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn


@contextmanager
def any_size(network: nn.Module) -> Iterator[None]:
    """While the context lasts, timm's Swin blocks and TensorFlow convolutions compute the same in another form.

    Swin's own padding is (n - H % n) % n, of which torch.export cannot tell that it fills the last window; TensorFlow's
    is max(ceil(H / n) ..., 0), which grows with every layer and which a .pt2 file cannot hold.
    """
    replaced: list[tuple[nn.Module, str]] = []
    for module in network.modules():
        if type(module) in _METHODS:
            name, function = _METHODS[type(module)]
            setattr(module, name, MethodType(function, module))
            replaced.append((module, name))
    try:
        yield
    finally:
        for module, name in replaced:
            delattr(module, name)


def _windowed(block: Any, x: Tensor) -> Tensor:
    """Attention in shifted windows, (B, H, W, C) to (B, H, W, C)."""
    _, height, width, channels = x.shape
    sides, shifts = block.window_size, block.shift_size
    shifted = any(shifts)
    if shifted:
        x = x.roll((-shifts[0], -shifts[1]), (1, 2))
    counts = [(length + side - 1) // side for length, side in zip((height, width), sides, strict=True)]
    padded = [count * side for count, side in zip(counts, sides, strict=True)]
    x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
    mask = None
    if shifted:
        regions = [_regions(n, side, shift) for n, side, shift in zip(padded, sides, shifts, strict=True)]
        label = _split((3 * regions[0].unsqueeze(1) + regions[1]).view(1, *padded, 1), counts, sides).squeeze(-1)
        mask = torch.where(label.unsqueeze(1) == label.unsqueeze(2), 0.0, -100.0).to(x.dtype)
    windows = block.attn(_split(x, counts, sides), mask=mask)
    x = windows.view(-1, *counts, *sides, channels).transpose(2, 3).reshape(-1, *padded, channels)
    x = x.index_select(1, torch.arange(height)).index_select(2, torch.arange(width))
    return x.roll(tuple(shifts), (1, 2)) if shifted else x


def _split(x: Tensor, counts: list[int], sides: tuple[int, int]) -> Tensor:
    """Windows (B * n, h * w, C) of a map (B, H, W, C) that they fill."""
    x = x.view(-1, counts[0], sides[0], counts[1], sides[1], x.shape[-1])
    return x.transpose(2, 3).reshape(-1, sides[0] * sides[1], x.shape[-1])


def _regions(length: int, side: int, shift: int) -> Tensor:
    """0, 1 or 2 for each row: those of whole windows, of the last one, and those that were shifted round."""
    rows = torch.arange(length)
    return (rows >= length - side).int() + (rows >= length - shift).int() if shift else (rows >= length - side).int()


def _merge(merging: Any, x: Tensor) -> Tensor:
    """Patches of 2 x 2 become one, (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), C')."""
    _, height, width, channels = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    x = F.pad(x, (0, 0, 0, 2 * columns - width, 0, 2 * rows - height))
    patches = x.view(-1, rows, 2, columns, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
    return merging.reduction(merging.norm(patches))


def _convolve(conv: Any, x: Tensor) -> Tensor:
    """Convolution with TensorFlow's padding: ceil(H / stride) rows, what is odd of the padding at the bottom."""
    padding: list[Any] = []
    for dim in (1, 0):  # columns first, as F.pad counts
        length, step = x.shape[2 + dim], conv.stride[dim]
        reach = conv.dilation[dim] * (conv.kernel_size[dim] - 1) + 1
        total = ((length + step - 1) // step - 1) * step + reach - length
        if reach < step:
            total = torch.sym_max(total, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, padding), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


_METHODS = {
    SwinTransformerBlock: ("_attn", _windowed),
    PatchMerging: ("forward", _merge),
    Conv2dSame: ("forward", _convolve),
}
"""Classes of timm, the method of each that is replaced, and by what."""
