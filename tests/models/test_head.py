"""The channels-last upsampler against PixelShuffle, LayerNorm and GELU on maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2ls.models.head import ConvHead, DictionaryHead, PixelUpsampler


def upsample_by_definition(part, pixels):
    """PixelShuffle, LayerNorm over channels, GELU, PixelShuffle, GELU on an NCHW map."""
    x = nn.PixelShuffle(2)(pixels.permute(0, 3, 1, 2))
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + 1e-6)
    x = x * part.norm.weight[:, None, None] + part.norm.bias[:, None, None]
    return nn.GELU()(nn.PixelShuffle(2)(nn.GELU()(x)))


def randomise(part):
    with torch.no_grad():
        part.norm.weight.normal_()
        part.norm.bias.normal_()


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.sampled_from([16, 32, 64]),
    batch=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_upsampler_equals_pixel_shuffles(height, width, channels, batch, seed):
    torch.manual_seed(seed)
    part = PixelUpsampler(channels).double()
    randomise(part)
    pixels = torch.randn(batch, height, width, channels).double().requires_grad_()
    found = part(pixels).permute(0, 3, 1, 2)
    expected = upsample_by_definition(part, pixels)
    assert found.shape == (batch, channels // 16, 4 * height, 4 * width)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    inputs = [pixels, part.norm.weight, part.norm.bias]
    weight = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_norm_has_the_small_epsilon():
    part = PixelUpsampler(32)
    pixels = 1e-3 * torch.randn(1, 2, 3, 32)  # a variance of 1e-6: the epsilon decides
    torch.testing.assert_close(part(pixels).permute(0, 3, 1, 2), upsample_by_definition(part, pixels))


@pytest.mark.parametrize(("entries", "classes"), [(3, 3), (5, 3), (1, 4), (1, 1)])
def test_dictionary_head_is_the_product_of_tokens_and_pixels(entries, classes):
    torch.manual_seed(0)
    part = DictionaryHead(32, entries, classes).double()
    randomise(part.upsampler)
    tokens, pixels = (torch.randn(2, *shape, 32).double().requires_grad_() for shape in ((entries,), (2, 3)))
    t = tokens
    for index in (0, 2, 4):
        t = t @ part.token_mlp[index].weight.T + part.token_mlp[index].bias
        t = t.clamp(min=0) if index < 4 else t
    if entries != classes:
        mapping = part.entries_to_classes
        t = torch.einsum("kn,bnc->bkc", mapping.weight, t) + mapping.bias[:, None]
    expected = torch.einsum("bkc,bchw->bkhw", t, upsample_by_definition(part.upsampler, pixels))
    found = part(tokens, pixels)
    torch.testing.assert_close(found, expected)
    weight, inputs = torch.randn_like(expected), [tokens, pixels, *part.parameters()]
    gradients = (torch.autograd.grad((logits * weight).sum(), inputs) for logits in (found, expected))
    torch.testing.assert_close(*gradients)
    assert (part.entries_to_classes is None) == (entries == classes)


def test_conv_head_is_a_convolution():
    torch.manual_seed(0)
    part = ConvHead(32, 5).double()
    randomise(part.upsampler)
    convolution = nn.Conv2d(2, 5, 1).double()
    convolution.load_state_dict({"weight": part.classify.weight[:, :, None, None], "bias": part.classify.bias})
    pixels = torch.randn(2, 2, 3, 32).double()
    torch.testing.assert_close(part(pixels), convolution(upsample_by_definition(part.upsampler, pixels)))
