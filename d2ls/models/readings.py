"""The large part of the attentions between entries and pixels: few vectors per head meet all pixels of a map.

A map at stride 4 is far larger than a CPU's caches, and passing over it costs as much as the arithmetic. So pixels that
have read the entries are gathered from at once, by slices, with written-out gradients: of all that is as large as the
pixels, only what they have become is ever whole, and for a gradient the attention. Scores lie pixel by pixel,
(B, HW, M) for M = N * HEADS vectors: with the pixels as rows, products run at twice the speed on a CPU, and a softmax
over the N tokens of each head works on HEADS neighbours at once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2ls.models.slices import autocast_as_now, cuts, slice_length, sum_of

HEADS = 8
NORM_EPS = 1e-5


class Tokens(NamedTuple):
    """What pixels p read from: LN(p + A values) with A = softmax((p + code) . keys + constant).

    Attributes:
        keys: (B, N * HEADS, C).
        constant: (B, 1, N * HEADS).
        values: (B, N * HEADS, C).
        gain: of the layer norm, (C,).
        bias: of the layer norm, (C,).
    """

    keys: Tensor
    constant: Tensor
    values: Tensor
    gain: Tensor
    bias: Tensor


def gather(queries: Tensor, pixels: Tensor, code: Tensor) -> Tensor:
    """softmax over pixels of queries . (pixels + code), times pixels: (B, M, C), (B, HW, C), (HW, C) -> (B, M, C).

    No gradient goes to the code.
    """
    if torch.compiler.is_compiling():
        return (queries @ (pixels + code).mT).softmax(dim=-1) @ pixels
    gathered: Tensor = _Pass.apply(torch.is_grad_enabled(), pixels, code, queries)[1]
    return gathered


def read_and_gather(pixels: Tensor, code: Tensor, tokens: Tokens, queries: Tensor) -> tuple[Tensor, Tensor]:
    """What the pixels become by reading the tokens, (B, HW, C), and `gather` from that, (B, M, C)."""
    if torch.compiler.is_compiling():
        keys, constant, values, gain, bias = tokens
        total = pixels + _over_tokens((pixels + code) @ keys.mT + constant) @ values
        pixels = F.layer_norm(total, gain.shape, gain, bias)
        return pixels, gather(queries, pixels, code)
    result: tuple[Tensor, Tensor] = _Pass.apply(torch.is_grad_enabled(), pixels, code, queries, *tokens)
    return result


def _over_tokens(scores: Tensor) -> Tensor:
    """Softmax over the N tokens of each head, (B, S, N * HEADS)."""
    return scores.unflatten(-1, (-1, HEADS)).softmax(dim=-2).flatten(-2)


class _Pass(torch.autograd.Function):
    """One pass over the pixels, slice by slice: `gather` (without tokens) or `read_and_gather`.

    The softmax over all pixels is kept as it runs: a slice's weights are exp(scores - top) with the largest score so
    far; once the last slice has told the largest of all and the sum, `share` turns them into attention.
    """

    @staticmethod
    def forward(
        ctx: Any, keep: bool, pixels: Tensor, code: Tensor, queries: Tensor, *tokens: Tensor
    ) -> tuple[Any, Tensor]:
        parts = list(cuts(len(code), slice_length(pixels)))
        result = torch.empty_like(pixels) if tokens else pixels
        kept: list[Tensor] = []
        top, total, gathered = queries.new_tensor(-torch.inf), queries.new_zeros(()), sum_of(queries)
        for part in parts:
            p = pixels[:, part]
            if tokens:
                result[:, part], *more = _read(p, code[part], Tokens(*tokens))
                kept += more if keep else []
                p = result[:, part]
            scores = _product(p + code[part], queries.mT).to(gathered.dtype)
            before, top = top, torch.maximum(top, _largest(scores))  # (B, 1, M)
            weights = scores.sub_(top).exp_()
            shrink = (before - top).exp_()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            weights = weights.to(p.dtype)
            gathered = gathered * shrink.mT + _product(weights.mT, p)
            kept += [weights, top] if keep else []
        gathered = gathered / total.mT
        ctx.save_for_backward(pixels, code, queries, result, gathered, total, *tokens, *kept)
        ctx.parts, ctx.with_tokens, ctx.autocast = parts, bool(tokens), autocast_as_now(pixels)
        return result if tokens else None, gathered.to(queries.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_result: Tensor | None, of_gathered: Tensor) -> tuple[Tensor | None, ...]:
        pixels, code, queries, result, gathered, total, *rest = ctx.saved_tensors
        tokens, kept = (Tokens(*rest[:5]), rest[5:]) if ctx.with_tokens else (None, rest)
        of_pixels = torch.empty_like(pixels)
        of_queries, *of_tokens = (sum_of(x) for x in (queries, *(tokens or ())))
        balance = (of_gathered * gathered).sum(dim=-1).unsqueeze(1)  # (B, 1, M)
        last_top = kept[-1]
        for part, (*of_read, weights, top) in zip(ctx.parts, _grouped(kept, len(ctx.parts)), strict=True):
            with ctx.autocast:
                share = (top - last_top).exp_() / total
                p, wanted = result[:, part], (share.mT * of_gathered).to(pixels.dtype)
                # The gradient of attention A's scores is A * (p . g - rowsum(g * o)), of gathered o and its gradient g.
                of_scores = _product(p, wanted.mT, plus=(-balance * share).to(p.dtype)) * weights
                of_queries += _product(of_scores.mT, p + code[part])
                of_p = _product(weights, wanted, plus=None if of_result is None else of_result[:, part])
                of_p = _product(of_scores, queries, plus=of_p)
                if tokens is not None:
                    of_p, *more = _read_backward(pixels[:, part], code[part], tokens, of_p, *of_read)
                    for whole, value in zip(of_tokens, more, strict=True):
                        whole += value  # noqa: PLW2901  (in place)
                of_pixels[:, part] = of_p
        return None, of_pixels, None, of_queries, *of_tokens


def _read(p: Tensor, code: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a slice of pixels (B, S, C) becomes; its attention (B, S, N * HEADS) and the statistics of the norm."""
    attention = _over_tokens(_product(p + code, tokens.keys.mT, plus=tokens.constant))
    total = _product(attention, tokens.values, plus=p).to(tokens.gain.dtype)  # norms keep their own precision
    result, mean, deviation = torch.native_layer_norm(total, tokens.gain.shape, tokens.gain, tokens.bias, NORM_EPS)
    return result, attention, mean, deviation


