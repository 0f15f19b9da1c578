"""Maps in bands of rows against whole maps: results and gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models import bands


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3)),
    elements=st.integers(1, 200),
)
def test_bands_make_up_the_map(shape, elements):
    """Every image has its own, in order, no larger than they may be, as views of the map, and of equal heights."""
    bands.ELEMENTS = elements
    pixels = torch.randn(shape).double().requires_grad_()
    images = bands.in_bands(pixels)
    assert len(images) == len(pixels)
    for image, found in zip(pixels, images, strict=True):
        assert torch.cat(found, dim=1).equal(image[None])
        assert all(band.numel() <= elements or band.shape[1] == 1 for band in found)
        assert len({band.shape[1] for band in found[:-1]}) <= 1
        assert found[-1].shape[1] <= found[0].shape[1]
    weight = torch.randn(shape).double()
    whole = torch.cat([torch.cat(found, dim=1) for found in images])
    assert torch.autograd.grad((whole * weight).sum(), pixels)[0].equal(weight)
    assert images[0][0].data_ptr() == pixels.data_ptr()


def test_an_accelerator_takes_all_images_together(monkeypatch):
    monkeypatch.setattr(bands, "ACCELERATOR_ELEMENTS", 50)
    (found,) = bands.in_bands(torch.empty(2, 7, 3, 4, device="meta"))
    assert [tuple(band.shape) for band in found] == [(2, 2, 3, 4)] * 3 + [(2, 1, 3, 4)]


def scores(pixels, weight, gain):
    """A function of single rows: (B, H, W, 4), (3, 4), (3,) -> (B, 3, H, W)."""
    return ((pixels @ weight.T).softmax(dim=-1) * gain).permute(0, 3, 1, 2)


def doubled(pixels, weight, gain):
    """A function whose result has two rows for each: -> (B, 3, 2 H, W)."""
    both = torch.stack([scores(pixels, weight, gain), scores(pixels.square(), weight, gain)], dim=3)
    return both.flatten(2, 3)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3), rows=st.integers(1, 12), columns=st.integers(1, 4), height=st.integers(1, 12),
    function=st.sampled_from([scores, doubled]), frozen=st.sets(st.integers(0, 2), max_size=2),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_equals_the_function_of_all_rows(batch, rows, columns, height, function, frozen, seed):
    torch.manual_seed(seed)
    shapes = ((batch, rows, columns, 4), (3, 4), (3,))
    inputs = [torch.randn(*shape).double().requires_grad_(i not in frozen) for i, shape in enumerate(shapes)]
    found = bands.by_bands(function, inputs[0].split(height, dim=1), *inputs[1:])
    expected = function(*inputs)
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

    rows, weight = torch.randn(1, 6, 1, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = bands.by_bands(product, rows.split(2, dim=1), weight)
    result.float().sum().backward()
    assert result.dtype == torch.bfloat16
    assert seen == [torch.bfloat16] * 6
    assert rows.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(rows.grad, weight.detach().sum(dim=1).expand(1, 6, 1, 4), rtol=0.02, atol=0.02)
