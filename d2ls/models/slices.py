"""Work that each pixel does alone, in slices of pixels that stay in a CPU's cache.

A map at stride 4 with C channels is far larger than any cache, and memory fresh from the system costs more than the
arithmetic on it. So on a CPU an operation of single pixels runs through its whole chain on one slice after another, and
in the backward pass again, instead of keeping what lies between.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = 2**19  # of a slice on a CPU: 2 MB in float32
ACCELERATOR_ELEMENTS = 2**26  # elsewhere, where slices only keep the peak of memory low: 256 MB


def by_rows(function: Callable[..., Tensor], pixels: Tensor, *shared: Tensor) -> Tensor:
    """f(map, shared) = cat of f(some rows of the map, shared), for a function f that treats each row alone.

    Nothing inside the function is kept for the backward pass; it runs again there.

    Args:
        function: of (B, h, W, C) and `shared`, for any h; gives (B, K, g * h, V). No parameter reaches it otherwise.
        pixels: the map, (B, H, W, C).
        shared: tensors that every slice sees whole.

    Returns:
        (B, K, g * H, V).
    """
    if torch.compiler.is_compiling():
        return function(pixels, *shared)
    result: Tensor = _ByRows.apply(function, pixels, *shared)
    return result


def on_cpu(tensor: Tensor) -> bool:
    """Whether a CPU works on it, with its caches in mind; compiled code takes care of them itself."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def by_images(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """f(batches) = cat of f(images), for a function f that treats each image of the batches alone."""
    if on_cpu(batches[0]) and len(batches[0]) > 1:
        return torch.cat([function(*images) for images in zip(*(x.split(1) for x in batches), strict=True)])
    return function(*batches)


def slice_length(pixels: Tensor) -> int:
    """How many rows of (B, R, C) make a slice."""
    batch, length, width = pixels.shape
    elements = ELEMENTS if pixels.device.type == "cpu" else ACCELERATOR_ELEMENTS
    return min(length, max(1, elements // (batch * width)))


def cuts(total: int, length: int) -> Iterator[slice]:
    """The slices of `length`, the last one perhaps shorter, that make up `total`."""
    return (slice(start, min(start + length, total)) for start in range(0, total, length))


def sum_of(tensor: Tensor) -> Tensor:
    """Zeros to which values of a tensor's shape are added up, in float32 at least."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


def autocast_as_now(tensor: Tensor) -> torch.autocast:
    """A context that brings back, in a backward pass, the automatic precision of the forward pass."""
    kind = tensor.device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


class _ByRows(torch.autograd.Function):
    """`by_rows` with its gradient."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], pixels: Tensor, *shared: Tensor) -> Tensor:
        ctx.save_for_backward(pixels, *shared)
        ctx.function, ctx.autocast = function, autocast_as_now(pixels)
        ctx.parts = list(cuts(pixels.shape[1], max(1, slice_length(pixels.flatten(1, 2)) // pixels.shape[2])))
        result = None
        for part in ctx.parts:
            rows = function(pixels[:, part], *shared)
            if result is None:
                growth = rows.shape[2] // part.stop
                result = rows.new_empty((*rows.shape[:2], pixels.shape[1] * growth, rows.shape[3]))
            result[:, :, part.start * growth : part.stop * growth] = rows
        assert result is not None
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, *shared = ctx.saved_tensors
        growth, needed = gradient.shape[2] // pixels.shape[1], ctx.needs_input_grad[1:]
        of_pixels = torch.empty_like(pixels) if needed[0] else None
        of_shared = [sum_of(x) if need else None for x, need in zip(shared, needed[1:], strict=True)]
        for part in ctx.parts:
            leaves = [x.detach().requires_grad_(y) for x, y in zip([pixels[:, part], *shared], needed, strict=True)]
            with torch.enable_grad(), ctx.autocast:
                rows = ctx.function(*leaves)
            of_rows = gradient[:, :, part.start * growth : part.stop * growth]
            found = iter(torch.autograd.grad(rows, [x for x in leaves if x.requires_grad], of_rows))
            if of_pixels is not None:
                of_pixels[:, part] = next(found)
            for whole in of_shared:
                if whole is not None:
                    whole += next(found)  # noqa: PLW2901  (in place)
        return None, of_pixels, *of_shared
