"""Views change nothing for a network that commutes with them, and are as many as the paper's scripts run."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2ls.data.sets import find
from d2ls.data.sets.facts import Views
from d2ls.inference import tta
from d2ls.inference.tta import Scale, mean_logits

SIZES = [(66, 66), (70, 70), (64, 96), (33, 50), (5, 3)]
NUMBERS = {"vaihingen": 40, "potsdam": 16, "loveda": 8, "uavid": 10, "grass": 8, "cloud": 8, "dubai": 8}


def images(size: tuple[int, int], number: int = 2) -> Tensor:
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(0))


def mix(image: Tensor) -> Tensor:
    """A linear map of each pixel's channels: it commutes with flips, turns, and (being linear) with resizing."""
    return torch.einsum("kc,bchw->bkhw", torch.tensor([[1.0, 2, 3], [-1, 0.5, 0], [0, 0, 1], [2, 2, -2]]), image)


@pytest.mark.parametrize(("dataset", "number"), NUMBERS.items())
def test_number_of_views(dataset: str, number: int) -> None:
    shapes: list[tuple[int, ...]] = []

    def model(image: Tensor) -> Tensor:
        shapes.extend([tuple(image.shape[1:])] * len(image))
        return mix(image)

    mean_logits(model, images((64, 96), 1), find(dataset).d4)
    assert len(find(dataset).d4) == number == len(shapes)
    assert len(tta.LR) == 4
    assert len(tta.NONE) == 1
    sides = {round(scale * 64) for scale in find(dataset).d4.scales}
    assert {min(shape[1:]) for shape in shapes} == sides


def test_every_view_of_vaihingen_is_another_picture() -> None:
    seen = []
    mean_logits(lambda image: seen.append(image) or mix(image), images((32, 32), 1), Views(True, True, True))
    assert len(seen) == 8
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 8)
)
@settings(deadline=None, max_examples=40)
def test_flips_and_turns_change_nothing_for_a_network_of_single_pixels(
    size: tuple[int, int], hflip: bool, vflip: bool, rot90: bool, batch: int
) -> None:
    image = images(size)
    nonlinear = mean_logits(lambda view: mix(view).sin(), image, Views(hflip, vflip, rot90), batch)
    torch.testing.assert_close(nonlinear, mix(image).sin())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dataset", ["vaihingen", "uavid"])
def test_scales_come_back_at_the_images_size(size: tuple[int, int], dataset: str) -> None:
    """A linear map of channels commutes with resizing: the mean is that map of the resized and restored image."""
    image, scales = images(size), find(dataset).d4.scales
    expected = torch.zeros(2, 4, *size)
    for scale in scales:
        small = [max(1, round(scale * side)) for side in size]
        there = F.interpolate(image, small, mode="bicubic", align_corners=False)
        expected += mix(F.interpolate(there, list(size), mode="bicubic", align_corners=False)) / len(scales)
    found = mean_logits(mix, image, find(dataset).d4, batch=4)
    assert found.shape == (2, 4, *size)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_a_constant_picture_stays_constant_in_every_view(size: tuple[int, int]) -> None:
    found = mean_logits(mix, torch.ones(1, 3, *size), find("vaihingen").d4)
    torch.testing.assert_close(found, mix(torch.ones(1, 3, *size)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
@pytest.mark.parametrize("batch", [1, 3, 8, 100])
def test_the_batch_of_views_does_not_matter(size: tuple[int, int], batch: int) -> None:
    largest = 0
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))

    def model(image: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(image))
        return F.conv2d(image, weight, padding=1)

    image, views = images(size), find("vaihingen").d4
    torch.testing.assert_close(
        mean_logits(model, image, views, batch), mean_logits(model, image, views), atol=1e-4, rtol=1e-4
    )
    same = 8 if size[0] == size[1] else 4  # turned views of an oblong image have another size
    assert largest == 2 * min(batch, same)


def test_the_mean_over_the_product_taken_one_view_at_a_time() -> None:
    """The same as merging all 40 views one by one, each turned back and resized by itself."""
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    image, total = images((36, 50), 1), torch.zeros(1, 2, 36, 50)
    for scale in (0.5, 0.75, 1.0, 1.25, 1.5):
        resized = F.interpolate(image, (round(scale * 36), round(scale * 50)), mode="bicubic", align_corners=False)
        for turn in (0, 1):
            for axes in ([], [2], [3], [2, 3]):
                logits = F.conv2d(torch.rot90(resized, turn, (2, 3)).flip(axes), weight, padding=1)
                back = torch.rot90(logits.flip(axes), -turn, (2, 3))
                total += F.interpolate(back, (36, 50), mode="bicubic", align_corners=False) / 40
    found = mean_logits(lambda view: F.conv2d(view, weight, padding=1), image, find("vaihingen").d4, batch=8)
    torch.testing.assert_close(found, total, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.25, 2))
@settings(deadline=None, max_examples=30)
def test_scale_restores_any_size(height: int, width: int, factor: float) -> None:
    scale = Scale((factor,), (height, width))
    there = scale.apply_aug_image(torch.zeros(1, 1, height, width), scale=factor)
    assert there.shape[-2:] == (max(1, round(height * factor)), max(1, round(width * factor)))
    assert scale.apply_deaug_mask(there, scale=factor).shape[-2:] == (height, width)
