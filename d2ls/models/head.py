"""From pixels and entries at stride 4 to logits at full resolution (spec section 1, item 6).

The method shuffles C channels of a stride-4 cell into a 4 x 4 block of C/16-channel pixels, in two steps of 2 x 2 with
a LayerNorm and a GELU after the first and a GELU after the second. All of these act on a pixel of some resolution
alone, so here they run on the cells, channels last, and each full-resolution pixel moves once, at the end.
"""

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class PixelUpsampler(nn.Module):
    """C channels at stride 4 to C/16 channels at full resolution; `width` is C, divisible by 16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width // 4, eps=NORM_EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, 4 H, 4 W, C/16), channels last."""
        # Channel (c * 4 + s2) * 4 + s1 belongs to pixel s1 of the first shuffle and pixel s2 of the second.
        cells = pixels.unflatten(-1, (-1, 4, 4)).transpose(-1, -3).contiguous()  # (B, H, W, s1, s2, C/16)
        # The norm over the C/4 channels of the half-resolution pixel s1 is one over (s2, c): reorder its weights.
        weight, bias = (x.unflatten(0, (-1, 4)).T for x in (self.norm.weight, self.norm.bias))
        cells = F.layer_norm(cells.to(weight.dtype), cells.shape[-2:], weight, bias, NORM_EPS)
        blocks = F.gelu(F.gelu(cells)).unflatten(-2, (2, 2)).unflatten(-4, (2, 2))  # B, h, w, y1, x1, y2, x2, C/16
        return blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


class DictionaryHead(nn.Module):
    """Logits as products of entries and upsampled pixels.

    Where the number of classes K differs from that of entries N, a linear map over the entry axis turns N into K.
    """

    def __init__(self, width: int, num_entries: int, num_classes: int) -> None:
        super().__init__()
        self.upsampler = PixelUpsampler(width)
        self.token_mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 16)
        )
        self.entries_to_classes = nn.Linear(num_entries, num_classes) if num_entries != num_classes else None

    def forward(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Logits (B, K, 4 H, 4 W) of entries (B, N, C) and pixels (B, H, W, C)."""
        image, classes = self.upsampler(pixels), self.class_vectors(tokens)
        logits = classes @ image.flatten(1, 2).transpose(1, 2).to(classes.dtype)  # norms may have raised it
        return logits.unflatten(-1, image.shape[1:3])

    def class_vectors(self, tokens: Tensor) -> Tensor:
        """Vectors (B, K, C/16) that upsampled pixels are multiplied with, of entries (B, N, C)."""
        vectors = self.token_mlp(tokens)
        if self.entries_to_classes is not None:
            vectors = self.entries_to_classes(vectors.transpose(1, 2)).transpose(1, 2)
        return vectors


class ConvHead(nn.Module):
    """The ablation without a dictionary: a 1x1 convolution of the upsampled pixels to K classes."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.upsampler = PixelUpsampler(width)
        self.classify = nn.Linear(width // 16, num_classes)  # a 1x1 convolution, written for channels-last rows

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, K, 4 H, 4 W) of pixels (B, H, W, C)."""
        return self.classify(self.upsampler(pixels)).permute(0, 3, 1, 2).contiguous()
