"""Two-way attention between dictionary entries and pixels (paper, section 3.3; spec section 1, item 5).

A handful of entries meets many thousand pixels. So where the definition projects every pixel, the projections are
folded into the entries: q . (W p) = (W^T q) . p turns N * HEADS vectors instead of H * W. Key biases are not built:
they shift all scores of a query alike, and the softmax forgets that.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
PART = 4096  # pixels at most that are added up in half precision


class Attention(nn.Module):
    """Attention with HEADS heads and inner width C/2, for an embedding of `width` C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self.scale = 1 / math.sqrt(inner // HEADS)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from (B, Q, C) to keys and values (B, S, C), by the definition: (B, Q, C)."""
        q, k, v = (_split(x) for x in (self.query(query), self.key(key), self.value(value)))
        return self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def is_folded(self, num_tokens: int) -> bool:
        """Whether N * HEADS folded vectors cost less than projecting every pixel to the inner width."""
        return num_tokens * HEADS <= self.query.out_features


class TokenToImageAttention(Attention):
    """Attention from dictionary entries to pixels."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from entries (B, N, C) to pixels (B, S, C): (B, N, C)."""
        if not self.is_folded(query.shape[1]):
            return super().forward(query, key, value)
        return self.unfold(average_pixels(self.fold(query), key, value))

    def fold(self, query: Tensor) -> Tensor:
        """q . (W_k p) = (W_k^T q) . p: vectors (B, N * HEADS, C) that score pixels, of queries (B, N, C)."""
        return _into_heads(_split(self.query(query)) * self.scale, self.key.weight)

    def unfold(self, average: Tensor) -> Tensor:
        """The attention's output (B, N, C) from pixels averaged by attention, (B, N * HEADS, C).

        sum_i a_i (W_v p_i + b) = W_v (sum_i a_i p_i) + b, as the a_i sum to 1: pixels are averaged, then projected.
        """
        weight, bias = (x.unflatten(0, (HEADS, -1)) for x in (self.value.weight, self.value.bias))
        by_head = average.to(weight.dtype).unflatten(1, (-1, HEADS)).flatten(0, 1).transpose(0, 1)  # (HEADS, B * N, C)
        values = torch.baddbmm(bias.unsqueeze(1), by_head, weight.transpose(1, 2))
        return self.output(values.transpose(0, 1).flatten(1).unflatten(0, (average.shape[0], -1)))


class FoldedKeyValue(NamedTuple):
    """Entries as the pixels meet them without being projected: softmax(p . keys + constant) . values."""

    keys: Tensor  # (B, N * HEADS, C)
    constant: Tensor  # (B, 1, N * HEADS)
    values: Tensor  # (B, N * HEADS, C)

    def attend(self, pixels: Tensor, query: Tensor) -> Tensor:
        """Pixels (B, S, C) plus what `query`, (B, S, C), attends to, a softmax over the N entries in each head."""
        scores = torch.baddbmm(self.constant, query, self.keys.transpose(1, 2)).unflatten(-1, (-1, HEADS))
        return torch.baddbmm(pixels, scores.softmax(dim=-2).flatten(-2), self.values)


class ImageToTokenAttention(Attention):
    """Attention from pixels to dictionary entries, with residual and norm."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        """LN(pixels + attention from `query` to entries): (B, S, C) of pixels (B, S, C) and entries (B, N, C)."""
        if self.is_folded(key.shape[1]):
            total = self.fold(key, value).attend(pixels, query)
        else:
            total = pixels + super().forward(query, key, value)
        return self.norm(total.to(self.norm.weight.dtype)).to(pixels.dtype)  # norms keep their own precision

    def fold(self, key: Tensor, value: Tensor) -> FoldedKeyValue:
        """Fold this attention's projections into entries, keys (B, N, C) and values (B, N, C)."""
        keys = _split(self.key(key)) * self.scale  # (B, HEADS, N, d)
        # (W_q p + b) . k = (W_q^T k) . p + b . k
        constant = torch.einsum("bhnd,hd->bnh", keys, self.query.bias.unflatten(0, (HEADS, -1))).flatten(1)
        # W_o (sum_n a_n v_n) + b = sum_n a_n (W_o v_n) + b. The a_n of a head sum to 1: each head takes a share of b.
        weight = self.output.weight.unflatten(1, (HEADS, -1))
        values = torch.einsum("bhnd,chd->bnhc", _split(self.value(value)), weight)
        values = torch.add(values, self.output.bias, alpha=1 / HEADS).to(values.dtype)
        return FoldedKeyValue(_into_heads(keys, self.query.weight), constant.unsqueeze(1), values.flatten(1, 2))


def average_pixels(queries: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(queries . key) over all pixels, times value; (B, M, C) from (B, M, C) and pixels (B, S, C).

    In parts of at most PART pixels that are added up in float32, in the gradient too: half precision overflows in
    longer sums.
    """
    parts = _parts(key.shape[1])
    key, value = (x.unflatten(1, (parts, -1)) for x in (key, value))  # (B, P, S / P, C)
    queries = queries.unsqueeze(1).expand(-1, parts, -1, -1)
    scores = (queries @ key.transpose(2, 3)).transpose(1, 2)  # (B, M, P, S / P)
    attention = scores.flatten(2).softmax(dim=-1).view_as(scores).transpose(1, 2)
    return (attention @ value).sum(dim=1, dtype=max(value.dtype, torch.float32, key=lambda x: x.itemsize))


def is_recorded() -> bool:
    """Whether operations become a graph: by torch.compile, torch.export, torch.jit.trace or ONNX."""
    return torch.compiler.is_compiling() or is_traced()


def is_traced() -> bool:
    """Whether torch.jit.trace runs the network, with sizes that are no numbers."""
    return torch.jit.is_tracing()  # type: ignore[attr-defined]


def _parts(pixels: int) -> int:
    """The least number of equal parts of at most PART pixels; a recorded graph, of any size, has one."""
    if is_recorded():
        return 1
    return next(n for n in range(-(-pixels // PART), pixels + 1) if pixels % n == 0)


def _split(x: Tensor) -> Tensor:
    """(B, S, inner) -> (B, HEADS, S, inner / HEADS)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _into_heads(per_head: Tensor, weight: Tensor) -> Tensor:
    """W^T x per head: (B, HEADS, N, d) and (HEADS * d, C) -> (B, N * HEADS, C)."""
    return torch.einsum("bhnd,hdc->bnhc", per_head, weight.unflatten(0, (HEADS, -1))).flatten(1, 2)


class Stage(nn.Module):
    """One exchange: entries attend to the pixels, then pixels to the entries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_to_image_attn = TokenToImageAttention(width)
        self.token_norm = nn.LayerNorm(width)
        self.image_to_token_attn = ImageToTokenAttention(width)


class TwoWayAttention(nn.Module):
    """L `stages`, at least 0, and a final attention of the entries, for an embedding of `width` C."""

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        self.stages = cast(Sequence[Stage], nn.ModuleList(Stage(width) for _ in range(stages)))
        self.final_attn = TokenToImageAttention(width)
        self.final_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, pixels: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Let dictionary entries and pixels attend to each other.

        Args:
            tokens: dictionary entries, (B, N, C); they are their own position code too.
            pixels: aggregated map, flattened, (B, HW, C).
            code: position code of the pixels, (HW, C).

        Returns:
            Tokens (B, N, C) and pixels (B, HW, C), both layer-normalised.
        """
        t, p, t0 = tokens, pixels, tokens
        coded_t, coded_p = t + t0, p + code
        for stage in self.stages:
            t = stage.token_norm(t + stage.token_to_image_attn(coded_t, coded_p, p))
            coded_t = t + t0
            p = stage.image_to_token_attn(p, coded_p, coded_t, t)
            coded_p = p + code
        return self.final_norm(t + self.final_attn(coded_t, coded_p, p)), p
