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
        """Codes (height * width, C) of the cells of a map, row by row."""
        matrix = self.gaussian.to(torch.promote_types(self.gaussian.dtype, torch.float32))
        y = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        # The phase is linear in (x, y): one product per row and one per column, then their sums.
        phase = (2 * math.pi) * (torch.outer(2 * x - 1, matrix[0])[None] + torch.outer(2 * y - 1, matrix[1])[:, None])
        return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(0, 1)
