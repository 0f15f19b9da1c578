"""The large part of the attentions between entries and pixels: few vectors per head meet all pixels of a map.

Written out with their gradients, so that what is as large as the pixels exists for a slice of pixels only: the sum with
the position code, the attention of the pixels, what is added to them, and their gradients. Scores lie pixel by pixel,
(B, HW, M) for M = N * HEADS vectors: matrix products that have the pixels as rows run at twice the speed on a CPU. The
heads are their last dimension, so that a softmax over the N tokens of each head works on HEADS neighbours at once.
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
    """softmax over pixels of folded . (pixels + code), times pixels: (B, M, C), (B, HW, C), (HW, C) -> (B, M, C)."""
    if torch.compiler.is_compiling():
        return (folded @ (pixels + code).mT).softmax(dim=-1) @ pixels
    gathered: Tensor = _Gather.apply(folded, pixels, code)
    return gathered


class _Gather(torch.autograd.Function):
    """`gather` by slices of pixels; of its own it keeps the attention A (B, HW, M), a fraction of the pixels.

    With o the result and g its gradient, the scores' gradient is A * (pixels . g - rowsum(g * o)).
    """

    @staticmethod
    def forward(ctx: Any, folded: Tensor, pixels: Tensor, code: Tensor) -> Tensor:
        parts = list(cuts(len(code), slice_length(pixels)))
        scores = torch.cat([_product(pixels[:, part] + code[part], folded.mT) for part in parts], dim=1)
        attention = scores.softmax(dim=1)
        gathered = _product(attention[:, parts[0]].mT, pixels[:, parts[0]])
        for part in parts[1:]:
            gathered = _product(attention[:, part].mT, pixels[:, part], plus=gathered)
        ctx.save_for_backward(folded, pixels, code, attention, gathered)
        ctx.parts, ctx.autocast = parts, autocast_as_now(pixels)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        folded, pixels, code, attention, gathered = ctx.saved_tensors
        of_folded, of_pixels = torch.zeros_like(folded), torch.empty_like(pixels)
        of_code = torch.empty_like(code) if ctx.needs_input_grad[2] else None
        balance = (gradient * gathered).sum(dim=-1).unsqueeze(1)  # (B, 1, M)
        for part in ctx.parts:
            with ctx.autocast:
                p, a = pixels[:, part], attention[:, part]
                of_scores = _product(p, gradient.mT, plus=-balance) * a
                of_folded += _product(of_scores.mT, p + code[part])
                of_pixels[:, part] = _product(of_scores, folded, plus=_product(a, gradient))
                if of_code is not None:
                    of_code[part] = _product(of_scores, folded).sum(dim=0)
        return of_folded, of_pixels, of_code


def read(
    pixels: Tensor, code: Tensor, folded: Tensor, constant: Tensor, values: Tensor, gain: Tensor, bias: Tensor
) -> Tensor:
    """LN(pixels + A values) with A = softmax(folded . (pixels + code) + constant) over the N tokens of each head.

    Args:
        pixels: (B, HW, C).
        code: (HW, C).
        folded: (B, N * HEADS, C).
        constant: (B, 1, N * HEADS).
        values: (B, N * HEADS, C).
        gain: of the layer norm, (C,).
        bias: of the layer norm, (C,).
    """
    if torch.compiler.is_compiling():
        attention = _over_tokens((pixels + code) @ folded.mT + constant)
        return F.layer_norm(pixels + attention @ values, gain.shape, gain, bias)
    result: Tensor = _Read.apply(pixels, code, folded, constant, values, gain, bias)
    return result


def _over_tokens(scores: Tensor) -> Tensor:
    """Softmax over the N tokens of each head, (B, S, N * HEADS)."""
    return scores.unflatten(-1, (-1, HEADS)).softmax(dim=-2).flatten(-2)


class _Read(torch.autograd.Function):
    """`read` by slices of pixels; of all that is as large as they are, only the result is ever whole.

    With t the sum that is normalised, g its gradient and V the values, the scores' gradient is
    A * (g V - the sum over the tokens of A * g V).
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, code: Tensor, folded: Tensor, constant: Tensor, values: Tensor,
                gain: Tensor, bias: Tensor) -> Tensor:  # fmt: skip
        parts = list(cuts(len(code), slice_length(pixels)))
        result, statistics = torch.empty_like(pixels), []
        for part in parts:
            p = pixels[:, part]
            attention = _over_tokens(_product(p + code[part], folded.mT, plus=constant))
            total = _product(attention, values, plus=p)
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
                attention = _over_tokens(_product(coded, folded.mT, plus=constant))
                total = _product(attention, values, plus=p)
                of_total, of_gain, of_bias = torch.ops.aten.native_layer_norm_backward(
                    gradient[:, part], total, gain.shape, *statistic, gain, bias, [True, True, True]
                )
                weighted = _product(of_total, values.mT) * attention
                by_head = weighted.unflatten(-1, (-1, HEADS)).sum(dim=-2, keepdim=True)
                of_scores = weighted - (attention.unflatten(-1, (-1, HEADS)) * by_head).flatten(-2)
                of_pixels[:, part] = _product(of_scores, folded, plus=of_total)
                if of_code is not None:
                    of_code[part] = _product(of_scores, folded).sum(dim=0)
                of_constant = of_scores.sum(dim=1, keepdim=True)
                more = _product(of_scores.mT, coded), of_constant, _product(attention.mT, of_total), of_gain, of_bias
            for whole, value in zip(sums, more, strict=True):
                whole += value  # noqa: PLW2901  (in place)
        return of_pixels, of_code, *sums


def _product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """a @ b, plus a third; a CPU multiplies single matrices in half precision without copying them first."""
    if len(a) == 1:
        return (a[0] @ b[0] if plus is None else torch.addmm(plus[0], a[0], b[0])).unsqueeze(0)
    return a @ b if plus is None else torch.baddbmm(plus, a, b)
