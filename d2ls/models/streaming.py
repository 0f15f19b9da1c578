"""The decoder in row chunks: the same logits and gradients in less memory, and faster on a CPU.

A map at stride 4 with C channels is far larger than a CPU's caches, and passing over it costs as much as the
arithmetic. Here a map is cut into chunks of rows that fit: in one pass the pixels of a chunk attend to the entries, and
the next attention of the entries gathers from them at once, by a softmax that is kept as it runs. The gradients are
written out: of all that is as large as the pixels, only what they are between the stages is kept, and the attention.
Scores lie pixel by pixel, (B, S, M) for M = N * HEADS: with the pixels as rows, products run at twice the speed on a
CPU, and a softmax over the N entries of each head works on HEADS neighbours at once.

The setting `memory_efficient` chooses this file or the plain decoder; without this file the project works as well.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from d2ls.models.head import DictionaryHead, PixelUpsampler
from d2ls.models.two_way_attention import HEADS, TwoWayAttention

ELEMENTS = 2**19  # of a chunk on a CPU: 2 MB in float32
ACCELERATOR_ELEMENTS = 2**26  # elsewhere, where chunks only keep the peak of memory low: 256 MB
PARTS = 4  # of a sum over the pixels of a chunk


def decode(
    interaction: TwoWayAttention | None, head: DictionaryHead, tokens: Tensor, pixels: Tensor, code: Tensor | None
) -> Tensor:
    """Logits (B, K, 4 H, 4 W) of entries (B, N, C) and pixels (B, H, W, C) with their position code (HW, C)."""
    logits = []
    groups = row_chunks(pixels)
    for entries, chunks in zip(tokens.split(len(tokens) // len(groups)), groups, strict=True):
        t, new = entries, chunks
        if interaction is not None and code is not None:
            t, flat = interact(interaction, t, [chunk.flatten(1, 2) for chunk in chunks], code)
            new = [p.view_as(chunk) for p, chunk in zip(flat, chunks, strict=True)]
        classes = head.class_vectors(t)
        # Of the upsampled pixels nothing is kept for the backward pass.
        again = partial(checkpoint, _logits, head.upsampler, classes, use_reentrant=False, preserve_rng_state=False)
        rows = [again(p) for p in new]
        logits.append(torch.cat(rows, dim=2))
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def row_chunks(pixels: Tensor) -> list[list[Tensor]]:
    """Maps (B, H, W, C) in chunks of rows: of each image, (1, h, W, C), on a CPU; elsewhere of all, (B, h, W, C)."""
    batch, height, width, channels = pixels.shape
    if pixels.device.type != "cpu":
        return [list(pixels.split(max(1, ACCELERATOR_ELEMENTS // (batch * width * channels)), dim=1))]
    rows = min(height, max(1, ELEMENTS // (width * channels)))
    sizes = [rows] * (height // rows) + [height % rows] * (height % rows > 0)
    # One split of all rows of all images: its gradient is one concatenation.
    chunks = [chunk.unsqueeze(0) for chunk in pixels.flatten(0, 1).split(sizes * batch)]
    return [chunks[start : start + len(sizes)] for start in range(0, len(chunks), len(sizes))]


def interact(
    part: TwoWayAttention, tokens: Tensor, pixels: Sequence[Tensor], code: Tensor
) -> tuple[Tensor, Sequence[Tensor]]:
    """`TwoWayAttention.forward` on pixels in chunks (B, S, C) each, in one pass over them for each stage."""
    if not part.final_attn.is_folded(tokens.shape[1]):
        t, whole = part(tokens, torch.cat(list(pixels), dim=1), code)
        return t, whole.split([p.shape[1] for p in pixels], dim=1)
    t, p, t0 = tokens, pixels, tokens
    attentions = [stage.token_to_image_attn for stage in part.stages] + [part.final_attn]
    average, *_ = _Pass.apply(torch.is_grad_enabled(), code, attentions[0].fold(t + t0), None, *p)
    for stage, attention, following in zip(part.stages, attentions, attentions[1:], strict=False):
        t = stage.token_norm(t + attention.unfold(average))
        folded, norm = stage.image_to_token_attn.fold(t + t0, t), stage.image_to_token_attn.norm
        entries = (*folded, norm.weight, norm.bias)
        average, *p = _Pass.apply(torch.is_grad_enabled(), code, following.fold(t + t0), *entries, *p)
    return part.final_norm(t + part.final_attn.unfold(average)), p


def _logits(upsampler: PixelUpsampler, classes: Tensor, pixels: Tensor) -> Tensor:
    """Logits (B, K, 4 h, 4 W) of class vectors (B, K, C/16) and a chunk (B, h, W, C)."""
    image = upsampler(pixels).to(classes.dtype)  # norms may have raised it
    logits: Tensor = _ClassProducts.apply(classes, image.flatten(1, 2))
    return logits.unflatten(-1, image.shape[1:3])


class _ClassProducts(torch.autograd.Function):
    """classes @ rows^T. The gradient of the rows comes as rows; autograd's own comes as columns, slow to move."""

    @staticmethod
    def forward(ctx: Any, classes: Tensor, rows: Tensor) -> Tensor:
        """(B, K, S) from (B, K, V) and (B, S, V)."""
        ctx.save_for_backward(classes, rows)
        return classes @ rows.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of both."""
        classes, rows = ctx.saved_tensors
        return _over_pixels(gradient.mT, rows), gradient.mT @ classes


class _Pass(torch.autograd.Function):
    """One pass over the pixels, chunk by chunk: they attend to the entries if there are any, then queries to them.

    The softmax over all pixels is kept as it runs: a chunk's weights are exp(scores - top) with the largest score so
    far; once the last chunk has told the largest of all and the sum, `share` turns them into attention.
    """

    @staticmethod
    def forward(ctx: Any, keep: bool, code: Tensor, queries: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        """`average_pixels` of queries (B, M, C), and the new pixels where `rest` begins with entries."""
        entries, pixels = _apart(rest)
        result: list[Tensor] = []
        kept: list[Tensor] = []
        average = _zeros(queries)
        top, total = average.new_full((), -torch.inf), average.new_zeros(())
        for p, e in zip(pixels, _codes(code, pixels), strict=True):
            if entries is not None:
                p, *more = _attend(p, e, entries)  # noqa: PLW2901
                result.append(p)
                kept += more if keep else []
            scores = _product(p + e, queries.mT).to(average.dtype)
            before, top = top, torch.maximum(top, _largest(scores))  # (B, 1, M)
            weights = scores.sub_(top).exp_()
            shrink = (before - top).exp_()
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            weights = weights.to(p.dtype)
            average = average * shrink.mT + _over_pixels(weights, p)
            kept += [weights, top] if keep else []
        average = average / total.mT
        ctx.save_for_backward(code, queries, *rest, *result, average, total, *kept)
        ctx.number, ctx.autocast = len(rest), _autocast_of(code)
        return average.to(queries.dtype), *result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_average: Tensor, *of_result: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs but the code, which is fixed."""
        code, queries, *saved = ctx.saved_tensors
        (entries, pixels), saved = _apart(saved[: ctx.number]), saved[ctx.number :]
        result, (average, total, *kept) = saved[: len(of_result)], saved[len(of_result) :]
        of_pixels: list[Tensor] = []
        of_queries, *of_entries = (_zeros(x) for x in (queries, *(entries or ())))
        balance = (of_average * average).sum(dim=-1).unsqueeze(1)  # (B, 1, M)
        last_top = kept[-1]
        chunks = zip(pixels, _codes(code, pixels), result or pixels, _grouped(kept, len(pixels)), strict=True)
        with ctx.autocast:
            for at, (before, e, p, (*of_attention, weights, top)) in enumerate(chunks):
                share = (top - last_top).exp_() / total
                wanted = (share.mT * of_average).to(p.dtype)
                of_p = _product(weights, wanted, plus=of_result[at] if of_result else None)
                # The gradient of attention A's scores is A * (p . g - rowsum(g * o)), of the average o, its gradient g.
                of_scores = _product(p, wanted.mT, plus=(-balance * share).to(p.dtype)).mul_(weights)
                of_p = _add_product(of_p, of_scores, queries)
                of_queries += _over_pixels(of_scores, p + e)
                if entries is not None:
                    of_p, *more = _attend_backward(before, e, entries, of_p, *of_attention)
                    for total_of, value in zip(of_entries, more, strict=True):
                        total_of += value  # noqa: PLW2901  (in place)
                of_pixels.append(of_p)
        return None, None, of_queries, *(of_entries or (None,)), *of_pixels


