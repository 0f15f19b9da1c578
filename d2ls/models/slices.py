"""Work that each pixel does alone, in slices of pixels that stay in a CPU's cache.

A map at stride 4 with C channels is far larger than any cache, and memory fresh from the system costs more than the
arithmetic on it. So on a CPU an operation of single pixels runs through its whole chain on one slice after another, and
in the backward pass again, instead of keeping what lies between.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ELEMENTS = 2**19  # of a slice on a CPU: 2 MB in float32
ACCELERATOR_ELEMENTS = 2**26  # elsewhere, where slices only keep the peak of memory low: 256 MB


def by_slices(function: Callable[..., Tensor], sliced: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
    """f(rows, shared) = cat of f(slice of rows, shared), for a function f that treats each row alone.

    Nothing inside the function is kept for the backward pass; it runs again there.

    Args:
        function: of slices of all `sliced`, then all `shared`; no parameter reaches it in another way.
        sliced: tensors (..., R, C) to be cut along R; the first is (B, R, C). The result has R rows, or a multiple,
            in its dimension -2.
        shared: tensors that every slice sees whole.
    """
    if torch.compiler.is_compiling():
        return function(*sliced, *shared)
    result: Tensor = _Sliced.apply(function, slice_length(sliced[0]), len(sliced), *sliced, *shared)
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


def autocast_as_now(tensor: Tensor) -> torch.autocast:
    """A context that brings back, in a backward pass, the automatic precision of the forward pass."""
    kind = tensor.device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


class _Sliced(torch.autograd.Function):
    """`by_slices` with its gradient."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], length: int, sliced: int, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.function, ctx.length, ctx.sliced, ctx.autocast = function, length, sliced, autocast_as_now(inputs[0])
        total, result = inputs[0].shape[1], None
        for part in cuts(total, length):
            rows = function(*(x[..., part, :] for x in inputs[:sliced]), *inputs[sliced:])
            if result is None:
                growth = rows.shape[-2] // length
                result = rows.new_empty((*rows.shape[:-2], total * growth, rows.shape[-1]))
            result[..., part.start * growth : part.stop * growth, :] = rows
        assert result is not None
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed, total = ctx.saved_tensors, ctx.needs_input_grad[3:], ctx.saved_tensors[0].shape[1]
        growth = gradient.shape[-2] // total
        new = [torch.empty_like if i < ctx.sliced else torch.zeros_like for i in range(len(inputs))]
        found = [make(x) if need else None for make, x, need in zip(new, inputs, needed, strict=True)]
        for part in cuts(total, ctx.length):
            leaves = [x[..., part, :] if i < ctx.sliced else x for i, x in enumerate(inputs)]
            leaves = [x.detach().requires_grad_(need) for x, need in zip(leaves, needed, strict=True)]
            with torch.enable_grad(), ctx.autocast:
                rows = ctx.function(*leaves)
            of_rows = gradient[..., part.start * growth : part.stop * growth, :]
            of_leaves = torch.autograd.grad(rows, [x for x in leaves if x.requires_grad], of_rows)
            put = [x[..., part, :].copy_ if i < ctx.sliced else x.add_ for i, x in enumerate(found) if x is not None]
            for into, value in zip(put, of_leaves, strict=True):
                into(value)
        return None, None, None, *found
