from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from d2ls.data import io as files
from d2ls.data import labels
from d2ls.data.labels import (
    check_index,
    colours_to_index,
    count_values,
    index_to_colours,
    read_index_mask,
    values_to_index,
)
from d2ls.data.sets import dubai, isprs, potsdam, uavid
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from tests.data.test_spec import SPECS

BY_NAME = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def one_by_one(rgb: NDArray[np.uint8], spec: DatasetSpec) -> NDArray[np.int64]:
    """Index by comparing with each colour; -1 where none fits."""
    index = np.full(rgb.shape[:2], -1)
    meanings = [*zip(spec.colours, range(spec.num_classes), strict=True), *spec.also_read.items()]
    for colour, value in [*meanings, *((colour, spec.ignore_index) for colour in spec.ignore_colours)]:
        index[(rgb == colour).all(-1)] = value
    return index


@BY_NAME
@given(seed=st.integers(0, 1000), height=st.integers(1, 40), width=st.integers(1, 40))
def test_index_to_colours_and_back(spec: DatasetSpec, seed: int, height: int, width: int) -> None:
    values = [*range(spec.num_classes), spec.ignore_index]
    if spec.name == "uavid":  # its Clutter is black, and so is ignore when written
        values.pop()
    index = np.random.default_rng(seed).choice(values, (height, width)).astype(np.uint8)
    for legend in ("official", "reference"):
        assert np.array_equal(colours_to_index(index_to_colours(index, spec, legend), spec, path="x"), index)


@BY_NAME
@given(seed=st.integers(0, 1000))
def test_lookup_equals_comparing_class_by_class(spec: DatasetSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = np.array([*spec.colours, *spec.also_read, *spec.ignore_colours], np.uint8)
    rgb = known[rng.integers(len(known), size=(9, 13))]
    near = rng.random((9, 13)) < 0.2
    rgb[near] ^= rng.integers(0, 2, (int(near.sum()), 3), dtype=np.uint8)  # off by one
    expected = one_by_one(rgb, spec)
    expected[expected < 0] = spec.ignore_index
    assert np.array_equal(colours_to_index(rgb, spec, path="x", unknown="ignore"), expected)


def test_blocks_of_rows_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.array(potsdam.SPEC.colours, np.uint8)[np.random.default_rng(0).integers(6, size=(31, 7))]
    monkeypatch.setattr(labels, "_BLOCK", 20)
    assert np.array_equal(colours_to_index(rgb, potsdam.SPEC, path="x"), one_by_one(rgb, potsdam.SPEC))


def test_unknown_colours_are_named_with_their_counts() -> None:
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[0, :4], rgb[1, :3] = (252, 255, 0), (1, 2, 3)
    with pytest.raises(DataError) as error:
        colours_to_index(rgb, potsdam.SPEC, path="tile.tif")
    for words in ("tile.tif: 2 colours", "(252, 255, 0) (4 pixels), (1, 2, 3) (3 pixels)", "7 pixels in all", "Car"):
        assert words in str(error.value)


def test_many_unknown_colours_are_cut_short() -> None:
    rgb = np.stack([np.arange(1, 11, dtype=np.uint8)] * 3, -1)[None]
    with pytest.raises(DataError, match=r"10 colours that.*and 5 more"):
        colours_to_index(rgb, potsdam.SPEC, path="x")


def test_cars_of_both_legends() -> None:
    rgb = np.array([[(255, 255, 0), (255, 204, 0), (0, 0, 0)]], np.uint8)
    assert colours_to_index(rgb, potsdam.SPEC, path="x").tolist() == [[4, 4, 6]]
    index = np.array([[4, 6]], np.uint8)
    assert index_to_colours(index, potsdam.SPEC).tolist() == [[[255, 255, 0], [0, 0, 0]]]
    assert index_to_colours(index, potsdam.SPEC, "reference").tolist() == [[[255, 204, 0], [0, 0, 0]]]


def test_uavid_reads_black_as_clutter_and_white_as_ignore() -> None:
    rgb = np.array([[(0, 0, 0), (255, 255, 255)]], np.uint8)
    assert colours_to_index(rgb, uavid.SPEC, path="x").tolist() == [[7, 255]]


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (30, 20), (4_100, 4_099)])
def test_pixels_are_counted_exactly(shape: tuple[int, int]) -> None:
    """More than 2^24 of one value, too, beyond which float32 has no odd numbers."""
    mask = np.zeros(shape, np.uint8)
    mask[:1, :1] = 255
    assert count_values(mask).tolist() == np.bincount(mask.ravel(), minlength=256).tolist()


