from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from d2ls.data.augment import Augmentation, normalise, random_colours, random_rotate_flip
from d2ls.data.spec import IMAGENET_MEAN, IMAGENET_STD
from d2ls.errors import ConfigError
from tests.data.folders import labels, picture


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


def test_scales_are_drawn_evenly_and_as_small_fractions() -> None:
    augmentation, rng = Augmentation(crop=8, scales=(0.5, 0.75, 1, 1.3)), np.random.default_rng(0)
    counts = Counter(augmentation.random_scale(rng) for _ in range(4000))
    assert set(counts) == {Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(13, 10)}
    assert all(abs(count - 1000) < 4 * 27.4 for count in counts.values())  # four standard deviations
    assert Augmentation().random_scale(rng) == 1


def test_turns_and_flips_reach_all_eight_positions_alike() -> None:
    image, mask = picture(6, 6, 0), np.arange(36, dtype=np.uint8).reshape(6, 6)
    image[..., 0] = mask
    augmentation, rng = Augmentation(rot90=0.5, flip=0.5), np.random.default_rng(0)
    seen = Counter()
    for _ in range(2000):
        turned, turned_mask = random_rotate_flip(image, mask, augmentation, rng)
        assert np.array_equal(turned[..., 0], turned_mask)
        seen[turned_mask.tobytes()] += 1
    dihedral = {
        np.ascontiguousarray(view).tobytes() for k in range(4) for view in (np.rot90(mask, k), np.rot90(mask, k).T)
    }
    assert set(seen) == dihedral
    upright = sum(seen[view.tobytes()] for view in (mask, mask[::-1], mask[:, ::-1], mask[::-1, ::-1]))
    assert abs(upright / 2000 - 2 / 3) < 0.05  # half are not turned, a third of the others by 180 degrees
    assert abs(seen[mask.tobytes()] / upright - 1 / 4) < 0.05


def test_nothing_changes_without_probabilities() -> None:
    image, mask = picture(6, 8, 0), labels(6, 8, 0)
    turned = random_rotate_flip(image, mask, Augmentation(), np.random.default_rng(0))
    assert np.array_equal(turned[0], image)
    assert np.array_equal(turned[1], mask)
    assert random_colours(image, Augmentation(), np.random.default_rng(0)) is image


def test_only_half_turns_where_the_image_is_not_square() -> None:
    mask, rng = labels(6, 8, 0), np.random.default_rng(0)
    for _ in range(20):
        image, turned = random_rotate_flip(picture(6, 8, 0), mask, Augmentation(rot90=1), rng)
        assert image.shape[:2] == turned.shape == (6, 8)
        assert np.array_equal(turned, mask[::-1, ::-1])


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
