"""Overviews by mode: as counted one by one, as GDAL makes them, and the same whatever rows a map comes in."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.shutil import copy as copy_raster
from rio_cogeo import cog_validate

from d2ls.data.sets import vaihingen
from d2ls.inference import overviews
from d2ls.inference.maps import MapFiles
from d2ls.inference.overviews import halve, shapes
from d2ls.inference.raster import NODATA, Rows


def classes(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pixels of six classes and of nodata, in coherent spots."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 7, (height // 3 + 1, width // 3 + 1)), np.ones((3, 3), int))[:height, :width]
    pixels = np.where(rng.random((height, width)) < 0.3, rng.integers(0, 7, (height, width)), coarse)
    return np.where(pixels == 6, NODATA, pixels).astype(np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.integers(1, 9))
def test_each_pixel_is_the_mode_of_four(height: int, width: int, seed: int, strip: int) -> None:
    pixels = classes(height, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overviews, "_STRIP", 2 * strip)
        found = halve(pixels, NODATA)
    assert found.shape == (-(-height // 2), -(-width // 2))
    for (row, column), value in np.ndenumerate(found):
        counted = Counter(pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist())
        counted.pop(NODATA, None)
        assert counted[int(value)] == max(counted.values()) if counted else value == NODATA


def test_gdal_makes_the_same(tmp_path: Path) -> None:
    pixels = classes(2048, 1536)
    profile = {"width": 1536, "height": 2048, "count": 1, "dtype": "uint8", "nodata": NODATA, "crs": "EPSG:32632"}
    place = Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", transform=place, **profile) as dataset:
        dataset.write(pixels, 1)
    copy_raster(tmp_path / "a.tif", tmp_path / "b.tif", driver="COG", overview_resampling="MODE", blocksize=512)
    for level, shape in enumerate(shapes(2048, 1536)[1:]):
        pixels = halve(pixels, NODATA)
        with rasterio.open(tmp_path / "b.tif", overview_level=level) as dataset:
            assert dataset.shape == shape
            np.testing.assert_array_equal(dataset.read(1), pixels)


@pytest.mark.parametrize("turned", [False, True])
def test_rows_that_come_one_after_the_other_give_the_overviews_of_the_whole(
    turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overviews, "SMALLEST", 20)
    pixels = classes(131, 173)
    raster = SimpleNamespace(
        path=tmp_path / "a.tif", height=131, width=173, turned=turned or None, is_georeferenced=True,
        crs=rasterio.CRS.from_epsg(32632), transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000),
    )  # fmt: skip
    along = pixels.T if turned else pixels
    cuts = [0, 1, 2, 3, 40, 41, 77, 128, len(along)]
    for first, last in pairwise(cuts):
        made = MapFiles(tmp_path, "map", raster, vaihingen.SPEC, {})  # type: ignore[arg-type]
        made.begin(resume=True)  # as in a run that was interrupted after each of them
        assert made.finished == first
        made.write(Rows(first, along[first:last], None, None))
    made.build(())
    assert cog_validate(made.ready / "map.tif", strict=True)[0]
    with rasterio.open(made.ready / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), pixels)
        assert dataset.overviews(1) == [2, 4, 8, 16]
    for level in range(4):
        pixels = halve(pixels, NODATA)
        with rasterio.open(made.ready / "map.tif", overview_level=level) as dataset:
            np.testing.assert_array_equal(dataset.read(1), pixels)
