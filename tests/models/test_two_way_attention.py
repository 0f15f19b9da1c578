"""The folded attentions against the definition, and that against PyTorch's own module."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2ls.models import two_way_attention
from d2ls.models.two_way_attention import HEADS, Attention, TwoWayAttention, average_pixels

problems = given(
    tokens=st.integers(1, 4),
    pixels=st.integers(1, 40),
    batch=st.integers(1, 2),
    stages=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=30, deadline=None)
@problems
def test_folded_is_the_definition(tokens, pixels, batch, stages, seed):
    """Outputs and gradients."""
    torch.manual_seed(seed)
    part = TwoWayAttention(64, stages).double()
    for parameter in part.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    shapes = ((batch, tokens), (batch, pixels), (pixels,))
    t, p, e = (torch.randn(*shape, 64).double() for shape in shapes)
    inputs = [t.requires_grad_(), p.requires_grad_()]
    results = []
    for way in (part, partial(by_definition, part)):
        outputs = way(t, p, e)
        total = sum((x * torch.linspace(-1, 1, x.numel()).to(x).view_as(x)).sum() for x in outputs)
        results.append([*outputs, *torch.autograd.grad(total, [*inputs, *part.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def by_definition(part, t0, p, e):
    """The recurrence of the paper with attentions that project every pixel."""
    attend = Attention.forward
    t = t0
    for stage in part.stages:
        t = stage.token_norm(t + attend(stage.token_to_image_attn, t + t0, p + e, p))
        p = stage.image_to_token_attn.norm(p + attend(stage.image_to_token_attn, p + e, t + t0, t))
    return part.final_norm(t + attend(part.final_attn, t + t0, p + e, p)), p


@settings(max_examples=30, deadline=None)
@given(pixels=st.integers(1, 60), part=st.integers(1, 20), seed=st.integers(0, 2**16))
def test_average_in_parts(pixels, part, seed):
    """However the pixels are divided, the result is that of one sum, in value and gradient."""
    torch.manual_seed(seed)
    queries, key, value = (torch.randn(2, n, 4).double().requires_grad_() for n in (3, pixels, pixels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_way_attention, "PART", part)
        found = average_pixels(queries, key, value)
    expected = (queries @ key.mT).softmax(dim=-1) @ value
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((x * weight).sum(), [queries, key, value]) for x in (found, expected)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("width", "tokens", "folded"), [(256, 16, True), (256, 17, False), (32, 2, True), (32, 3, False)]
)
def test_which_way_is_taken(width, tokens, folded):
    assert TwoWayAttention(width, 1).final_attn.is_folded(tokens) == folded


def test_plain_attention_is_multi_head_attention():
    """nn.MultiheadAttention of the inner width, between our outer projections; its key bias changes nothing."""
    torch.manual_seed(0)
    part = Attention(64).double()
    query, key, value = torch.randn(2, 3, 64), torch.randn(2, 7, 64), torch.randn(2, 7, 64)
    theirs = nn.MultiheadAttention(32, HEADS, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.eye(32).repeat(3, 1))
        theirs.in_proj_bias.copy_(torch.cat([part.query.bias, torch.randn(32), part.value.bias]))
        theirs.out_proj.weight.copy_(torch.eye(32))
        theirs.out_proj.bias.zero_()
    q, k, v = (
        x.double() @ projection.weight.T
        for x, projection in ((query, part.query), (key, part.key), (value, part.value))
    )
    expected = theirs(q, k, v)[0] @ part.output.weight.T + part.output.bias
    torch.testing.assert_close(part(query.double(), key.double(), value.double()), expected)


def test_no_key_bias_is_built():
    names = [name for name, _ in TwoWayAttention(32, 2).named_parameters()]
    assert not [name for name in names if "key.bias" in name]
    assert sum(name.endswith("query.bias") for name in names) == 2 * 2 + 1


@pytest.mark.parametrize("stages", [0, 1, 3])
@pytest.mark.parametrize("tokens", [2, 5])
def test_order_of_the_interaction(stages, tokens):
    """The recurrence of the paper, written with the plain attentions."""
    torch.manual_seed(0)
    part = TwoWayAttention(32, stages).double()
    for parameter in part.parameters():
        parameter.data.normal_(std=0.3)
    t0, p0, e = torch.randn(2, tokens, 32).double(), torch.randn(2, 6, 32).double(), torch.randn(6, 32).double()
    t, p = by_definition(part, t0, p0, e)
    found_t, found_p = part(t0, p0, e)
    torch.testing.assert_close(found_t, t)
    torch.testing.assert_close(found_p, p)
    assert part.final_norm.eps == 1e-5


def test_tokens_are_not_told_apart_by_their_place():
    torch.manual_seed(0)
    part = TwoWayAttention(64, 2).double()
    tokens, pixels, code = torch.randn(1, 4, 64).double(), torch.randn(1, 9, 64).double(), torch.randn(9, 64).double()
    order = [2, 0, 3, 1]
    t, p = part(tokens, pixels, code)
    moved_t, moved_p = part(tokens[:, order], pixels, code)
    torch.testing.assert_close(moved_t, t[:, order])
    torch.testing.assert_close(moved_p, p)