def _attend(p: Tensor, code: Tensor, entries: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A chunk (B, S, C) behind attention and norm; its attention (B, S, N * HEADS) and the statistics of the norm."""
    keys, constant, values, weight, bias = entries
    scores = _product(p + code, keys.mT, plus=constant)
    attention = scores.unflatten(-1, (-1, HEADS)).softmax(dim=-2).flatten(-2).to(p.dtype)
    total = _product(attention, values, plus=p).to(weight.dtype)  # norms keep their own precision
    result, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, 1e-5)
    return result.to(p.dtype), attention, mean, rstd


def _attend_backward(
    p: Tensor, code: Tensor, entries: Sequence[Tensor], gradient: Tensor, attention: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of a chunk and, as far as this chunk goes, of the entries, from that of its `_attend`.

    With g the gradient of the sum that is normalised, the scores' gradient is
    A * (g . values - the sum over the entries of A * g . values).
    """
    keys, _, values, weight, bias = entries
    total = _product(attention, values, plus=p).to(weight.dtype)
    of_total, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.to(weight.dtype), total, weight.shape, mean, rstd, weight, bias, [True, True, True]
    )
    of_total = of_total.to(p.dtype)
    of_values = _over_pixels(attention, of_total)
    weighted = _product(of_total, values.mT).mul_(attention)
    weighted, attention = (x.unflatten(-1, (-1, HEADS)) for x in (weighted, attention))
    of_scores = weighted.addcmul_(attention, weighted.sum(dim=-2, keepdim=True), value=-1).flatten(-2)
    of_constant = of_scores.sum(dim=1, keepdim=True, dtype=mean.dtype)
    return (
        _add_product(of_total, of_scores, keys),
        _over_pixels(of_scores, p + code), of_constant, of_values, of_weight, of_bias,
    )  # fmt: skip


