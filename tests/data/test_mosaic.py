from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SampleRequest, SegmentationDataset
from d2ls.data.mosaic import Box, Mosaic, is_mixed
from d2ls.errors import DataError
from tests.data.folders import SPEC, labels, synthetic_dataset, write_pair

SIZES = [(64, 64), (64, 64), (90, 70), (31, 47), (64, 128), (20, 20)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataset:
    return synthetic_dataset(tmp_path_factory.mktemp("synthetic"), SIZES, Augmentation(), suffix=".tif")


def whole(mosaic: Mosaic) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The mosaic's picture and labels, each pixel looked up in the files by itself."""
    image, mask = np.zeros((*mosaic.shape, 3), np.uint8), np.full(mosaic.shape, SPEC.ignore_index, np.uint8)
    for tile in mosaic.tiles:
        pixels, values = files.read_image(tile.pair.image), files.read_index(tile.pair.mask)
        for row in range(tile.box.top, tile.box.bottom):
            for column in range(tile.box.left, tile.box.right):
                image[row, column] = pixels[row - tile.down, column - tile.right]
                mask[row, column] = values[row - tile.down, column - tile.right]
    return image, mask


@settings(max_examples=60)
@given(
    index=st.integers(0, len(SIZES) - 1),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.5, 0.75, 1, 1.25, 1.5, 0.83, 1.1, 2, 0.3]),
    mosaic_chance=st.sampled_from([0.0, 1.0]),
    data=st.data(),
)
def test_equals_resizing_the_whole_and_cropping(
    dataset: SegmentationDataset, index: int, seed: int, scale: float, mosaic_chance: float, data: st.DataObject
) -> None:
    mosaic = Mosaic.random(dataset, index, Augmentation(mosaic=mosaic_chance), np.random.default_rng(seed))
    image, mask = whole(mosaic)
    factor = Fraction(scale).limit_denominator(64)
    resized = cv2.resize(image, None, fx=float(factor), fy=float(factor), interpolation=cv2.INTER_CUBIC)
    height, width = resized.shape[:2]
    assert (height, width) == tuple(round(side * factor) for side in mosaic.shape)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    crop = Box(top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width)))
    difference = np.abs(mosaic._scaled_image(crop, factor).astype(int) - crop.of(resized).astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.01
    rows, columns = (
        np.minimum(np.floor((np.arange(new) + 0.5) / float(factor) + 1e-9).astype(int), old - 1)
        for new, old in zip((height, width), mosaic.shape, strict=True)
    )
    assert np.array_equal(mosaic._scaled_mask(crop, factor), crop.of(mask[np.ix_(rows, columns)]))


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5])
def test_image_and_mask_stay_aligned(scale: float, tmp_path: Path) -> None:
    """A picture of the labels themselves, resized with them, shows them again away from the edges of regions."""
    mask = np.kron(np.random.default_rng(0).integers(0, 3, (8, 8), dtype=np.uint8), np.ones((16, 16), np.uint8))
    pair = write_pair(tmp_path / "i", tmp_path / "m", "x")
    files.write_png(pair.image, np.stack([mask * 100] * 3, -1))
    files.write_png(pair.mask, mask)
    dataset = SegmentationDataset(SPEC, lambda: [pair], augmentation=Augmentation())
    augmentation = Augmentation(crop=48, scales=(scale,))
    wrong = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image, cropped = Mosaic.random(dataset, 0, augmentation, rng).sample(augmentation, rng)
        wrong.append(np.mean(np.rint(image[..., 0] / 100) != cropped))
    assert np.mean(wrong) < 0.02


def test_without_scale_and_crop_the_file_itself(dataset: SegmentationDataset) -> None:
    rng = np.random.default_rng(0)
    for index, pair in enumerate(dataset.pairs):
        image, mask = Mosaic.random(dataset, index, Augmentation(), rng).sample(Augmentation(), rng)
        assert np.array_equal(image, files.read_image(pair.image))
        assert np.array_equal(mask, files.read_index(pair.mask))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), crop=st.sampled_from([16, 48, 100]), limit=st.sampled_from([0.4, 0.6, 0.9]))
def test_crops_have_their_size_and_are_mixed_or_the_last_of_ten(
    dataset: SegmentationDataset, seed: int, crop: int, limit: float
) -> None:
    augmentation = Augmentation(crop=crop, scales=(0.5, 1, 1.5), smart_crop=limit, mosaic=0.5)
    rng = np.random.default_rng(seed)
    seen = []
    mosaic = Mosaic.random(dataset, seed % len(SIZES), augmentation, rng)
    look = mosaic._scaled_mask
    mosaic._scaled_mask = lambda *asked: seen.append(look(*asked)) or seen[-1]  # type: ignore[method-assign]
    image, mask = mosaic.sample(augmentation, rng)
    assert image.shape == (crop, crop, 3)
    assert mask.shape == (crop, crop)
    kept = seen[-1]
    assert np.array_equal(mask[: kept.shape[0], : kept.shape[1]], kept)
    below, beside = mask[kept.shape[0] :], mask[:, kept.shape[1] :]
    assert (below == SPEC.ignore_index).all()
    assert (beside == SPEC.ignore_index).all()
    assert not image[kept.shape[0] :].any()
    assert not image[:, kept.shape[1] :].any()
    mixed = [naively_mixed(tried, limit) for tried in seen]
    assert not any(mixed[:-1])
    assert mixed[-1] or len(seen) == 10


