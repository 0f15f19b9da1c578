"""Windows cover every pixel with weights that sum to one, and leave no seams."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2ls.data.augment import normalise
from d2ls.errors import ConfigError
from d2ls.inference.sliding_window import Blend, Windows, axis, blended_axis, segment_windows

LENGTHS = st.integers(1, 300)
WINDOWS = st.integers(1, 120)


def frame(height: int, width: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(normalise(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)))


def single_pixels(images: Tensor) -> Tensor:
    return torch.stack([images[:, 0], images[:, 1].sin(), images.sum(dim=1)], dim=1)


@given(LENGTHS, WINDOWS)
def test_without_overlap_every_pixel_is_in_one_window(length: int, window: int) -> None:
    found = axis(length, window)
    assert 0 <= found.padding < window
    assert (found.padding + length) % window == 0
    covered = np.zeros(found.padding + length, int)
    for start in found.starts:
        covered[start : start + window] += 1
    assert (covered == 1).all()
    assert (found.weights == 1).all()


@given(LENGTHS, WINDOWS, st.floats(0.01, 0.9))
def test_with_overlap_weights_sum_to_one(length: int, window: int, overlap: float) -> None:
    found = axis(length, window, overlap)
    assert found.padding == max(0, window - length)
    total = np.zeros(found.padding + length)
    for start, weights in zip(found.starts, found.weights.double().numpy(), strict=True):
        assert (weights > 0).all()
        total[start : start + window] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    steps = np.diff(found.starts)
    assert len(steps) == 0 or steps.max() <= math.ceil(max(1, math.floor(window * (1 - overlap))))
    assert found.starts[0] == 0
    assert found.starts[-1] + window == found.padding + length


@given(st.integers(40, 90), st.integers(40, 90), st.sampled_from([0.0, 0.25, 0.6]), st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_a_network_of_single_pixels_gives_the_whole_frame(height: int, width: int, overlap: float, batch: int) -> None:
    image = frame(height, width)
    found = segment_windows(single_pixels, image, Windows(32, 48, overlap), batch)
    torch.testing.assert_close(found, single_pixels(image[None])[0], atol=1e-5, rtol=1e-5)


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([0.0, 0.25, 0.6]))
@settings(deadline=None, max_examples=25)
def test_without_padding_windows_are_parts_of_the_frame(height: int, width: int, overlap: float) -> None:
    image, seen = frame(height, width), []

    def model(images: Tensor) -> Tensor:
        seen.extend(images)
        return single_pixels(images)

    found = segment_windows(model, image, Windows(32, 48, overlap), padded=False)
    torch.testing.assert_close(found, single_pixels(image[None])[0], atol=1e-5, rtol=1e-5)
    assert {window.shape for window in seen} == {(3, min(height, 32), min(width, 48))}
    if len(seen) == 1:
        assert torch.equal(seen[0], image)
    cuts = image.unfold(1, seen[0].shape[1], 1).unfold(2, seen[0].shape[2], 1).flatten(1, 2).transpose(0, 1)
    assert all((cuts == window).flatten(1).all(dim=1).any() for window in seen)


def test_without_padding_frames_may_have_any_bands() -> None:
    image = torch.randn(5, 40, 50)
    found = segment_windows(lambda images: images, image, Windows(32, 32, 0.25), padded=False)
    torch.testing.assert_close(found, image)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [(20, 30), (32, 48), (100, 130), (1, 1)])
def test_constant_logits_have_no_seams(overlap: float, size: tuple[int, int]) -> None:
    found = segment_windows(
        lambda images: torch.full((len(images), 2, 32, 48), 3.0), frame(*size), Windows(32, 48, overlap)
    )
    torch.testing.assert_close(found, torch.full((2, *size), 3.0))


def test_blended_windows_that_disagree_pass_into_each_other_without_a_step() -> None:
    calls = iter(range(100))

    def disagreeing(images: Tensor) -> Tensor:
        return torch.stack([torch.full((1, *image.shape[1:]), float(next(calls) % 2)) for image in images])

    blended = segment_windows(disagreeing, frame(64, 400), Windows(64, 128, 0.25))[0, 0]
    edges = segment_windows(disagreeing, frame(64, 400), Windows(64, 128))[0, 0]
    assert blended.diff().abs().max() < 0.1
    assert edges.diff().abs().max() == 1  # the measure sees a seam where there is one


def test_padding_is_black_and_at_the_top_and_left() -> None:
    seen: list[Tensor] = []
    image = frame(50, 70)
    segment_windows(lambda images: seen.append(images) or images, image, Windows(32, 48), batch=100)
    (windows,) = seen
    assert windows.shape == (4, 3, 32, 48)
    black = torch.from_numpy(normalise(np.zeros((64, 96, 3), np.uint8)))
    black[:, 14:, 26:] = image
    joined = torch.cat([torch.cat(list(row), dim=2) for row in windows.split(2)], dim=1)
    torch.testing.assert_close(joined, black, atol=0, rtol=1e-7)


def test_batches_are_of_full_windows_and_no_larger_than_asked() -> None:
    sizes = []
    segment_windows(lambda images: sizes.append(images.shape) or images, frame(100, 100), Windows(32, 48), batch=5)
    assert [shape[0] for shape in sizes] == [5, 5, 2]
    assert {shape[1:] for shape in sizes} == {(3, 32, 48)}


@pytest.mark.parametrize("values", [(0, 10, 0.0), (10, -1, 0.0), (10, 10, -0.1), (10, 10, 1.0)])
def test_impossible_windows(values: tuple[int, int, float]) -> None:
    with pytest.raises(ConfigError):
        Windows(*values)


@given(st.tuples(LENGTHS, LENGTHS), st.tuples(WINDOWS, WINDOWS), st.floats(0, 0.9), st.data())
@settings(max_examples=40)
def test_blended_windows_are_the_weighted_sum_over_the_whole_image(
    size: tuple[int, int], window: tuple[int, int], overlap: float, data: st.DataObject
) -> None:
    """Any values, windows left out among them, from any row of windows on."""
    rows, columns = (blended_axis(*arguments, overlap) for arguments in zip(size, window, strict=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    first = data.draw(st.integers(0, len(rows.starts) - 1))
    whole, found, known = (np.zeros((2, *size)) for _ in range(3))
    blend = Blend(rows, columns)
    for row, top in list(enumerate(rows.starts))[first:]:
        for column, left in enumerate(columns.starts):
            values = torch.from_numpy(rng.random((2, rows.window, columns.window))) if rng.random() < 0.7 else None
            if values is not None:
                weights = torch.outer(rows.weights[row], columns.weights[column]).double()
                whole[:, top : top + rows.window, left : left + columns.window] += (values * weights).numpy()
            part = blend.add(row, column, values)
            block = slice(None), slice(top, rows.ends[row]), slice(left, columns.ends[column])
            known[block] += 1
            if part is not None:
                found[block] = part.numpy()
    assert (known[:, rows.starts[first] :] == 1).all()
    np.testing.assert_allclose(found[:, rows.starts[first] :], whole[:, rows.starts[first] :], atol=1e-9)
