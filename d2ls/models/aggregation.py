"""Aggregation of the pyramid's four maps to one at stride 4 (spec section 1, item 2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Aggregation(nn.Module):
    """Linear to C per level, bilinear resize to stride 4, 1x1 convolution over all levels.

    `channels` are those of the maps at strides 4 to 32; `aggregate=False` is the ablation that takes the resized
    deepest level alone.
    """

    def __init__(self, channels: Sequence[int], width: int, *, aggregate: bool = True) -> None:
        super().__init__()
        self.aggregate = aggregate
        self.embed = nn.ModuleList(nn.Linear(c, width) for c in (channels if aggregate else channels[-1:]))
        if aggregate:
            # A 1x1 convolution without bias over the levels' channels, deepest level first.
            self.merge = nn.Linear(len(channels) * width, width, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The aggregated map (B, H, W, C), channels last, from maps (B, C_i, H_i, W_i) at strides 4, 8, 16, 32."""
        size = maps[0].shape[-2:]
        if not self.aggregate:
            return _resize(self.embed[0](maps[-1].permute(0, 2, 3, 1)), size)
        # A linear map of a concatenation is a sum of linear maps, and linear maps commute with resizing: each level
        # goes straight to its share of the result at its own size, in one product (merge_i embed_i).
        slices = self.merge.weight.chunk(len(maps), dim=1)[::-1]
        bias = self.merge(torch.cat(tuple(embed.get_parameter("bias") for embed in self.embed)[::-1]))
        # In place where no gradient is due: for one, autograd would copy more than that saves.
        add = torch.Tensor.add if torch.is_grad_enabled() else torch.Tensor.add_
        result = None
        for level, embed, merge in zip(maps, self.embed, slices, strict=True):
            weight = merge @ embed.get_parameter("weight")
            share = F.linear(level.permute(0, 2, 3, 1), weight, bias if result is None else None)
            result = share if result is None else add(result, _resize(share, size))
        assert result is not None
        return result


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of a channels-last map (B, h, w, C) to `size`."""
    if torch.are_deterministic_algorithms_enabled() and x.device.type != "cpu":
        return resize_by_products(x, size)
    resized = F.interpolate(x.permute(0, 3, 1, 2), size=tuple(size), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def resize_by_products(x: Tensor, size: Sequence[int]) -> Tensor:
    """`_resize` as two matrix products: an accelerator's own kernel sorts where its gradient must be deterministic."""
    rows, columns = (
        F.interpolate(torch.eye(old, device=x.device)[None], new, mode="linear", align_corners=False)[0].T.to(x.dtype)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    wide = columns @ x  # (B, h, W, C)
    return (rows @ wide.flatten(2)).unflatten(-1, wide.shape[2:])