def test_values_outside_the_classes() -> None:
    index = np.full((4, 5), 6, np.uint8)
    check_index(index, potsdam.SPEC, "x")
    index[0, :2], index[1, 0] = 7, 200
    with pytest.raises(DataError, match=r"m.png: values 7 \(2 pixels\), 200 \(1 pixels\) are no class of potsdam"):
        check_index(index, potsdam.SPEC, "m.png")
    with pytest.raises(DataError, match="values 7"):
        index_to_colours(index, potsdam.SPEC)
    check_index(np.empty((0, 0), np.uint8), potsdam.SPEC, "x")


@given(value=st.integers(0, 255), spec=st.sampled_from(SPECS))
def test_exactly_classes_and_ignore_are_allowed(value: int, spec: DatasetSpec) -> None:
    index = np.zeros((3, 3), np.uint8)
    index[2, 1] = value
    if value < spec.num_classes or value == spec.ignore_index:
        check_index(index, spec, "x")
    else:
        with pytest.raises(DataError):
            check_index(index, spec, "x")


BUILDINGS = DatasetSpec(
    name="buildings",
    classes=("background", "building"),
    colours=((0, 0, 0), (255, 255, 255)),
    ignore_index=255,
    values={0: "background", 255: "building", 7: "ignore"},
)


def test_masks_of_0_and_255_are_read_by_their_values(tmp_path: Path) -> None:
    raw = np.array([[0, 255, 255], [7, 0, 255]], np.uint8)
    Image.fromarray(raw).save(tmp_path / "m.png")
    assert read_index_mask(tmp_path / "m.png", BUILDINGS).tolist() == [[0, 1, 1], [255, 0, 1]]


def test_labels_from_one_are_read_by_their_values() -> None:
    spec = replace(BUILDINGS, values={0: "ignore", 1: "background", 2: "building", 3: "building"})
    assert values_to_index(np.array([[0, 1, 2, 3]], np.uint8), spec, "x").tolist() == [[255, 0, 1, 1]]


def test_values_that_are_not_listed() -> None:
    raw = np.zeros((4, 5), np.uint8)
    raw[0, :2], raw[1, 0] = 1, 254
    with pytest.raises(DataError) as error:
        values_to_index(raw, BUILDINGS, "m.png")
    for words in ("m.png", "1 (2 pixels), 254 (1 pixels)", "15.00%", "0 background, 255 building, 7 ignore"):
        assert words in str(error.value)


@pytest.mark.parametrize("folder", ["potsdam", "vaihingen"])
def test_real_isprs_masks(shared_data: Path, folder: str) -> None:
    spec = isprs.spec(folder)
    for kind in ("train_masks", "test_masks_eroded"):
        (path,) = (shared_data / folder / kind).glob("*.tif")
        index = labels.read_colour_mask(path, spec)
        with Image.open(path) as picture:
            assert np.array_equal(index, one_by_one(np.asarray(picture.convert("RGB")), spec))
        assert (index == 6).any() == (kind == "test_masks_eroded")


def test_real_dubai_mask(shared_data: Path) -> None:
    path = min((shared_data / "dubai" / "masks" / "val").glob("*.png"))
    index = labels.read_colour_mask(path, dubai.SPEC)
    assert np.array_equal(index_to_colours(index, dubai.SPEC), files.read_colours(path))
