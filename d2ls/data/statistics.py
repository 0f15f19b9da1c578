"""Mean, standard deviation and percentiles of the bands of a data set, in one pass over its images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from d2ls.data.bands import is_picture
from d2ls.data.dataset import SegmentationDataset
from d2ls.errors import DataError

PERCENTILES = (2.0, 98.0)
_ROWS = 1024  # rows of a raster that are read at once
_SAMPLE = 1 << 21  # pixels of all images together that the percentiles are estimated from


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of all pixels with data, in the unit of the files."""

    images: int  # number of images
    pixels: int  # number of pixels with data
    mean: tuple[float, ...]  # of each band
    std: tuple[float, ...]  # standard deviation of each band
    low: tuple[float, ...]  # 2nd percentile of each band, estimated from a sample of the pixels
    high: tuple[float, ...]  # 98th percentile of each band, likewise


def band_statistics(dataset: SegmentationDataset, progress: Callable[[], object] = lambda: None) -> BandStatistics:
    """Read every image of a data set once, whose spec needs no mean and std yet (raises DataError: unreadable)."""
    bands, share = len(dataset.spec.bands), max(16, _SAMPLE // max(1, len(dataset)))
    count, mean, squares = 0, np.zeros(bands), np.zeros(bands)
    rng, sample = np.random.default_rng(0), []
    for pair in dataset.pairs:
        height, width = dataset.read_size(pair)
        rows = height if is_picture(pair.image, dataset.spec) else _ROWS
        for top in range(0, height, rows):
            window = (top, 0, min(rows, height - top), width)
            values = dataset.read_pixels(pair, window).reshape(-1, bands).astype(np.float64)
            values = values[~np.isnan(values).any(axis=1)]  # pixels with data, (n, bands)
            if not len(values):
                continue
            # Sums about each block's own mean, joined as Chan, Golub and LeVeque (1979) do, lose no digits.
            own, total = values.mean(axis=0), count + len(values)
            squares += ((values - own) ** 2).sum(axis=0) + (own - mean) ** 2 * count * len(values) / total
            mean += (own - mean) * len(values) / total
            count = total
            chosen = rng.integers(len(values), size=max(1, share * window[2] // height))
            sample.append(values[chosen].astype(np.float32))
        progress()
    if not count:
        raise DataError(f"data set {dataset.spec.name!r}: no pixel with data in {len(dataset)} images.")
    low, high = np.percentile(np.concatenate(sample), PERCENTILES, axis=0)
    std = np.sqrt(squares / count)
    return BandStatistics(len(dataset), count, *(tuple(map(float, each)) for each in (mean, std, low, high)))
