"""The large part of the attentions between entries and pixels: few vectors per head meet all pixels of a map.

A map at stride 4 is far larger than a CPU's caches, and passing over it costs as much as the arithmetic. So pixels that
have read the entries are gathered from at once, band by band, with written-out gradients: of all that is as large as
the pixels, only what they have become is kept, and for a gradient the attention. Scores lie pixel by pixel,
(B, S, M) for M = N * HEADS vectors: with the pixels as rows, products run at twice the speed on a CPU, and a softmax
over the N tokens of each head works on HEADS neighbours at once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2ls.models.bands import autocast_as_now, on_cpu, sum_of, whole

HEADS = 8
NORM_EPS = 1e-5
PARTS = 4  # of a sum over the pixels of a band


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


def gather(queries: Tensor, pixels: Sequence[Tensor], code: Tensor) -> Tensor:
    """softmax over all pixels of queries . (pixels + code), times pixels. No gradient goes to the code.

    Args:
        queries: (B, M, C).
        pixels: (B, S, C) each, HW together.
        code: (HW, C).

    Returns:
        (B, M, C).
    """
    if torch.compiler.is_compiling():
        p = whole(pixels)
        return (queries @ (p + code).mT).softmax(dim=-1) @ p
    gathered: Tensor = _Pass.apply(torch.is_grad_enabled(), code, queries, None, *pixels)[0]
    return gathered


def read_and_gather(
    pixels: Sequence[Tensor], code: Tensor, tokens: Tokens, queries: Tensor
) -> tuple[Sequence[Tensor], Tensor]:
    """What the pixels become by reading the tokens, (B, S, C) each, and `gather` from that, (B, M, C)."""
    if torch.compiler.is_compiling():
        keys, constant, values, gain, bias = tokens
        p = whole(pixels)
        total = p + _over_tokens((p + code) @ keys.mT + constant) @ values
        pixels = [F.layer_norm(total, gain.shape, gain, bias)]
        return pixels, gather(queries, pixels, code)
    gathered, *result = _Pass.apply(torch.is_grad_enabled(), code, queries, *tokens, *pixels)
    return result, gathered


def _over_tokens(scores: Tensor) -> Tensor:
    """Softmax over the N tokens of each head, (B, S, N * HEADS)."""
    return scores.unflatten(-1, (-1, HEADS)).softmax(dim=-2).flatten(-2)


class _Pass(torch.autograd.Function):
    """One pass over the pixels, band by band: `gather` (without tokens) or `read_and_gather`.

    The softmax over all pixels is kept as it runs: a band's weights are exp(scores - top) with the largest score so
    far; once the last band has told the largest of all and the sum, `share` turns them into attention.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, code: Tensor, queries: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        tokens, pixels = _apart(rest)
        result: list[Tensor] = []
        kept: list[Tensor] = []
        top, total, gathered = queries.new_tensor(-torch.inf), queries.new_zeros(()), sum_of(queries)
        for p, e in zip(pixels, _codes(code, pixels), strict=True):
            if tokens is not None:
                p, *more = _read(p, e, tokens)  # noqa: PLW2901
                result.append(p)
                kept += more if keep else []
            scores = _product(p + e, queries.mT).to(gathered.dtype)
            before, top = top, torch.maximum(top, _largest(scores))  # (B, 1, M)
            weights = scores.sub_(top).exp_()
            shrink = (before - top).exp_()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            weights = weights.to(p.dtype)
            gathered = gathered * shrink.mT + _over_pixels(weights, p)
            kept += [weights, top] if keep else []
        gathered = gathered / total.mT
        ctx.save_for_backward(code, queries, *rest, *result, gathered, total, *kept)
        ctx.number, ctx.autocast = len(rest), autocast_as_now(code)
        return gathered.to(queries.dtype), *result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_gathered: Tensor, *of_result: Tensor) -> tuple[Tensor | None, ...]:
        code, queries, *saved = ctx.saved_tensors
        (tokens, pixels), saved = _apart(saved[: ctx.number]), saved[ctx.number :]
        result, (gathered, total, *kept) = saved[: len(of_result)], saved[len(of_result) :]
        of_pixels: list[Tensor] = []
        of_queries, *of_tokens = (sum_of(x) for x in (queries, *(tokens or ())))
        balance = (of_gathered * gathered).sum(dim=-1).unsqueeze(1)  # (B, 1, M)
        last_top = kept[-1]
        bands = zip(pixels, _codes(code, pixels), result or pixels, _grouped(kept, len(pixels)), strict=True)
        with ctx.autocast:
            for band, (before, e, p, (*of_read, weights, top)) in enumerate(bands):
                share = (top - last_top).exp_() / total
                wanted = (share.mT * of_gathered).to(p.dtype)
                of_p = _product(weights, wanted, plus=of_result[band] if of_result else None)
                # The gradient of attention A's scores is A * (p . g - rowsum(g * o)), of gathered o and its gradient g.
                of_scores = _product(p, wanted.mT, plus=(-balance * share).to(p.dtype)).mul_(weights)
                of_p = _add_product(of_p, of_scores, queries)
                of_queries += _over_pixels(of_scores, p + e)
                if tokens is not None:
                    of_p, *more = _read_backward(before, e, tokens, of_p, *of_read)
                    for total_of, value in zip(of_tokens, more, strict=True):
                        total_of += value  # noqa: PLW2901  (in place)
                of_pixels.append(of_p)
        return None, None, of_queries, *(of_tokens or (None,)), *of_pixels


