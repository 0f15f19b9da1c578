"""Position codes of the pixels: random Fourier features (spec section 1, item 4)."""

import math

import torch
from torch import Tensor, nn


class PositionCode(nn.Module):
    """A fixed Gaussian matrix, saved with the weights, that turns cell centres into C numbers in [-1, 1].

    Args:
        width: C, even.
    """

    gaussian: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("gaussian", torch.randn(2, width // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Codes (height * width, C) of the cells of a map, row by row, in float32 at least."""
        matrix = self.gaussian.to(torch.promote_types(self.gaussian.dtype, torch.float32))
        # The phase is linear in (x, y): sine and cosine of the columns and of the rows are enough.
        x, y = (
            2 * math.pi * torch.outer((2 * torch.arange(n, device=matrix.device, dtype=matrix.dtype) + 1) / n - 1, axis)
            for n, axis in zip((width, height), matrix, strict=True)
        )
        y = y.unsqueeze(1)
        sine = x.sin() * y.cos() + x.cos() * y.sin()
        cosine = x.cos() * y.cos() - x.sin() * y.sin()
        return torch.cat([sine, cosine], dim=-1).flatten(0, 1)
