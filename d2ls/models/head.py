"""From pixels and entries at stride 4 to logits at full resolution (spec section 1, item 6).

The method shuffles C channels of a stride-4 cell into a 4 x 4 block of C/16-channel pixels, in two steps of 2 x 2 with
a LayerNorm and a GELU after the first and a GELU after the second. All of these act on a pixel of some resolution
alone, so here they run on the cells, channels last, and each full-resolution pixel moves to its place once, at the end.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2ls.models.bands import by_bands

NORM_EPS = 1e-6


class PixelUpsampler(nn.Module):
    """C channels at stride 4 to C/16 channels at full resolution.

    Args:
        width: C, divisible by 16.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width // 4, eps=NORM_EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, 4 H, 4 W, C/16), channels last."""
        return upsample(pixels, self.norm.weight, self.norm.bias)


def upsample(pixels: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """What `PixelUpsampler` does, with the gains and biases (C/4) of its norm."""
    batch, height, width, channels = pixels.shape
    # Channel (c * 4 + s2) * 4 + s1 belongs to place s1 of the first shuffle and place s2 of the second.
    cells = pixels.reshape(-1, channels // 16, 4, 4).permute(0, 3, 2, 1).contiguous()  # (BHW, s1, s2, C/16)
    # The norm over the C/4 channels of the half-resolution pixel s1 is one over (s2, c): reorder its gains.
    gain, bias = (x.unflatten(0, (-1, 4)).T for x in (gain, bias))
    cells = F.gelu(F.gelu(F.layer_norm(cells, cells.shape[-2:], gain, bias, NORM_EPS)))
    blocks = cells.view(batch, height, width, 2, 2, 2, 2, -1)  # h, w, y1, x1, y2, x2
    return blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, 4 * height, 4 * width, -1)


class DictionaryHead(nn.Module):
    """Logits as products of entries and upsampled pixels.

    Args:
        width: embedding width C.
        num_entries: dictionary entries N.
        num_classes: classes K; where it differs from N, a linear map over the entry axis turns N into K.
    """

    def __init__(self, width: int, num_entries: int, num_classes: int) -> None:
        super().__init__()
        self.upsampler = PixelUpsampler(width)
        self.token_mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 16)
        )
        self.entries_to_classes = nn.Linear(num_entries, num_classes) if num_entries != num_classes else None

    def forward(self, tokens: Tensor, bands: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, 4 H, 4 W) of tokens (B, N, C) and pixels in bands of rows, (B, h, W, C) each."""
        classes = self.token_mlp(tokens)  # (B, N, C/16)
        if self.entries_to_classes is not None:
            classes = self.entries_to_classes(classes.transpose(1, 2)).transpose(1, 2)  # (B, K, C/16)
        norm = self.upsampler.norm
        return by_bands(_products, bands, classes, norm.weight, norm.bias)


def _products(pixels: Tensor, classes: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Entries (B, K, C/16) times upsampled pixels (B, H, W, C): (B, K, 4 H, 4 W)."""
    image = upsample(pixels, gain, bias)
    rows = image.flatten(1, 2).to(classes.dtype)  # norms may have raised it
    logits = classes @ rows.mT if torch.compiler.is_compiling() else _Scores.apply(classes, rows)
    return logits.unflatten(-1, image.shape[1:3])


class _Scores(torch.autograd.Function):
    """classes @ rows^T. The gradient of the rows comes as rows; autograd's own comes as columns, slow to move."""

    @staticmethod
    def forward(ctx: Any, classes: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(classes, rows)
        return classes @ rows.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        classes, rows = ctx.saved_tensors
        return gradient @ rows, gradient.mT @ classes


class ConvHead(nn.Module):
    """The ablation without a dictionary: a 1x1 convolution on the upsampled pixels.

    Args:
        width: embedding width C.
        num_classes: classes K.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.upsampler = PixelUpsampler(width)
        self.classify = nn.Linear(width // 16, num_classes)  # a 1x1 convolution, written for channels-last rows

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, K, 4 H, 4 W) of pixels (B, H, W, C)."""
        return self.classify(self.upsampler(pixels)).permute(0, 3, 1, 2).contiguous()
