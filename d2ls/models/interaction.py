"""Dictionary entries and pixels attend to each other (paper, section 3.3; spec section 1, item 5).

A handful of entries meets many thousand pixels. So where the definition projects every pixel, here the projections are
folded into the entries: q . (W p) = (W^T q) . p turns N * heads vectors instead of H * W. Key biases are not built:
they shift all scores of a query alike, and the softmax forgets that.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ls.models.bands import whole
from d2ls.models.readings import HEADS, Tokens, gather, read_and_gather


class Attention(nn.Module):
    """Projections of an attention with HEADS heads and inner width C/2.

    Args:
        width: embedding width C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width)
        self.scale = 1 / math.sqrt(inner // HEADS)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of (B, Q, C) over (B, S, C), by its definition."""
        q, k, v = (_split(x) for x in (self.query(query), self.key(key), self.value(value)))
        return self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TokensReadPixels(Attention):
    """Entries gather from the pixels."""

    def fold(self, query: Tensor) -> Tensor:
        """q . (W_k p) = (W_k^T q) . p: vectors (B, N * heads, C) that score pixels, of queries (B, N, C)."""
        return _into_heads(_split(self.query(query)) * self.scale, self.key.weight)

    def unfold(self, gathered: Tensor) -> Tensor:
        """What each token gathered, (B, N, C), of pixels averaged by attention, (B, N * heads, C).

        sum_i a_i (W_v p_i + b) = W_v (sum_i a_i p_i) + b, as the a_i sum to 1: pixels are averaged, then projected.
        """
        by_head, weight = gathered.unflatten(1, (-1, HEADS)), self.value.weight.unflatten(0, (HEADS, -1))
        return self.output(torch.einsum("bnhc,hdc->bnhd", by_head, weight).flatten(2) + self.value.bias)


class PixelsReadTokens(Attention):
    """Pixels gather from the entries, and are normalised.

    Args:
        width: embedding width C.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)

    def fold(self, key: Tensor, value: Tensor) -> Tokens:
        """Keys (B, N, C) and values (B, N, C) as the pixels meet them without being projected."""
        keys = _split(self.key(key)) * self.scale  # (B, heads, N, d)
        # (W_q p + b) . k = (W_q^T k) . p + b . k
        constant = torch.einsum("bhnd,hd->bnh", keys, self.query.bias.unflatten(0, (HEADS, -1))).flatten(1)
        # W_o (sum_n a_n v_n) + b = sum_n a_n (W_o v_n) + b. As the a_n of a head sum to 1, the bias can ride on the
        # values of the first head.
        weight = self.output.weight.unflatten(1, (HEADS, -1))
        outgoing = torch.einsum("bhnd,chd->bnhc", _split(self.value(value)), weight)
        outgoing = torch.cat([outgoing[:, :, :1] + self.output.bias, outgoing[:, :, 1:]], dim=2).flatten(1, 2)
        folded = _into_heads(keys, self.query.weight)
        return Tokens(folded, constant.unsqueeze(1), outgoing, self.norm.weight, self.norm.bias)


def _split(x: Tensor) -> Tensor:
    """(B, S, inner) -> (B, heads, S, inner / heads)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _into_heads(per_head: Tensor, weight: Tensor) -> Tensor:
    """W^T x per head: (B, heads, N, d) and (heads * d, C) -> (B, N * heads, C)."""
    return torch.einsum("bhnd,hdc->bnhc", per_head, weight.unflatten(0, (HEADS, -1))).flatten(1, 2)


class Stage(nn.Module):
    """One exchange: entries read the pixels, then pixels read the entries.

    Args:
        width: embedding width C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens_read = TokensReadPixels(width)
        self.token_norm = nn.LayerNorm(width)
        self.pixels_read = PixelsReadTokens(width)


class Interaction(nn.Module):
    """L stages and a last reading by the entries.

    Args:
        width: embedding width C.
        stages: L, at least 0.
    """

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        self.stages = cast(Sequence[Stage], nn.ModuleList(Stage(width) for _ in range(stages)))
        self.last_read = TokensReadPixels(width)
        self.last_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, pixels: Sequence[Tensor], code: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Let dictionary entries and pixels attend to each other.

        Args:
            tokens: dictionary entries, (B, N, C); they are their own position code too.
            pixels: aggregated map, flattened and cut, (B, S, C) each.
            code: position code of all pixels, (HW, C).

        Returns:
            Tokens (B, N, C) and pixels (B, S, C) each, all layer-normalised.
        """
        if self.is_folded(tokens.shape[1]):
            return self.folded(tokens, pixels, code)
        tokens, read = self.plain(tokens, whole(pixels), code)
        return tokens, read.split([part.shape[1] for part in pixels], dim=1)

    def is_folded(self, num_tokens: int) -> bool:
        """Whether N * heads folded vectors cost less than projecting every pixel to the inner width."""
        return num_tokens * HEADS <= self.last_read.query.out_features

    def plain(self, tokens: Tensor, pixels: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` on the map in one piece by the definition, and the faster way once entries are many."""
        t, p, t0 = tokens, pixels, tokens
        for stage in self.stages:
            t = stage.token_norm(t + stage.tokens_read(t + t0, p + code, p))
            p = stage.pixels_read.norm(p + stage.pixels_read(p + code, t + t0, t))
        return self.last_norm(t + self.last_read(t + t0, p + code, p)), p

    def folded(self, tokens: Tensor, pixels: Sequence[Tensor], code: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """`forward` in one pass over the pixels for each stage: they read, and the next reading gathers from them."""
        t, p, t0 = tokens, pixels, tokens
        readers = [stage.tokens_read for stage in self.stages] + [self.last_read]
        gathered = gather(readers[0].fold(t + t0), p, code)
        for stage, reader, following in zip(self.stages, readers, readers[1:], strict=False):
            t = stage.token_norm(t + reader.unfold(gathered))
            p, gathered = read_and_gather(p, code, stage.pixels_read.fold(t + t0, t), following.fold(t + t0))
        return self.last_norm(t + self.last_read.unfold(gathered)), p
