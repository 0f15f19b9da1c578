"""Scores of several runs on the same images: mean and deviation over seeds, paired bootstrap over images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from d2ls.inference.scores import MEANS
from d2ls.metrics import score_counts

RESAMPLES, CONFIDENCE, SEED = 2000, 0.95, 0
Counts = NDArray[np.int64]
"""Pixel counts of a variant's runs, (seeds, images, K, K): rows are true classes, columns predicted ones."""


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; the deviation of one seed is NaN."""

    mean: float
    deviation: float


class Difference(NamedTuple):
    """A variant's mean score less the first variant's, over the images as they were sampled again and again."""

    value: float  # on all images
    low: float  # lower end of the 95 % interval (percentiles)
    high: float  # upper end
    better: float  # share of the samples in which the variant is better; ties count half


def spreads(counts: Counts, scored: Sequence[int]) -> dict[str, Any]:
    """Mean and deviation over seeds of "mIoU", "F1", "OA" (a Spread each) and of each class's "IoU" (K Spreads)."""
    found = score_counts(torch.from_numpy(counts.sum(axis=1)), scored)
    result: dict[str, Any] = {name: _spread(found[key].numpy()) for name, key in MEANS.items()}
    result["IoU"] = [_spread(column) for column in found["IoU"].numpy().T]
    return result


def mean_iou(result: Mapping[str, Any]) -> float:
    """mIoU, 0..1, of one run's result."""
    return float(spreads(np.array([result["counts"]]), result["scored"])["mIoU"].mean)


def differences(variants: Mapping[str, Counts], scored: Sequence[int]) -> dict[str, Difference]:
    """Every variant against the first by a paired bootstrap: the same images are drawn for both.

    The score of a sample is the mean over seeds of the score of the pixels of its images together. The counts are of
    the same images; `scored` are the classes in the mean IoU.
    """
    names = list(variants)
    images = variants[names[0]].shape[1]

    def statistic(drawn: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        """Mean score of each variant, (variants, ...), on images drawn by index, (..., images)."""
        drawn = np.moveaxis(np.asarray(drawn), axis, -1)
        times = (drawn[..., None] == np.arange(images)).sum(axis=-2)  # how often each image was drawn
        sums = (np.einsum("...i,sikl->...skl", times, counts) for counts in variants.values())
        scores = (score_counts(torch.from_numpy(of_seeds), scored)[MEANS["mIoU"]] for of_seeds in sums)
        return np.stack([of_seeds.numpy().mean(axis=-1) for of_seeds in scores])

    whole = statistic(np.arange(images))
    if images < 2:
        return {name: Difference(gain, *[np.nan] * 3) for name, gain in zip(names, whole - whole[0], strict=True)}
    sampled = stats.bootstrap(
        (np.arange(images),), statistic, n_resamples=RESAMPLES, batch=100, method="percentile", vectorized=True,
        confidence_level=CONFIDENCE, random_state=np.random.default_rng(SEED),
    ).bootstrap_distribution  # fmt: skip
    gained = sampled - sampled[0]  # (variants, samples)
    low, high = np.nanquantile(gained, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    better = np.mean((gained > 0) + 0.5 * (gained == 0), axis=1)
    columns = zip(names, whole - whole[0], low, high, better, strict=True)
    return {name: Difference(*map(float, figures)) for name, *figures in columns}


def _spread(values: NDArray[np.float64]) -> Spread:
    return Spread(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan"))
