"""A tiny Swin, and images of random sizes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer, swin_tiny_patch4_window7_224
from torch import Tensor, nn

from d2ls.data.spec import DatasetSpec


@register_model
def test_swin(pretrained: bool = False, **options: Any) -> SwinTransformer:
    sizes = {"window_size": 4, "embed_dim": 16, "depths": (1, 2, 1, 2), "num_heads": (1, 1, 2, 2)}
    return swin_tiny_patch4_window7_224(pretrained=False, **sizes | options)


test_swin.__test__ = False


def images(number: int, channels: int = 3, seed: int = 0) -> Iterator[np.ndarray]:
    """Batches of 1 to 3 images of random, mostly odd sizes."""
    random = np.random.default_rng(seed)
    for _ in range(number):
        shape = random.integers(1, 4), channels, *random.integers(3, 170, 2)
        yield random.integers(0, 256, shape, dtype=np.uint8)


@torch.no_grad()
def expected(net: nn.Module, spec: DatasetSpec, image: np.ndarray) -> np.ndarray:
    """Probabilities by PyTorch, from the definition of the normalisation."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    normalised: Tensor = (torch.from_numpy(image).double() - mean) / std
    return net(normalised.float()).softmax(1).numpy()