def naively_mixed(mask: NDArray[np.uint8], limit: float) -> bool:
    values, counts = np.unique(mask[mask != SPEC.ignore_index], return_counts=True)
    return len(values) > 1 and counts.max() / counts.sum() < limit


@given(seed=st.integers(0, 1000), limit=st.sampled_from([0.34, 0.5, 0.75, 1.0]))
def test_mixed_is_what_it_says(seed: int, limit: float) -> None:
    mask = np.random.default_rng(seed).choice([0, 1, 2, SPEC.ignore_index], (5, 8), p=[0.5, 0.1, 0.1, 0.3])
    assert is_mixed(mask.astype(np.uint8), SPEC.ignore_index, limit) == naively_mixed(mask, limit)


def test_a_mask_of_ignore_alone_is_not_mixed() -> None:
    assert not is_mixed(np.full((4, 4), SPEC.ignore_index, np.uint8), SPEC.ignore_index, 1.0)


def test_mosaics_are_sampled_as_the_augmentation_says(dataset: SegmentationDataset) -> None:
    rng = np.random.default_rng(0)
    samples = [Mosaic.random(dataset, 0, Augmentation(mosaic=0.25), rng) for _ in range(2000)]
    mosaics = [mosaic for mosaic in samples if len(mosaic.tiles) > 1]
    assert abs(len(mosaics) - 500) < 4 * 19.4
    centres = np.array([(mosaic.tiles[3].box.top, mosaic.tiles[3].box.left) for mosaic in mosaics])
    assert centres.min() == 16  # a quarter of 64
    assert centres.max() == 48
    assert np.abs(centres.mean(0) - 32).max() < 4 * 9.5 / len(mosaics) ** 0.5
    assert np.abs(centres.std(0) - 9.52).max() < 1.0  # of a uniform distribution on 16 ... 48
    assert all(mosaic.shape == (64, 64) and mosaic.tiles[0].pair == dataset.pairs[0] for mosaic in mosaics)
    partners = [tile.pair.name for mosaic in mosaics for tile in mosaic.tiles[1:]]
    shares = np.array([partners.count(pair.name) for pair in dataset.pairs]) / len(partners)
    assert np.abs(shares - 1 / len(SIZES)).max() < 0.05


def test_quadrants_take_random_crops(dataset: SegmentationDataset) -> None:
    rng = np.random.default_rng(1)
    samples = [Mosaic.random(dataset, 4, Augmentation(mosaic=1), rng) for _ in range(400)]  # 64 x 128 px
    places = np.array([(-mosaic.tiles[0].down, -mosaic.tiles[0].right) for mosaic in samples])
    room = np.array([np.subtract((64, 128), mosaic.tiles[0].box.shape) for mosaic in samples])
    assert ((places >= 0) & (places <= room)).all()
    assert np.abs((places / np.maximum(room, 1)).mean(0) - 0.5).max() < 0.08
    for mosaic in samples:
        covered = np.zeros(mosaic.shape, int)
        for tile in mosaic.tiles:
            tile.box.of(covered)[...] += 1
            assert tile.box.moved(-tile.down, -tile.right).common(Box(0, 0, *tile.size)).shape == tile.box.shape
        assert covered.max() == 1


def test_crops_lie_everywhere_alike(dataset: SegmentationDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    mosaic = Mosaic.random(dataset, 4, Augmentation(), np.random.default_rng(0))
    monkeypatch.setattr(mosaic, "_scaled_mask", lambda crop, scale: np.zeros(crop.shape, np.uint8))
    rng = np.random.default_rng(0)
    crops = [mosaic._choose(Augmentation(crop=32), (64, 128), Fraction(1), rng)[0] for _ in range(3000)]
    places = np.array([(crop.top, crop.left) for crop in crops])
    assert (places.min(0) == 0).all()
    assert (places.max(0) == (32, 96)).all()
    assert np.abs(places.mean(0) - (16, 48)).max() < 2


def test_only_what_is_kept_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = synthetic_dataset(tmp_path, [(256, 256)] * 4, Augmentation(mosaic=1.0, crop=64))
    asked: list[tuple[int, ...]] = []
    read = files.read_window
    monkeypatch.setattr(files, "read_window", lambda path, *window: asked.append(window) or read(path, *window))
    pixels = 0
    for seed in range(50):
        dataset[SampleRequest(0, seed)]
        pixels += sum(height * width for _, _, height, width in asked)
        asked.clear()
    assert pixels == 50 * 64 * 64


def test_training_needs_masks_of_the_images_size(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "i", tmp_path / "m", "x")
    files.write_png(pair.mask, labels(64, 65, 0))
    with pytest.raises(DataError, match=r"x.png: 65 x 64 pixels, but its image x.png has 64 x 64"):
        SegmentationDataset(SPEC, lambda: [pair], augmentation=Augmentation(crop=32))[0]
    bare = type(pair)(pair.image, None, "x")
    with pytest.raises(DataError, match=r"no mask[.] Training needs one"):
        SegmentationDataset(SPEC, lambda: [bare], augmentation=Augmentation(crop=32))[0]


def test_the_smallest_images(tmp_path: Path) -> None:
    dataset = synthetic_dataset(
        tmp_path, [(1, 1), (1, 3), (2, 1)], Augmentation(crop=8, scales=(0.5, 1.5), smart_crop=0.5, mosaic=0.5)
    )
    for seed in range(40):
        assert dataset[SampleRequest(seed % 3, seed)]["image"].shape == (3, 8, 8)
