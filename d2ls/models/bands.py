"""Work that each pixel does alone, in bands of rows that stay in a CPU's cache.

A map at stride 4 with C channels is far larger than any cache, and memory fresh from the system costs more than the
arithmetic on it. So on a CPU a map is a list of bands from the aggregation to the logits: an operation of single pixels
makes new bands of them one after another, and no whole map is copied or cleared on the way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = 2**19  # of a band on a CPU: 2 MB in float32
ACCELERATOR_ELEMENTS = 2**26  # elsewhere, where bands only keep the peak of memory low: 256 MB


def in_bands(pixels: Tensor) -> list[list[Tensor]]:
    """Maps (B, H, W, C) in bands of rows: of each image, (1, h, W, C), on a CPU; elsewhere of all, (B, h, W, C)."""
    batch, height, width, channels = pixels.shape
    if torch.compiler.is_compiling():
        return [[pixels]]
    if not on_cpu(pixels):
        return [list(pixels.split(max(1, ACCELERATOR_ELEMENTS // (batch * width * channels)), dim=1))]
    rows = min(height, max(1, ELEMENTS // (width * channels)))
    sizes = [rows] * (height // rows) + [height % rows] * (height % rows > 0)
    # One split of all rows of all images: its gradient is one concatenation.
    bands = [band.unsqueeze(0) for band in pixels.flatten(0, 1).split(sizes * batch)]
    return [bands[start : start + len(sizes)] for start in range(0, len(bands), len(sizes))]


def by_bands(function: Callable[..., Tensor], bands: Sequence[Tensor], *shared: Tensor) -> Tensor:
    """f(map, shared) = cat of f(band, shared), for a function f that treats each row of a map alone.

    Nothing inside the function is kept for the backward pass; it runs again there.

    Args:
        function: of (B, h, W, C) and `shared`, for any h; gives (B, K, g * h, V). No parameter reaches it otherwise.
        bands: of a map, (B, h, W, C) each.
        shared: tensors that every band sees whole.

    Returns:
        (B, K, g * H, V).
    """
    if torch.compiler.is_compiling():
        return torch.cat([function(band, *shared) for band in bands], dim=2)
    result: Tensor = _ByBands.apply(function, len(shared), *shared, *bands)
    return result


def whole(pixels: Sequence[Tensor]) -> Tensor:
    """Pieces (B, S, C) of flattened maps put together: (B, HW, C)."""
    return pixels[0] if len(pixels) == 1 else torch.cat(list(pixels), dim=1)


def on_cpu(tensor: Tensor) -> bool:
    """Whether a CPU works on it, with its caches in mind; compiled code takes care of them itself."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def sum_of(tensor: Tensor) -> Tensor:
    """Zeros to which values of a tensor's shape are added up, in float32 at least."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


def autocast_as_now(tensor: Tensor) -> torch.autocast:
    """A context that brings back, in a backward pass, the automatic precision of the forward pass."""
    kind = tensor.device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


class _ByBands(torch.autograd.Function):
    """`by_bands` with its gradient."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], number: int, *tensors: Tensor) -> Tensor:
        shared, bands = tensors[:number], tensors[number:]
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.number, ctx.autocast = function, number, autocast_as_now(bands[0])
        height, at, result = sum(band.shape[1] for band in bands), 0, None
        for band in bands:
            rows = function(band, *shared)
            if result is None:
                result = rows.new_empty((*rows.shape[:2], rows.shape[2] // band.shape[1] * height, rows.shape[3]))
            result[:, :, at : at + rows.shape[2]] = rows
            at += rows.shape[2]
        assert result is not None
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        shared, bands = ctx.saved_tensors[: ctx.number], ctx.saved_tensors[ctx.number :]
        needed = ctx.needs_input_grad[2:]
        shared_needed, bands_needed = needed[: ctx.number], needed[ctx.number :]
        growth = gradient.shape[2] // sum(band.shape[1] for band in bands)
        of_rows = gradient.split([band.shape[1] * growth for band in bands], dim=2)
        of_shared = [sum_of(x) if need else None for x, need in zip(shared, shared_needed, strict=True)]
        of_bands: list[Tensor | None] = []
        for band, need, of_band_rows in zip(bands, bands_needed, of_rows, strict=True):
            inputs = zip([band, *shared], [need, *shared_needed], strict=True)
            leaves = [x.detach().requires_grad_(y) for x, y in inputs]
            with torch.enable_grad(), ctx.autocast:
                rows = ctx.function(*leaves)
            found = iter(torch.autograd.grad(rows, [x for x in leaves if x.requires_grad], of_band_rows))
            of_bands.append(next(found) if need else None)
            for total in of_shared:
                if total is not None:
                    total += next(found)  # noqa: PLW2901  (in place)
        return None, None, *of_shared, *of_bands
