"""The large part of the attentions between entries and pixels: few vectors per head meet all pixels of a map.

Written out with their gradients, so that what is as large as the pixels, or as the scores of all pixels, exists for a
slice of pixels only: the sum with the position code, the attention, what is added to the pixels, and their gradients.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2ls.models.slices import autocast_as_now, cuts, slice_length

HEADS = 8
NORM_EPS = 1e-5


def gather(folded: Tensor, pixels: Tensor, code: Tensor) -> Tensor:
    """softmax(folded . (pixels + code)) . pixels: (B, M, C), (B, HW, C), (HW, C) -> (B, M, C)."""
    if torch.compiler.is_compiling():
        return (folded @ (pixels + code).transpose(1, 2)).softmax(dim=-1) @ pixels
    gathered: Tensor = _Gather.apply(folded, pixels, code)
    return gathered


class _Gather(torch.autograd.Function):
    """`gather` with little memory: the sum, the attention A and their gradients exist for a slice of pixels only.

    A = exp(scores - L) with L the logarithm of their summed exponentials. With o the result and g its gradient, the
    scores' gradient is A * (g . pixels - rowsum(g * o)).
    """

    @staticmethod
    def forward(ctx: Any, folded: Tensor, pixels: Tensor, code: Tensor) -> Tensor:
        parts = list(cuts(len(code), slice_length(pixels)))
        scores = torch.cat([_product(folded, (pixels[:, part] + code[part]).transpose(1, 2)) for part in parts], dim=-1)
        attention = scores.softmax(dim=-1)
        gathered = _product(attention, pixels)
        # The largest attention is exp(largest score - L).
        normaliser = scores.amax(dim=-1, keepdim=True) - attention.amax(dim=-1, keepdim=True).log()
        ctx.save_for_backward(folded, pixels, code, normaliser, gathered)
        ctx.parts, ctx.autocast = parts, autocast_as_now(pixels)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        folded, pixels, code, normaliser, gathered = ctx.saved_tensors
        of_folded, of_pixels = torch.zeros_like(folded), torch.empty_like(pixels)
        of_code = torch.empty_like(code) if ctx.needs_input_grad[2] else None
        balance = (gradient * gathered).sum(dim=-1, keepdim=True)
        both = torch.cat([gradient, folded], dim=1)  # (B, 2 M, C)
        for part in ctx.parts:
            with ctx.autocast:
                p, coded = pixels[:, part], pixels[:, part] + code[part]
                attention = (_product(folded, coded.transpose(1, 2)) - normaliser).exp_()
                of_scores = attention * (_product(gradient, p.transpose(1, 2)) - balance)
                of_folded += _product(of_scores, coded)
                # The pixels are averaged (A^T g) and scored (of_scores^T folded): one product for both.
                of_pixels[:, part] = _product(torch.cat([attention, of_scores], dim=1).transpose(1, 2), both)
                if of_code is not None:
                    of_code[part] = _product(of_scores.transpose(1, 2), folded).sum(dim=0)
        return of_folded, of_pixels, of_code


def read(
    pixels: Tensor, code: Tensor, folded: Tensor, constant: Tensor, values: Tensor, gain: Tensor, bias: Tensor
) -> Tensor:
    """LN(pixels + A^T values) with A = softmax(folded . (pixels + code) + constant) over the tokens of each head.

    Args:
        pixels: (B, HW, C).
        code: (HW, C).
        folded: (B, heads * N, C).
        constant: (B, heads * N, 1).
        values: (B, heads * N, C).
        gain: of the layer norm, (C,).
        bias: of the layer norm, (C,).
    """
    if torch.compiler.is_compiling():
        attention = _over_tokens(folded @ (pixels + code).transpose(1, 2) + constant)
        return F.layer_norm(pixels + attention.transpose(1, 2) @ values, gain.shape, gain, bias)
    result: Tensor = _Read.apply(pixels, code, folded, constant, values, gain, bias)
    return result


def _over_tokens(scores: Tensor) -> Tensor:
    """Softmax over the N tokens of each head, (B, heads * N, S)."""
    return scores.unflatten(1, (HEADS, -1)).softmax(dim=2).flatten(1, 2)


class _Read(torch.autograd.Function):
    """`read` with little memory: of all that is as large as the pixels, only the result is ever whole.

    With t the sum that is normalised, g its gradient and V the values, the scores' gradient is
    A * (V g - the sum over the tokens of A * V g).
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, code: Tensor, folded: Tensor, constant: Tensor, values: Tensor,
                gain: Tensor, bias: Tensor) -> Tensor:  # fmt: skip
        parts = list(cuts(len(code), slice_length(pixels)))
        result, statistics = torch.empty_like(pixels), []
        for part in parts:
            p = pixels[:, part]
            attention = _over_tokens(_product(folded, (p + code[part]).transpose(1, 2)) + constant)
            total = p + _product(attention.transpose(1, 2), values)
            result[:, part], *more = torch.native_layer_norm(total, gain.shape, gain, bias, NORM_EPS)
            statistics += more
        ctx.save_for_backward(pixels, code, folded, constant, values, gain, bias, *statistics)
        ctx.parts, ctx.autocast = parts, autocast_as_now(pixels)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, code, folded, constant, values, gain, bias, *statistics = ctx.saved_tensors
        of_pixels, of_code = torch.empty_like(pixels), torch.empty_like(code) if ctx.needs_input_grad[1] else None
        sums = tuple(torch.zeros_like(x) for x in (folded, constant, values, gain, bias))
        for part, *statistic in zip(ctx.parts, statistics[::2], statistics[1::2], strict=True):
            with ctx.autocast:
                p = pixels[:, part]
                coded = p + code[part]
                attention = _over_tokens(_product(folded, coded.transpose(1, 2)) + constant)
                total = p + _product(attention.transpose(1, 2), values)
                of_total, of_gain, of_bias = torch.ops.aten.native_layer_norm_backward(
                    gradient[:, part], total, gain.shape, *statistic, gain, bias, [True, True, True]
                )
                weighted = attention * (_product(values, of_total.transpose(1, 2)))
                by_head = weighted.unflatten(1, (HEADS, -1)).sum(dim=2, keepdim=True)
                of_scores = weighted - (attention.unflatten(1, (HEADS, -1)) * by_head).flatten(1, 2)
                of_constant = of_scores.sum(dim=-1, keepdim=True)
                through_scores = _product(of_scores.transpose(1, 2), folded)
                of_pixels[:, part] = of_total + through_scores
                if of_code is not None:
                    of_code[part] = through_scores.sum(dim=0)
                more = _product(of_scores, coded), of_constant, _product(attention, of_total), of_gain, of_bias
            for whole, value in zip(sums, more, strict=True):
                whole += value  # noqa: PLW2901  (in place)
        return of_pixels, of_code, *sums


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of batches of matrices; a CPU multiplies single ones in half precision without copying them first."""
    return (a[0] @ b[0]).unsqueeze(0) if len(a) == 1 else a @ b
