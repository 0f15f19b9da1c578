"""The rewritten aggregation against projection, resize, concatenation and convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2ls.models.aggregation import Aggregation, resize_by_products

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def by_definition(part, maps, width):
    """Built from fresh layers: 1x1 convolutions, resize, concatenation deepest first."""
    size = maps[0].shape[-2:]
    levels = []
    for level, embed in zip(maps, part.embed, strict=True):
        convolution = nn.Conv2d(level.shape[1], width, 1, dtype=level.dtype)
        convolution.weight.data = embed.weight.data[:, :, None, None]
        convolution.bias.data = embed.bias.data
        levels.append(F.interpolate(convolution(level), size=size, mode="bilinear", align_corners=False))
    merged = torch.cat(levels[::-1], dim=1)
    return torch.einsum("oc,bchw->bhwo", part.merge.weight, merged)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    level_sizes=st.lists(sizes, min_size=4, max_size=4),
    batch=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_equals_concatenation(channels, level_sizes, batch, seed):
    torch.manual_seed(seed)
    part = Aggregation(channels, 16).double()
    maps = [torch.randn(batch, c, *size).double() for c, size in zip(channels, level_sizes, strict=True)]
    torch.testing.assert_close(part(maps), by_definition(part, maps, 16), rtol=1e-10, atol=1e-10)


def test_without_aggregation_the_deepest_level_alone():
    torch.manual_seed(0)
    part = Aggregation([2, 3, 4, 5], 16, aggregate=False)
    maps = [torch.randn(2, c, size, size + 1) for c, size in zip([2, 3, 4, 5], [8, 4, 2, 1], strict=True)]
    found = part(maps)
    assert found.shape == (2, 8, 9, 16)
    maps[:3] = [torch.full_like(m, torch.nan) for m in maps[:3]]
    torch.testing.assert_close(part(maps), found)  # the values of the other levels play no part
    assert len(list(part.parameters())) == 2


@pytest.mark.parametrize("level", range(4))
def test_every_level_counts(level):
    torch.manual_seed(0)
    part = Aggregation([2, 3, 4, 5], 16)
    maps = [torch.randn(1, c, size, size) for c, size in zip([2, 3, 4, 5], [8, 4, 2, 1], strict=True)]
    before = part(maps)
    maps[level] = maps[level] + 1
    assert not torch.allclose(before, part(maps))


@settings(max_examples=20, deadline=None)
@given(old=sizes, new=sizes, seed=st.integers(0, 2**16))
def test_resize_by_products_is_torchs(old, new, seed):
    """Values and gradients of the resize that is deterministic on every device."""
    torch.manual_seed(seed)
    x = torch.randn(2, *old, 3, requires_grad=True)
    expected = F.interpolate(x.permute(0, 3, 1, 2), size=new, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    found, weight = resize_by_products(x, new), torch.randn_like(expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad((y * weight).sum(), x) for y in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