def _read_backward(
    p: Tensor, code: Tensor, tokens: Tokens, gradient: Tensor, attention: Tensor, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of a slice of pixels and, as far as this slice goes, of the tokens, from that of its `_read`.

    With g the gradient of the sum that is normalised, the scores' gradient is
    A * (g . values - the sum over the tokens of A * g . values).
    """
    gain, bias = tokens[3:]
    total = _product(attention, tokens.values, plus=p).to(gain.dtype)
    of_total, of_gain, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.to(gain.dtype), total, gain.shape, mean, deviation, gain, bias, [True, True, True]
    )
    of_total = of_total.to(p.dtype)
    weighted = _product(of_total, tokens.values.mT) * attention
    by_head = weighted.unflatten(-1, (-1, HEADS)).sum(dim=-2, keepdim=True)
    of_scores = weighted - (attention.unflatten(-1, (-1, HEADS)) * by_head).flatten(-2)
    return (
        _product(of_scores, tokens.keys, plus=of_total),
        _product(of_scores.mT, p + code), of_scores.sum(dim=1, keepdim=True), _product(attention.mT, of_total),
        of_gain, of_bias,
    )  # fmt: skip


def _largest(scores: Tensor) -> Tensor:
    """The largest of each column, (B, 1, M); over rows laid side by side, as long rows are compared 8 times faster."""
    batch, length, width = scores.shape
    beside = 8 if length % 8 == 0 else 1
    return scores.view(batch, -1, beside * width).amax(dim=1).view(batch, beside, width).amax(dim=1, keepdim=True)


def _grouped(tensors: Sequence[Tensor], number: int) -> Iterator[Sequence[Tensor]]:
    """As many equal groups of successive tensors."""
    size = len(tensors) // number
    return (tensors[at * size : (at + 1) * size] for at in range(number))


def _product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """a @ b, plus a third; a CPU multiplies single matrices in half precision without copying them first."""
    if len(a) == 1:
        return (a[0] @ b[0] if plus is None else torch.addmm(plus[0], a[0], b[0])).unsqueeze(0)
    return a @ b if plus is None else torch.baddbmm(plus, a, b)
