import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from d2ls.data.augment import Augmentation, Transforms, normalise, normalise_batch, random_colours, random_rotate_flip
from d2ls.data.spec import DTYPES, IMAGENET_MEAN, IMAGENET_STD
from d2ls.errors import ConfigError, DataError
from tests.data.folders import SPEC, labels, picture

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A


def test_normalise_equals_the_definition() -> None:
    image = picture(17, 23, 0)
    for view in (image, image[::-1, ::-1], np.rot90(image)):
        values = normalise(view)
        expected = ((view / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).transpose(2, 0, 1)
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
        np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mosaic": 1.5}, "mosaic is 1.5"),
        ({"flip": -0.1}, "flip is -0.1"),
        ({"scales": (1,)}, "need a crop"),
        ({"smart_crop": 0.5}, "need a crop"),
        ({"crop": 0}, "crop is 0"),
        ({"crop": 8, "scales": (0.5, 0)}, "scales has 0"),
        ({"crop": 8, "smart_crop": 0.0}, "smart_crop is 0.0"),
        ({"tries": 0}, "tries is 0"),
    ],
)
def test_recipes_that_cannot_be_meant(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Augmentation(**options)


def test_scales_are_sampled_evenly_and_as_small_fractions() -> None:
    augmentation, rng = Augmentation(crop=8, scales=(0.5, 0.75, 1, 1.3)), np.random.default_rng(0)
    counts = Counter(augmentation.random_scale(rng) for _ in range(4000))
    assert set(counts) == {Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(13, 10)}
    assert all(abs(count - 1000) < 4 * 27.4 for count in counts.values())  # four standard deviations
    assert Augmentation().random_scale(rng) == 1


def test_rotations_and_flips_reach_all_eight_positions_alike() -> None:
    image, mask = picture(6, 6, 0), np.arange(36, dtype=np.uint8).reshape(6, 6)
    image[..., 0] = mask
    augmentation, rng = Augmentation(rot90=0.5, flip=0.5), np.random.default_rng(0)
    seen = Counter()
    for _ in range(2000):
        rotated, rotated_mask = random_rotate_flip(image, mask, augmentation, rng)
        assert np.array_equal(rotated[..., 0], rotated_mask)
        seen[rotated_mask.tobytes()] += 1
    dihedral = {
        np.ascontiguousarray(view).tobytes() for k in range(4) for view in (np.rot90(mask, k), np.rot90(mask, k).T)
    }
    assert set(seen) == dihedral
    upright = sum(seen[view.tobytes()] for view in (mask, mask[::-1], mask[:, ::-1], mask[::-1, ::-1]))
    assert abs(upright / 2000 - 2 / 3) < 0.05  # half are not rotated, a third of the others by 180 degrees
    assert abs(seen[mask.tobytes()] / upright - 1 / 4) < 0.05


def test_nothing_changes_without_probabilities() -> None:
    image, mask = picture(6, 8, 0), labels(6, 8, 0)
    rotated = random_rotate_flip(image, mask, Augmentation(), np.random.default_rng(0))
    assert np.array_equal(rotated[0], image)
    assert np.array_equal(rotated[1], mask)
    assert random_colours(image, Augmentation(), np.random.default_rng(0)) is image


def test_only_half_rotations_where_the_image_is_not_square() -> None:
    mask, rng = labels(6, 8, 0), np.random.default_rng(0)
    for _ in range(20):
        image, rotated = random_rotate_flip(picture(6, 8, 0), mask, Augmentation(rot90=1), rng)
        assert image.shape[:2] == rotated.shape == (6, 8)
        assert np.array_equal(rotated, mask[::-1, ::-1])


def test_colours_follow_the_generator_alone() -> None:
    image, augmentation = picture(32, 32, 0), Augmentation(brightness_contrast=0.25, sharpen=0.5)
    first = [random_colours(image, augmentation, np.random.default_rng(seed)) for seed in range(40)]
    again = [random_colours(image, augmentation, np.random.default_rng(seed)) for seed in reversed(range(40))]
    assert all(np.array_equal(*both) for both in zip(first, reversed(again), strict=True))
    unchanged = sum(np.array_equal(changed, image) for changed in first)
    assert 5 <= unchanged <= 26  # (1 - 1/4)(1 - 1/2) of 40 is 15
    assert all(changed.dtype == np.uint8 and changed.shape == image.shape for changed in first)


def test_brightness_and_contrast_stay_within_a_quarter() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    levels = [
        float(random_colours(image, Augmentation(brightness_contrast=1), np.random.default_rng(seed)).mean())
        for seed in range(100)
    ]
    assert 100 * 0.75 - 0.25 * 255 - 1 <= min(levels) < 70
    assert 140 < max(levels) <= 100 * 1.25 + 0.25 * 255 + 1


def transformed(pipeline: Any, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return Transforms(pipeline, SPEC)(image, mask, np.random.default_rng(seed), "x.png")


def test_a_pipeline_follows_the_generator_alone() -> None:
    pipeline = A.Compose([A.RandomBrightnessContrast(p=0.5), A.OneOf([A.GaussNoise(), A.Blur()]), A.Affine(rotate=45)])
    image, mask = picture(32, 32, 0), labels(32, 32, 0)
    first = [transformed(pipeline, image, mask, seed) for seed in range(20)]
    again = [transformed(pipeline, image, mask, seed) for seed in reversed(range(20))][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
    assert len({changed.tobytes() for changed, _ in first}) > 12


def test_transforms_of_a_pipeline_are_independent() -> None:
    """albumentations' own `set_random_seed` lets both flip together, or neither."""
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    mask = np.arange(4, dtype=np.uint8).reshape(2, 2)
    counts = Counter(transformed(pipeline, picture(2, 2, 0), mask, seed)[1].tobytes() for seed in range(1200))
    assert len(counts) == 4
    assert all(abs(count - 300) < 4 * 15 for count in counts.values())


def test_brightness_and_sharpening_are_independent() -> None:
    """Together, half of the images would stay as they are."""
    image, augmentation = picture(8, 8, 0), Augmentation(brightness_contrast=0.5, sharpen=0.5)
    unchanged = [
        np.array_equal(random_colours(image, augmentation, np.random.default_rng(seed)), image) for seed in range(400)
    ]
    assert abs(np.mean(unchanged) - 0.25) < 0.1


def test_pixels_that_a_transform_adds_are_ignored() -> None:
    image, mask = np.full((32, 32, 3), 9, np.uint8), np.ones((32, 32), np.uint8)
    moved, labelled = transformed(A.Compose([A.Affine(translate_px=(16, 16), p=1)]), image, mask)
    assert set(np.unique(labelled)) == {1, SPEC.ignore_index}
    assert np.array_equal(labelled == SPEC.ignore_index, (moved == 0).all(-1))


def test_the_pipeline_of_a_config_stays_as_it_is() -> None:
    pipeline = A.Compose([A.Affine(rotate=45)])
    transformed(pipeline, picture(8, 8, 0), labels(8, 8, 0))
    assert pipeline.transforms[0].fill_mask == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (A.Compose([A.HorizontalFlip(), A.OneOf([A.Normalize()])]), "Normalize"),
        (A.Compose([A.ToTensorV2()]), "ToTensorV2"),
        (lambda image, mask: image, "albumentations.Compose"),
        (A.HorizontalFlip(), "albumentations.Compose"),
    ],
)
def test_pipelines_that_cannot_be_meant(wrong: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Augmentation(augment=wrong)


class Halve(A.ImageOnlyTransform):
    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        return img / 2


class Narrow(A.ImageOnlyTransform):
    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        return img[:, 1:]


@pytest.mark.parametrize(
    ("culprit", "words"),
    [
        (Halve(p=1), r"Halve.*float64 \(8, 8, 3\).*expected an array of uint8"),
        (Narrow(p=1), r"Narrow.*uint8 \(8, 7, 3\).*\(8, 8, 3\)"),
        (A.ToGray(num_output_channels=1, p=1), r"ToGray.*uint8 \(8, 8(, 1)?\)"),
        (A.CenterCrop(16, 16, p=1), "CenterCrop.*16"),
    ],
)
def test_a_transform_that_breaks_the_sample_is_named(culprit: Any, words: str) -> None:
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), culprit, A.VerticalFlip(p=0.5)])
    with pytest.raises(DataError, match=rf"x.png: augment, {words}"):
        transformed(pipeline, picture(8, 8, 0), labels(8, 8, 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", [1, 4, 5, 13])
def test_geometry_works_on_all_bands_and_types(dtype: str, bands: int) -> None:
    names = tuple(f"b{n}" for n in range(bands))
    spec = replace(SPEC, bands=names, file_bands=(), mean=(), std=(), dtype=dtype, value_range=(0.0, 500.0))
    mask = np.arange(36, dtype=np.uint8).reshape(6, 6)
    image = np.stack([mask.astype(dtype) + band for band in range(bands)], -1)
    pipeline = Transforms(A.Compose([A.Transpose(p=0.5)]), spec)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rotated, rotated_mask = random_rotate_flip(image, mask, Augmentation(rot90=0.5, flip=0.5), rng)
        rotated, rotated_mask = pipeline(rotated, rotated_mask, rng, "x")
        assert rotated.dtype == image.dtype
        assert rotated.shape == image.shape
        for band in range(bands):
            np.testing.assert_allclose(rotated[..., band], rotated_mask + band, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_colours_of_red_green_and_blue_alone_are_changed(dtype: str) -> None:
    bands = ("nir", "blue", "green", "red")
    spec = replace(SPEC, bands=bands, file_bands=(), mean=(), std=(), dtype=dtype, value_range=(0.0, 200.0))
    image = np.random.default_rng(0).integers(50, 150, (8, 8, 4)).astype(dtype)
    changed = random_colours(image, Augmentation(brightness_contrast=1), np.random.default_rng(1), spec)
    assert changed.dtype == image.dtype
    assert np.array_equal(changed[..., 0], image[..., 0])
    assert (changed[..., 1:] != image[..., 1:]).any((0, 1)).all()
    infrared = replace(spec, bands=("nir", "blue", "green", "swir"))
    assert random_colours(image, Augmentation(brightness_contrast=1), np.random.default_rng(1), infrared) is image


def test_colours_need_the_range_of_the_values() -> None:
    spec = replace(SPEC, dtype="uint16", value_range=None, mean=(), std=())
    with pytest.raises(ConfigError, match=r"synthetic.*uint16.*value_range"):
        random_colours(np.zeros((4, 4, 3), np.uint16), Augmentation(sharpen=1), np.random.default_rng(0), spec)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bands_are_normalised_by_their_mean_and_deviation(dtype: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 4)).astype(dtype)
    spec = replace(
        SPEC,
        bands=("a", "b", "c", "d"),
        file_bands=(),
        dtype=dtype,
        mean=(1.0, 20.0, 300.0, 4.5),
        std=(1.0, 2.0, 30.0, 7.0),
    )
    expected = ((image - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    values = normalise(image, spec)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    raw = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None])
    batch = normalise_batch(raw if dtype != "float32" else torch.from_numpy(values)[None], spec)
    np.testing.assert_allclose(batch[0], values, rtol=1e-6, atol=1e-5)


def test_a_batch_that_is_normalised_stays() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert normalise_batch(images, SPEC) is images
