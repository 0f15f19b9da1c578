"""Large rasters with labels as a data set, without code and without cutting: the classes stand in a table.

Labels are rasters or polygons, see `d2ls.data.overlay`. Splits are areas (polygons with a column `split` of train, val
and test), or blocks of a grid of which a share validates.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2ls.data.augment import Augmentation
from d2ls.data.bands import band_facts, read_pixels
from d2ls.data.dataset import Mask, Pixels, SegmentationDataset
from d2ls.data.decode import Window
from d2ls.data.overlay import POLYGONS, Georeference, LabelRasters, Overlay, Polygons
from d2ls.data.pairs import Pair
from d2ls.data.regions import Blocks, Grid, Region, choose_blocks
from d2ls.data.sets.folder import CLASSES, SPLITS, OwnSplits, read_classes, spec_of
from d2ls.data.spec import IGNORE, DatasetSpec
from d2ls.errors import ConfigError, DataError

SUFFIXES = (".tif", ".tiff")
_OF_LABELS = ("name", "classes", "colours", "ignore_index", "ignore_colours", "scored", "also_read", "values")


class RasterSpec(DatasetSpec):
    """Description of rasters, whose nodata values, masks and alpha bands are minded in 8-bit RGB, too."""

    @property
    def is_rgb8(self) -> bool:
        """False: pixels are read as bands of any kind."""
        return False


class RasterDataset(SegmentationDataset):
    """Regions of rasters; a training sample is cut out of a region and its surroundings of the same split.

    The labels are laid over the rasters, as are the areas with the numbers of the splits; pixels of another number have
    no data in it. Without areas the regions' windows alone decide. Other arguments are those of `SegmentationDataset`.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        listing: Callable[[], list[Region]],
        labels: Overlay,
        *,
        areas: Overlay | None = None,
        number: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(spec, lambda: [*listing()], augmentation=augmentation)
        self._labels, self._areas, self._number = labels, areas, number

    @cached_property
    def crop_source(self) -> SegmentationDataset:
        """The same data set with regions as wide as crops may reach."""
        wide = [replace(region, window=region.reach) for region in map(_region, self.pairs)]
        return RasterDataset(self.spec, wide.copy, self._labels, areas=self._areas, number=self._number)

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
        if self._areas is not None:
            values[self._areas.read(pair.image, window) != self._number] = nothing
        return values


def _region(pair: Pair) -> Region:
    assert isinstance(pair, Region)
    return pair


