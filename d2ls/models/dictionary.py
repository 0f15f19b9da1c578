"""The dictionary: a learned static table, and the dynamic mixture that an image's deepest map chooses from it."""

from typing import Literal

import torch
from torch import Tensor, nn

CANDIDATES = 4  # R: candidates per entry

DictionaryKind = Literal["dynamic", "static", "ones", "zeros"]


class Modulator(nn.Module):
    """Mixing weights over the candidates of each of N entries, from the stride-32 map (paper, section 3.2)."""

    def __init__(self, channels: int, width: int, num_entries: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.max_branch = nn.Linear(width // 2, width // 2)
        self.mean_branch = nn.Linear(width // 2, width // 2)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, num_entries * CANDIDATES))

    def forward(self, deepest: Tensor) -> Tensor:
        """Mixing weights (B, N, R), each row a distribution, from the deepest map (B, C_4, H_4, W_4)."""
        embedded = self.embed(deepest.flatten(2).transpose(1, 2))  # (B, H_4 * W_4, C)
        to_max, to_mean = embedded.chunk(2, dim=-1)
        pooled = torch.cat([self.max_branch(to_max.amax(dim=1)), self.mean_branch(to_mean.mean(dim=1))], dim=-1)
        return self.mix(pooled).unflatten(-1, (-1, CANDIDATES)).softmax(dim=-1)


class Dictionary(nn.Module):
    """N entries of width C: "dynamic" mixes learned candidates per image; the other kinds are the paper's ablations.

    These are "static" (the learned table alone), "ones" and "zeros". `channels` are those of the stride-32 map.
    """

    def __init__(self, kind: DictionaryKind, num_entries: int, channels: int, width: int) -> None:
        super().__init__()
        self.kind, self.num_entries, self.width = kind, num_entries, width
        if kind in ("dynamic", "static"):
            self.table = nn.Parameter(torch.randn(num_entries, width))
        if kind == "dynamic":
            self.candidates = nn.Linear(width, CANDIDATES * width)
            self.modulator = Modulator(channels, width, num_entries)

    def static(self, like: Tensor) -> Tensor:
        """The entries that do not depend on the image, (B, N, C) for a batch as large as that of `like`."""
        if self.kind in ("dynamic", "static"):
            entries: Tensor = self.table
        else:
            entries = like.new_full((self.num_entries, self.width), float(self.kind == "ones"))
        return entries.expand(len(like), -1, -1)

    def dynamic(self, deepest: Tensor) -> Tensor:
        """D[b, n] = sum over r of weight[b, n, r] * candidate[n, r]: (B, N, C) from the map (B, C_4, H_4, W_4)."""
        candidates = self.candidates(self.table).unflatten(-1, (CANDIDATES, -1))  # (N, R, C)
        return torch.einsum("bnr,nrc->bnc", self.modulator(deepest), candidates)
