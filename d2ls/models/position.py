"""Position codes of the pixels: random Fourier features (spec section 1, item 4)."""

import math

import torch
from torch import Tensor, nn

from d2ls.models.bands import on_cpu


class PositionCode(nn.Module):
    """A fixed Gaussian matrix, saved with the weights, that turns cell centres into C numbers in [-1, 1].

    Args:
        width: C, even.
    """

    gaussian: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("gaussian", torch.randn(2, width // 2))
        self._made: tuple[tuple[int, int, torch.dtype], Tensor, Tensor] | None = None

    def forward(self, height: int, width: int) -> Tensor:
        """Codes (height * width, C) of the cells of a map, row by row; a CPU keeps those of the last size."""
        if not on_cpu(self.gaussian):
            return self._make(height, width)
        size = height, width, self.gaussian.dtype
        if self._made is None or self._made[0] != size or not self._made[1].equal(self.gaussian):
            with torch.inference_mode(False), torch.no_grad():  # what evaluation made serves training too
                self._made = size, self.gaussian.clone(), self._make(height, width)
        return self._made[2]

    def _make(self, height: int, width: int) -> Tensor:
        matrix = self.gaussian.to(torch.promote_types(self.gaussian.dtype, torch.float32))
        y = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        # The phase is linear in (x, y): one product per row and one per column, then their sums.
        phase = (2 * math.pi) * (torch.outer(2 * x - 1, matrix[0])[None] + torch.outer(2 * y - 1, matrix[1])[:, None])
        return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(0, 1)