class LabelledRasters(OwnSplits):
    """The splits of labelled rasters.

    Args:
        data: a GeoTIFF, or a folder of them.
        labels: a label raster of one band, a folder of label rasters with the stems of the images, or polygons.
        table: table of classes; by default `classes.csv` beside the labels. Its values are those of the label rasters;
            polygons name a class, or its value.
        class_column: column of the polygons.
        background: class of pixels in no polygon; None ignores them.
        splits: polygons with the column `split`; None: blocks.
        val_share: share of the blocks that validate.
        block: side of the blocks, in pixels. An epoch has one crop for each block of the training split.
        gap: pixels that a validation block keeps from its edges, and so from all training blocks.
        split_seed: chooses the blocks.
        warp: whether labels and splits in another CRS, or label rasters of other pixels, are warped.
        image: fields of the DatasetSpec for the bands, such as the lines that tools/band_statistics.py prints; what is
            left out stands in the first raster's header.

    Raises:
        ConfigError: a wrong value, no table of classes, or one that cannot be read.
        DataError: no rasters, or the first one cannot be read.
    """

    def __init__(
        self,
        data: Path | str,
        labels: Path | str,
        *,
        table: Path | str | None = None,
        class_column: str = "class",
        background: str | None = None,
        splits: Path | str | None = None,
        val_share: float = 0.2,
        block: int = 512,
        gap: int = 16,
        split_seed: int = 0,
        warp: bool = False,
        image: Mapping[str, Any] | None = None,
    ) -> None:
        self._labels_path = _existing(Path(labels), "labels", "a GeoTIFF, a folder of them, or polygons")
        self.images = _rasters(_existing(Path(data), "data", "a GeoTIFF or a folder of them"), self._labels_path)
        folder = self._labels_path if self._labels_path.is_dir() else self._labels_path.parent
        table = folder / CLASSES if table is None else Path(table)
        of_labels, _ = spec_of(read_classes(table), name=Path(data).resolve().stem)
        facts = {name: getattr(of_labels, name) for name in _OF_LABELS}
        self.spec = RasterSpec(**facts, **{**band_facts(self.images[0]), **(image or {})})
        self._val_share, self._block, self._gap, self._seed = val_share, block, gap, split_seed
        self._labels = self._overlay(class_column, background, warp)
        self._areas = None if splits is None else Polygons(
            _existing(Path(splits), "splits", "polygons"), "split", {name: at for at, name in enumerate(SPLITS, 1)},
            background=0, is_ranked=True, warp=warp,
        )  # fmt: skip

    def regions(self, split: str) -> list[Region]:
        """The regions of a split, raster by raster, row by row (raises DataError: nothing fits, or it is empty)."""
        gap = self._gap if self._areas is None and split != "train" else 0
        found = []
        for (image, grid, _), members in zip(self._grids, self._members(split), strict=True):
            mask = self._labels.file(image) if isinstance(self._labels, LabelRasters) else self._labels_path
            for window, reach in grid.windows(members, gap):
                name = f"{image.stem}_{window[0]:06}_{window[1]:06}"
                found.append(Region(image, mask, name, window=window, reach=reach))
        if found:
            return found
        if split == "test":
            return self.regions("val")
        raise DataError(f"{self.spec.name}: no {split} areas with labels. The splits need polygons of train and val.")

    @cached_property
    def _grids(self) -> list[tuple[Path, Grid, Blocks]]:
        """Each raster, its grid, and the blocks that have labels."""
        for overlay in (self._labels, self._areas):
            if isinstance(overlay, Polygons):
                overlay.check()
        found = []
        for image in self.images:
            place = Georeference.of(image)
            grid = Grid.of(place.height, place.width, self._block)
            found.append((image, grid, self._labels.presence(image, grid)))
        return found

    def _members(self, split: str) -> list[Blocks]:
        """The blocks of a split, for each raster."""
        if self._areas is not None:
            number = SPLITS.index(split) + 1
            return [present & self._areas.presence(image, grid, number) for image, grid, present in self._grids]
        labelled = [present for _, _, present in self._grids]
        everywhere = np.concatenate([present.ravel() for present in labelled])
        labelled_blocks = np.flatnonzero(everywhere)
        chosen = choose_blocks(len(labelled_blocks), self._val_share, self._seed)
        everywhere[labelled_blocks] = chosen == (split != "train")
        parts = np.split(everywhere, np.cumsum([present.size for present in labelled])[:-1])
        return [part.reshape(present.shape) for part, present in zip(parts, labelled, strict=True)]

    def dataset(self, split: str, augmentation: Augmentation | None = None) -> RasterDataset:
        """The regions of a split; the test regions are those of validation where there are no others."""
        listing, number = partial(self.regions, split), SPLITS.index(split) + 1
        return RasterDataset(
            self.spec, listing, self._labels, areas=self._areas, number=number, augmentation=augmentation
        )

    def _overlay(self, column: str, background: str | None, warp: bool) -> LabelRasters | Polygons:
        if self._labels_path.suffix.lower() not in POLYGONS:
            return LabelRasters(self._labels_path, self.spec, warp)
        index = {name: at for at, name in enumerate(self.spec.classes)} | {IGNORE: self.spec.ignore_index}
        if background is not None and background not in index:
            raise ConfigError(f"background is {background!r}; expected None or one of {', '.join(index)}.")
        values = index | {str(value): index[name] for value, name in self.spec.values.items()}
        fill = self.spec.ignore_index if background is None else index[background]
        return Polygons(self._labels_path, column, values, fill, is_sparse=background is None, warp=warp)


def _existing(path: Path, setting: str, expected: str) -> Path:
    if not path.exists():
        raise ConfigError(f"{setting}={str(path)!r}: no such file or folder; expected {expected}.")
    return path


def _rasters(data: Path, labels: Path) -> list[Path]:
    """The rasters of a folder, or the one given; labels beside them are none."""
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    found = [path for path in files if path.suffix.lower() in SUFFIXES and path != labels]
    if not found:
        raise DataError(f"{data}: no rasters; expected {' or '.join(SUFFIXES)}.")
    return found
