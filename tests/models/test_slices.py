"""Slices of pixels against all pixels at once: results and gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models import slices


def normalised_scores(rows, code, weight, gain):
    """A function of single rows: (B, R, 4), (R, 4), (3, 4), (3,) -> (B, R, 3)."""
    return ((rows + code) @ weight.T).softmax(dim=-1) * gain


def doubled(rows, gain):
    """A function whose result has two rows for each: (B, R, 4), (4,) -> (B, 2 R, 4)."""
    return torch.stack([rows * gain, rows.square()], dim=2).flatten(1, 2)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), rows=st.integers(1, 30), elements=st.integers(1, 200),
    frozen=st.sets(st.integers(0, 3), max_size=3), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_equals_the_function_of_all_rows(batch, rows, elements, frozen, seed):
    torch.manual_seed(seed)
    shapes = ((batch, rows, 4), (rows, 4), (3, 4), (3,))
    inputs = [torch.randn(*shape).double().requires_grad_(i not in frozen) for i, shape in enumerate(shapes)]
    slices.ELEMENTS = elements
    agree(normalised_scores, inputs[:2], inputs[2:])


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 30), elements=st.integers(1, 200))
def test_a_result_may_have_more_rows(rows, elements):
    slices.ELEMENTS = elements
    agree(doubled, [torch.randn(2, rows, 4).double().requires_grad_()], [torch.randn(4).double().requires_grad_()])


def agree(function, sliced, shared):
    inputs = [x for x in [*sliced, *shared] if x.requires_grad]
    found, expected = slices.by_slices(function, sliced, shared), function(*sliced, *shared)
    torch.testing.assert_close(found, expected)
    weight = torch.linspace(-1, 1, expected.numel()).to(expected).view_as(expected)
    gradients = [torch.autograd.grad((x * weight).sum(), inputs) for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_automatic_precision_in_both_passes():
    """The backward pass runs the function again in the precision of the forward pass, not in its own."""
    seen = []

    def product(rows, weight):
        result = rows @ weight
        seen.append(result.dtype)
        return result

    slices.ELEMENTS = 8
    rows, weight = torch.randn(1, 6, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = slices.by_slices(product, [rows], [weight])
    result.float().sum().backward()
    assert result.dtype == torch.bfloat16
    assert seen == [torch.bfloat16] * 6
    assert rows.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(rows.grad, weight.detach().sum(dim=1).expand(1, 6, 4), rtol=0.02, atol=0.02)


def test_images_one_by_one():
    batch, other = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    sizes = []

    def function(a, b):
        sizes.append(len(a))
        return a * b

    assert slices.by_images(function, batch, other).equal(batch * other)
    assert sizes == [1, 1, 1]
