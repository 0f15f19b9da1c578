"""Data set over large rasters: regions are read by window, with the labels that an overlay has there."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2ls.data.augment import Augmentation
from d2ls.data.bands import read_pixels
from d2ls.data.dataset import Mask, Pixels, SegmentationDataset
from d2ls.data.overlay import Overlay
from d2ls.data.pairs import Pair
from d2ls.data.regions import Region, Window
from d2ls.data.spec import DatasetSpec


class RasterSpec(DatasetSpec):
    """Description of rasters, whose nodata values, masks and alpha bands are minded in 8-bit RGB, too."""

    @property
    def is_rgb8(self) -> bool:
        """False: pixels are read as bands of any kind."""
        return False


class Split(NamedTuple):
    """Areas of one split.

    Attributes:
        areas: numbers of the splits, drawn over the rasters.
        number: that of this split; other pixels have no data in it.
    """

    areas: Overlay
    number: int


class RasterDataset(SegmentationDataset):
    """Regions of rasters; a training sample is cut out of a region and its surroundings of the same split.

    Args:
        spec: classes and bands.
        listing: lists the regions; called at first use.
        labels: class indices and the ignore index, laid over the rasters.
        split: areas beyond which there are no data; None: the regions' windows alone decide.
        augmentation: random changes for training; None for evaluation.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        listing: Callable[[], list[Region]],
        labels: Overlay,
        *,
        split: Split | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(spec, lambda: [*listing()], augmentation=augmentation)
        self._labels, self._split = labels, split

    @cached_property
    def crop_source(self) -> SegmentationDataset:
        """The same data set with regions as wide as crops may reach."""
        wide = [replace(region, window=region.reach) for region in map(_region, self.pairs)]
        return RasterDataset(self.spec, wide.copy, self._labels, split=self._split)

    def read_size(self, pair: Pair) -> tuple[int, int]:
        """Height and width of a region."""
        return _region(pair).window[2:]

    def read_pixels(self, pair: Pair, window: Window | None = None) -> Pixels:
        """Pixels of a region, or of a window in it; NaN where there are no data, or those of another split."""
        top, left, height, width = _region(pair).window
        if window is not None:
            top, left, height, width = top + window[0], left + window[1], *window[2:]
        area = top, left, height, width
        pixels = read_pixels(pair.image, self.spec, area)
        return self._without_other_splits(pixels, pair, area, np.nan)

    def read_mask(self, pair: Pair) -> Mask:
        """Class indices of a region and the ignore index, also where another split has its area."""
        window = _region(pair).window
        mask = self._labels.read(pair.image, window)
        return self._without_other_splits(mask, pair, window, self.spec.ignore_index)

    def _without_other_splits(self, values: NDArray[Any], pair: Pair, window: Window, nothing: float) -> NDArray[Any]:
        """The values of a window with `nothing` where another split has its area."""
        if self._split is not None:
            values[self._split.areas.read(pair.image, window) != self._split.number] = nothing
        return values


def _region(pair: Pair) -> Region:
    assert isinstance(pair, Region)
    return pair
