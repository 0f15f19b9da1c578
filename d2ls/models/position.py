"""Position codes of the pixels: random Fourier features (spec section 1, item 4)."""

import math

import torch
from torch import Tensor, nn


class PositionCode(nn.Module):
    """A fixed Gaussian matrix, saved with the weights, that turns cell centres into C numbers in [-1, 1], C even."""

    gaussian: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("gaussian", torch.randn(2, width // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Codes (height * width, C) of the cells of a map, row by row, in float32 at least."""
        matrix = 2 * math.pi * self.gaussian.to(max(self.gaussian.dtype, torch.float32, key=lambda x: x.itemsize))
        # The phase is linear in (x, y): sines and cosines of the columns and of the rows are enough. Centres of n cells
        # lie at (2 i + 1 - n) / n in [-1, 1].
        x, y = (
            torch.outer(torch.arange(1 - n, n, 2, device=matrix.device, dtype=matrix.dtype) / n, axis)
            for n, axis in zip((width, height), matrix, strict=True)
        )
        sin_x, cos_x, sin_y, cos_y = x.sin(), x.cos(), y.sin().unsqueeze(1), y.cos().unsqueeze(1)
        sine = torch.addcmul(sin_x * cos_y, cos_x, sin_y)
        cosine = torch.addcmul(cos_x * cos_y, sin_x, sin_y, value=-1)
        return torch.cat([sine, cosine], dim=-1).flatten(0, 1)
