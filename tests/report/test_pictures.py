"""Pictures of the page, decoded again."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from d2ls.data.labels import index_to_colours
from d2ls.data.sets import dubai
from d2ls.report import pictures
from d2ls.report.pictures import Picture

RNG = np.random.default_rng(0)


def decoded(picture: Picture) -> np.ndarray:
    head, code = picture.uri.split(",")
    assert head in {"data:image/png;base64", "data:image/webp;base64"}
    image = Image.open(io.BytesIO(base64.b64decode(code, validate=True)))
    assert image.size == (picture.width, picture.height)
    return np.asarray(image.convert("RGB"))


def scene(height: int = 96, width: int = 128) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.stack([rows * 2, columns, rows + columns], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((6000, 6000), (640, 640)), ((30, 4000), (5, 640)), ((1, 700), (1, 640)), ((64, 48), (64, 48))],
)
def test_large_pictures_are_shrunk_and_small_ones_stay(size: tuple[int, int], expected: tuple[int, int]) -> None:
    labels = np.zeros(size, np.uint8)
    labels[:, : size[1] // 2] = 7
    small = pictures.shrink(labels, 640, labels=True)
    assert small.shape == expected
    assert set(np.unique(small)) == {0, 7}
    assert pictures.shrink(np.repeat(labels[..., None], 3, axis=2), 640).shape == (*expected, 3)


def test_a_class_map_has_the_classes_colours_and_a_hatch_where_nothing_counts() -> None:
    labels = RNG.integers(0, 6, (40, 60)).astype(np.uint8)
    labels[:20, :20] = dubai.SPEC.ignore_index
    found = decoded(pictures.class_map(labels, dubai.SPEC))
    counted = labels != dubai.SPEC.ignore_index
    np.testing.assert_array_equal(found[counted], index_to_colours(labels, dubai.SPEC)[counted])
    hatch = found[:20, :20].reshape(-1, 3)
    assert {tuple(colour) for colour in hatch.tolist()} == {(255, 255, 255), (95, 95, 95)}


def test_an_error_map_is_dark_where_wrong_pale_where_right_and_hatched_where_nothing_counts() -> None:
    truth = np.zeros((96, 128), np.uint8)
    prediction = truth.copy()
    prediction[:48, :64] = 3
    truth[:, 64:96] = 255
    found = decoded(pictures.error_map(scene(), prediction, truth, 255)).astype(int)
    wrong, right, unlabelled = found[4:44, 4:60], found[52:92, 4:60], found[4:92, 68:92]
    assert abs(wrong - (150, 10, 20)).max() < 40
    assert right.min() > 130
    assert np.ptp(right, axis=-1).max() < 30  # grey
    assert np.ptp(unlabelled.mean(axis=-1)) > 80


def test_a_heat_maps_colours_tell_their_order_by_lightness_alone() -> None:
    lightness = pictures.HEAT @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > -0.6).all()
    assert lightness[-1] - lightness[0] > 200
    values = np.linspace(0, 1, 128, dtype=np.float32)[None].repeat(96, axis=0)
    found = decoded(pictures.heat_map(np.full((96, 128, 3), 90, np.uint8), values, top=1.0)).mean(axis=(0, 2))
    assert found[100:].mean() > found[60:70].mean() + 30 > found[:20].mean() + 60
    assert decoded(pictures.heat_map(scene(), np.zeros((96, 128), np.float32), top=0.0)).shape == (96, 128, 3)


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.sampled_from([0, 1, 2, 255])))
def test_a_number_lies_on_a_pixel_of_its_class(labels: np.ndarray) -> None:
    height, width = labels.shape
    found = pictures.marks(labels, num_classes=3)
    for mark in found:
        assert 0 < mark.left < 100
        assert 0 < mark.top < 100
        assert labels[int(mark.top / 100 * height), int(mark.left / 100 * width)] == mark.label
    for index in range(3):
        assert sum(mark.label == index for mark in found) <= 2
    most = np.bincount(labels.ravel(), minlength=256)[:3]
    if most.max() == labels.size:  # one class everywhere is numbered once
        assert [mark.label for mark in found] == [int(most.argmax())]
