"""The readings with their written-out gradients against the same formulas left to autograd."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models import slices
from d2ls.models.readings import HEADS, gather, read

problems = given(
    batch=st.integers(1, 2), pixels=st.integers(1, 30), tokens=st.integers(1, 3), elements=st.integers(1, 200),
    seed=st.integers(0, 2**16),
)  # fmt: skip


def draw(seed, *shapes):
    torch.manual_seed(seed)
    return [torch.randn(*shape).double().requires_grad_() for shape in shapes]


def agree(function, formula, inputs):
    found, expected = function(*inputs), formula(*inputs)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (found, expected)))


@settings(max_examples=30, deadline=None)
@problems
def test_gather(batch, pixels, tokens, elements, seed):
    slices.ELEMENTS = elements
    inputs = draw(seed, (batch, tokens, 4), (batch, pixels, 4), (pixels, 4))
    agree(gather, lambda folded, p, code: (folded @ (p + code).transpose(1, 2)).softmax(dim=-1) @ p, inputs)


@settings(max_examples=30, deadline=None)
@problems
def test_read(batch, pixels, tokens, elements, seed):
    slices.ELEMENTS = elements
    rows = HEADS * tokens
    inputs = draw(
        seed, (batch, pixels, 4), (pixels, 4), (batch, rows, 4), (batch, 1, rows), (batch, rows, 4), (4,), (4,)
    )

    def formula(p, code, folded, constant, values, gain, bias):
        scores = ((p + code) @ folded.transpose(1, 2) + constant).view(batch, pixels, tokens, HEADS)
        attention = scores.softmax(dim=2).view(batch, pixels, rows)
        return F.layer_norm(p + attention @ values, (4,), gain, bias)

    agree(read, formula, inputs)


def test_large_scores_stay_finite():
    inputs = [(1000 * x).detach() for x in draw(0, (1, 2, 4), (1, 9, 4), (9, 4))]
    assert gather(*inputs).isfinite().all()
