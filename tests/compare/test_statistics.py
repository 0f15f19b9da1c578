"""Statistics of comparisons against numpy and scipy on the same counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from d2ls.compare.statistics import RESAMPLES, SEED, differences, spreads

CLASSES = 4


def some_counts(seed: int, seeds: int = 3, images: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 500, (seeds, images, CLASSES, CLASSES))


def iou(confusion: np.ndarray) -> np.ndarray:
    right = np.diag(confusion)
    return right / (confusion.sum(0) + confusion.sum(1) - right)


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_mean_and_deviation_are_numpys(seed: int, seeds: int) -> None:
    counts = some_counts(seed, seeds)
    found = spreads(counts, range(CLASSES))
    each = np.array([iou(one.sum(0)) for one in counts])
    assert found["mIoU"].mean == pytest.approx(each.mean(1).mean())
    np.testing.assert_allclose([value.mean for value in found["IoU"]], each.mean(0))
    if seeds == 1:
        assert math.isnan(found["mIoU"].deviation)
    else:
        assert found["mIoU"].deviation == pytest.approx(each.mean(1).std(ddof=1))


def test_the_interval_is_scipys() -> None:
    one, other = some_counts(1), some_counts(2)
    other[:, :, range(CLASSES), range(CLASSES)] += 40

    def gain(images: np.ndarray) -> float:
        scores = [np.mean([iou(run[images].sum(0)).mean() for run in counts]) for counts in (other, one)]
        return float(scores[0] - scores[1])

    expected = stats.bootstrap(
        (np.arange(one.shape[1]),), gain, n_resamples=RESAMPLES, vectorized=False, method="percentile",
        random_state=np.random.default_rng(SEED),
    )  # fmt: skip
    found = differences({"one": one, "other": other}, range(CLASSES))["other"]
    assert found.value == pytest.approx(gain(np.arange(one.shape[1])))
    assert found.low == pytest.approx(expected.confidence_interval.low)
    assert found.high == pytest.approx(expected.confidence_interval.high)
    assert found.better == pytest.approx(np.mean(expected.bootstrap_distribution > 0))


def test_the_first_variant_is_as_good_as_itself() -> None:
    found = differences({"one": some_counts(1), "same": some_counts(1)}, range(CLASSES))
    assert found["one"] == found["same"] == (0, 0, 0, 0.5)


def test_one_image_has_no_interval() -> None:
    found = differences({"one": some_counts(1, images=1), "other": some_counts(2, images=1)}, range(CLASSES))["other"]
    assert math.isnan(found.low)
    assert math.isnan(found.better)
