"""Rows of a map in slices against all rows at once: results and gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models import slices


def scores(pixels, weight, gain):
    """A function of single rows: (B, H, W, 4), (3, 4), (3,) -> (B, 3, H, W)."""
    return ((pixels @ weight.T).softmax(dim=-1) * gain).permute(0, 3, 1, 2)


def doubled(pixels, weight, gain):
    """A function whose result has two rows for each: -> (B, 3, 2 H, W)."""
    both = torch.stack([scores(pixels, weight, gain), scores(pixels.square(), weight, gain)], dim=3)
    return both.flatten(2, 3)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3), rows=st.integers(1, 12), columns=st.integers(1, 4), elements=st.integers(1, 200),
    function=st.sampled_from([scores, doubled]), frozen=st.sets(st.integers(0, 2), max_size=2),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_equals_the_function_of_all_rows(batch, rows, columns, elements, function, frozen, seed):
    torch.manual_seed(seed)
    shapes = ((batch, rows, columns, 4), (3, 4), (3,))
    inputs = [torch.randn(*shape).double().requires_grad_(i not in frozen) for i, shape in enumerate(shapes)]
    slices.ELEMENTS = elements
    found, expected = slices.by_rows(function, *inputs), function(*inputs)
    torch.testing.assert_close(found, expected)
    weight = torch.linspace(-1, 1, expected.numel()).to(expected).view_as(expected)
    inputs = [x for x in inputs if x.requires_grad]
    gradients = [torch.autograd.grad((x * weight).sum(), inputs) for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_automatic_precision_in_both_passes():
    """The backward pass runs the function again in the precision of the forward pass, not in its own."""
    seen = []

    def product(rows, weight):
        result = (rows @ weight).permute(0, 3, 1, 2)
        seen.append(result.dtype)
        return result

    slices.ELEMENTS = 8  # two rows
    rows, weight = torch.randn(1, 6, 1, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = slices.by_rows(product, rows, weight)
    result.float().sum().backward()
    assert result.dtype == torch.bfloat16
    assert seen == [torch.bfloat16] * 6
    assert rows.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(rows.grad, weight.detach().sum(dim=1).expand(1, 6, 1, 4), rtol=0.02, atol=0.02)


def test_images_one_by_one():
    batch, other = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    sizes = []

    def function(a, b):
        sizes.append(len(a))
        return a * b

    assert slices.by_images(function, batch, other).equal(batch * other)
    assert sizes == [1, 1, 1]