def _apart(rest: Sequence[Any]) -> tuple[Tokens | None, Sequence[Tensor]]:
    """Tokens, or None, and the bands of pixels behind them."""
    return (None, rest[1:]) if rest[0] is None else (Tokens(*rest[:5]), rest[5:])


def _codes(code: Tensor, pixels: Sequence[Tensor]) -> Sequence[Tensor]:
    """The codes (S, C) of each band of pixels."""
    return code.split([p.shape[1] for p in pixels])


def _read(p: Tensor, code: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a band of pixels (B, S, C) becomes; its attention (B, S, N * HEADS) and the statistics of the norm."""
    attention = _over_tokens(_product(p + code, tokens.keys.mT, plus=tokens.constant))
    total = _product(attention, tokens.values, plus=p).to(tokens.gain.dtype)  # norms keep their own precision
    result, mean, deviation = torch.native_layer_norm(total, tokens.gain.shape, tokens.gain, tokens.bias, NORM_EPS)
    return result.to(p.dtype), attention, mean, deviation


def _read_backward(
    p: Tensor, code: Tensor, tokens: Tokens, gradient: Tensor, attention: Tensor, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of a band of pixels and, as far as this band goes, of the tokens, from that of its `_read`.

    With g the gradient of the sum that is normalised, the scores' gradient is
    A * (g . values - the sum over the tokens of A * g . values).
    """
    gain, bias = tokens[3:]
    total = _product(attention, tokens.values, plus=p).to(gain.dtype)
    of_total, of_gain, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.to(gain.dtype), total, gain.shape, mean, deviation, gain, bias, [True, True, True]
    )
    of_total = of_total.to(p.dtype)
    of_values = _over_pixels(attention, of_total)
    weighted = _product(of_total, tokens.values.mT).mul_(attention)
    weighted, attention = (x.unflatten(-1, (-1, HEADS)) for x in (weighted, attention))
    of_scores = weighted.addcmul_(attention, weighted.sum(dim=-2, keepdim=True), value=-1).flatten(-2)
    return (
        _add_product(of_total, of_scores, tokens.keys),
        _over_pixels(of_scores, p + code), of_scores.sum(dim=1, keepdim=True), of_values, of_gain, of_bias,
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
    """a @ b, plus a third; single matrices as such, which a CPU multiplies faster than a batch of one."""
    if len(a) == 1:
        return (a[0] @ b[0] if plus is None else torch.addmm(plus[0], a[0], b[0])).unsqueeze(0)
    return a @ b if plus is None else torch.baddbmm(plus, a, b)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total += a @ b, in place and in the precision of the total."""
    a, b = a.to(total.dtype), b.to(total.dtype)
    if len(a) == 1:
        total[0].addmm_(a[0], b[0])
        return total
    return total.baddbmm_(a, b)


def _over_pixels(a: Tensor, b: Tensor) -> Tensor:
    """a^T b of (B, S, M) and (B, S, C), as a sum of some parts: a CPU is slow at long and narrow products in one."""
    if len(a) == 1 and a.shape[1] % PARTS == 0 and a.dtype == torch.float32 and on_cpu(a):
        a, b = (x.view(PARTS, -1, x.shape[-1]) for x in (a, b))
        return torch.bmm(a.mT, b).sum(dim=0, keepdim=True)
    return _product(a.mT, b)
