"""The readings with their written-out gradients against the same formulas left to autograd."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models.readings import HEADS, Tokens, gather, read_and_gather

problems = given(
    batch=st.integers(1, 2), pixels=st.integers(1, 30), tokens=st.integers(1, 3), size=st.integers(1, 12),
    seed=st.integers(0, 2**16),
)  # fmt: skip


def draw(seed, *shapes):
    torch.manual_seed(seed)
    return [torch.randn(*shape).double().requires_grad_() for shape in shapes]


def agree(found, expected, inputs):
    """Results and the gradients of all of them together."""
    torch.testing.assert_close(found, expected)
    weights = [torch.randn_like(x) for x in expected]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(results, weights, strict=True)), inputs)
        for results in (found, expected)
    ]
    torch.testing.assert_close(*gradients)


def gather_by_formula(queries, p, code):
    return (queries @ (p + code).transpose(1, 2)).softmax(dim=-1) @ p


@settings(max_examples=30, deadline=None)
@problems
def test_gather(batch, pixels, tokens, size, seed):
    queries, p, code = draw(seed, (batch, tokens, 4), (batch, pixels, 4), (pixels, 4))
    agree([gather(queries, p.split(size, dim=1), code)], [gather_by_formula(queries, p, code)], [queries, p])


@settings(max_examples=30, deadline=None)
@problems
def test_read_and_gather(batch, pixels, tokens, size, seed):
    rows = HEADS * tokens
    p, queries, code, *read = draw(
        seed, (batch, pixels, 4), (batch, 5, 4), (pixels, 4),
        (batch, rows, 4), (batch, 1, rows), (batch, rows, 4), (4,), (4,),
    )  # fmt: skip
    keys, constant, values, gain, bias = read
    scores = ((p + code) @ keys.transpose(1, 2) + constant).view(batch, pixels, tokens, HEADS)
    attention = scores.softmax(dim=2).view(batch, pixels, rows)
    new = F.layer_norm(p + attention @ values, (4,), gain, bias)
    expected = new, gather_by_formula(queries, new, code)
    result, gathered = read_and_gather(p.split(size, dim=1), code, Tokens(*read), queries)
    agree((torch.cat(result, dim=1), gathered), expected, [p, queries, *read])


def test_pixels_alone_may_be_asked_for_their_gradient():
    """What is gathered last but leads to no loss, or the other way round."""
    p, queries, code, *read = draw(0, (1, 6, 4), (1, 3, 4), (6, 4), (1, 8, 4), (1, 1, 8), (1, 8, 4), (4,), (4,))
    (new,), gathered = read_and_gather([p], code, Tokens(*read), queries)
    both = torch.autograd.grad(new.sum() + gathered.sum(), p, retain_graph=True)[0]
    parts = [torch.autograd.grad(x.sum(), p, retain_graph=True)[0] for x in (new, gathered)]
    torch.testing.assert_close(sum(parts), both)


@pytest.mark.parametrize("size", [16, 2], ids=["whole", "bands"])
def test_large_scores_stay_finite(size):
    """Scores of some 10^6, largest in the first band for some vectors and in the last for others."""
    queries, p, code = [(1000 * x).detach() for x in draw(0, (1, 16, 4), (1, 9, 4), (9, 4))]
    found = gather(queries, p.split(size, dim=1), code)
    torch.testing.assert_close(found, gather_by_formula(queries, p, code))