def _apart(rest: Sequence[Any]) -> tuple[Sequence[Tensor] | None, Sequence[Tensor]]:
    """Folded entries with weight and bias of the norm, or None, and the chunks of pixels behind them."""
    return (None, rest[1:]) if rest[0] is None else (rest[:5], rest[5:])


def _codes(code: Tensor, pixels: Sequence[Tensor]) -> Sequence[Tensor]:
    """The codes (S, C) of each chunk of pixels."""
    return code.split([p.shape[1] for p in pixels])


def _zeros(tensor: Tensor) -> Tensor:
    """Zeros to which values of a tensor's shape are added up, in float32 at least."""
    return torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _autocast_of(tensor: Tensor) -> torch.autocast:
    """A context that brings back, in a backward pass, the automatic precision of the forward pass."""
    kind = tensor.device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


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
    """a^T b of (B, S, M) and (B, S, C), in float32 where float16 would overflow.

    As a sum of some parts: a CPU is slow at long and narrow products in one.
    """
    if a.dtype == torch.float16:
        with torch.autocast(a.device.type, enabled=False):
            return a.float().mT @ b.float()
    if len(a) == 1 and a.shape[1] % PARTS == 0 and a.dtype == torch.float32 and a.device.type == "cpu":
        a, b = (x.view(PARTS, -1, x.shape[-1]) for x in (a, b))
        return torch.bmm(a.mT, b).sum(dim=0, keepdim=True)
    return _product(a.mT, b)
