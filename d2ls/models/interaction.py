"""Dictionary entries and pixels attend to each other (paper, section 3.3; spec section 1, item 5).

A handful of entries meets many thousand pixels. So where a plain attention would project every pixel, here the
projection is folded into the entries: q . (W p) = (W^T q) . p turns N * heads vectors instead of H * W. Key biases are
not built: they shift all scores of a query alike, and the softmax forgets that.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ls.models.readings import HEADS, gather, read


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

    def plain(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of (B, Q, C) over (B, S, C): the definition, and the faster way once entries are many."""
        q, k, v = (_split(x) for x in (self.query(query), self.key(key), self.value(value)))
        return self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def is_folded(self, num_tokens: int) -> bool:
        """Whether N * heads folded vectors cost less than projecting every pixel to the inner width."""
        return num_tokens * HEADS <= self.query.out_features


class TokensReadPixels(Attention):
    """Entries gather from the pixels."""

    def forward(self, query: Tensor, pixels: Tensor, code: Tensor) -> Tensor:
        """Attn(q = query, k = pixels + code, v = pixels).

        Args:
            query: tokens with their code, (B, N, C).
            pixels: (B, HW, C).
            code: position code of the pixels, (HW, C).

        Returns:
            What each token gathered, (B, N, C).
        """
        if not self.is_folded(query.shape[1]):
            return self.plain(query, pixels + code, pixels)
        # q . (W_k p) = (W_k^T q) . p: the keys are never built.
        folded = _into_heads(_split(self.query(query)) * self.scale, self.key.weight)
        # sum_i a_i (W_v p_i + b) = W_v (sum_i a_i p_i) + b, as the a_i sum to 1: pixels are averaged, then projected.
        gathered = gather(folded, pixels, code).unflatten(1, (-1, HEADS))  # (B, N, heads, C)
        projected = torch.einsum("bnhc,hdc->bnhd", gathered, self.value.weight.unflatten(0, (HEADS, -1)))
        return self.output(projected.flatten(2) + self.value.bias)


class PixelsReadTokens(Attention):
    """Pixels gather from the entries.

    Args:
        width: embedding width C.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor, code: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """LN(pixels + Attn(q = pixels + code, k = key, v = value)).

        Args:
            pixels: (B, HW, C).
            code: position code of the pixels, (HW, C).
            key: tokens with their code, (B, N, C).
            value: tokens, (B, N, C).

        Returns:
            The pixels with what they gathered, (B, HW, C).
        """
        if not self.is_folded(key.shape[1]):
            return self.norm(pixels + self.plain(pixels + code, key, value))
        keys = _split(self.key(key)) * self.scale  # (B, heads, N, d)
        # (W_q p + b) . k = (W_q^T k) . p + b . k: the queries are never built.
        folded = _into_heads(keys, self.query.weight)
        constant = torch.einsum("bhnd,hd->bnh", keys, self.query.bias.unflatten(0, (HEADS, -1))).flatten(1)
        # W_o (sum_n a_n v_n) + b = sum_n a_n (W_o v_n) + b: values are projected while they are few. As the a_n of a
        # head sum to 1, the bias can ride on the values of the first head.
        weight = self.output.weight.unflatten(1, (HEADS, -1))
        outgoing = torch.einsum("bhnd,chd->bnhc", _split(self.value(value)), weight)
        outgoing = torch.cat([outgoing[:, :, :1] + self.output.bias, outgoing[:, :, 1:]], dim=2).flatten(1, 2)
        return read(pixels, code, folded, constant.unsqueeze(1), outgoing, self.norm.weight, self.norm.bias)


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

    def forward(self, tokens: Tensor, pixels: Tensor, token_code: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """One stage; shapes as in `Interaction.forward`, `token_code` (B, N, C) being the initial dictionary."""
        tokens = self.token_norm(tokens + self.tokens_read(tokens + token_code, pixels, code))
        return tokens, self.pixels_read(pixels, code, tokens + token_code, tokens)


class Interaction(nn.Module):
    """L stages and a last reading by the entries.

    Args:
        width: embedding width C.
        stages: L, at least 0.
    """

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(width) for _ in range(stages))
        self.last_read = TokensReadPixels(width)
        self.last_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, pixels: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Let dictionary entries and pixels attend to each other.

        Args:
            tokens: dictionary entries, (B, N, C); they are their own position code too.
            pixels: aggregated map, flattened, (B, HW, C).
            code: position code of the pixels, (HW, C).

        Returns:
            Tokens (B, N, C) and pixels (B, HW, C), both layer-normalised.
        """
        token_code = tokens
        for stage in self.stages:
            tokens, pixels = stage(tokens, pixels, token_code, code)
        tokens = self.last_norm(tokens + self.last_read(tokens + token_code, pixels, code))
        return tokens, pixels
