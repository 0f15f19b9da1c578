"""Polygons of a map against connected components, whatever the blocks."""

from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import features
from rasterio.crs import CRS
from scipy import ndimage

from d2ls.inference.polygons import Polygon, trace, write_polygons
from d2ls.inference.raster import LEVELS, NODATA


def disc(side: int, radius: float) -> np.ndarray:
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    return (rows**2 + columns**2 < radius**2).astype(np.uint8)


def test_a_disc_over_four_blocks_is_one_polygon() -> None:
    classes = disc(80, 35)
    confidence = np.where(classes, 200, 100).astype(np.uint8)
    found = {polygon.value: polygon for polygon in trace(classes, confidence, block=20)}
    assert found.keys() == {0, 1}
    assert found[1].geometry.geom_type == "Polygon"
    assert found[1].pixels == classes.sum() == found[1].geometry.area
    assert found[1].confidence == pytest.approx(200 / LEVELS)
    assert len(found[0].geometry.interiors) == 1
    (whole,) = (shapely.geometry.shape(g) for g, value in features.shapes(classes) if value == 1)
    assert found[1].geometry.equals(whole)
    assert len(found[1].geometry.exterior.coords) == len(whole.exterior.coords)  # no corners where blocks meet


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=80)
def test_regions_are_the_connected_components(height: int, width: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, NODATA], size=(height // 2 + 1, width // 2 + 1)).astype(np.uint8)
    classes = np.kron(coarse, np.ones((2, 2), np.uint8))[:height, :width]
    confidence = rng.integers(0, LEVELS + 1, classes.shape, dtype=np.uint8)
    found = list(trace(classes, confidence, block=block))
    expected = []
    for value in (0, 1, 2):
        labels, number = ndimage.label(classes == value)
        for label in range(1, number + 1):
            inside = labels == label
            expected.append((value, int(inside.sum()), round(float(confidence[inside].mean()) / LEVELS, 9)))
    assert sorted((p.value, p.pixels, round(p.confidence, 9)) for p in found) == sorted(expected)
    assert all(p.geometry.is_valid and p.geometry.geom_type == "Polygon" for p in found)
    painted = np.full(classes.shape, NODATA, np.uint8)
    if found:
        painted = features.rasterize(((p.geometry, p.value) for p in found), classes.shape, fill=NODATA, dtype="uint8")
    np.testing.assert_array_equal(painted, classes)


def test_small_regions_are_left_out() -> None:
    classes = np.full((6, 6), NODATA, np.uint8)
    classes[0, :2], classes[3:, 3:] = 0, 1
    assert [p.pixels for p in trace(classes, classes, min_pixels=3)] == [9]


def test_a_geopackage_in_map_units(tmp_path: Path) -> None:
    square = shapely.box(2, 1, 4, 3)
    polygons = [Polygon(square, 1, 4, 0.75), Polygon(shapely.box(0, 0, 1, 1), 0, 1, 0.5)]
    transform, crs = Affine(2, 0, 500_000, 0, -2, 5_400_000), CRS.from_epsg(32632)
    assert write_polygons(tmp_path / "a.gpkg", polygons, ("x", "y"), transform, crs, square_metres=4) == 2
    meta, _, shapes, columns = pyogrio.raw.read(tmp_path / "a.gpkg")
    assert meta["crs"] == "EPSG:32632"
    assert meta["geometry_type"] == "Polygon"
    fields = dict(zip(meta["fields"], columns, strict=True))
    assert fields["class"].tolist() == ["y", "x"]
    assert fields["area_m2"].tolist() == [16, 4]
    assert fields["confidence"].tolist() == [0.75, 0.5]
    assert shapely.from_wkb(shapes[0]).equals(shapely.box(500_004, 5_399_994, 500_008, 5_399_998))
    assert [shapely.from_wkb(shape).area for shape in shapes] == [16, 4]


def test_no_polygons_are_an_empty_layer_and_outlines_get_simpler(tmp_path: Path) -> None:
    assert write_polygons(tmp_path / "none.gpkg", [], ("x",), Affine.identity(), None) == 0
    assert pyogrio.read_info(tmp_path / "none.gpkg")["features"] == 0
    classes = disc(60, 25)
    corners = {}
    for simplify in (0, 2):
        path = tmp_path / f"{simplify}.gpkg"
        write_polygons(path, trace(classes, classes), ("x", "y"), Affine.identity(), None, simplify=simplify)
        _, _, shapes, columns = pyogrio.raw.read(path)
        shape = shapely.from_wkb(shapes[columns[1].tolist().index(1)])
        assert shape.is_valid
        assert shape.area == pytest.approx(classes.sum(), rel=0.1)
        assert np.isnan(columns[3]).all()  # no metres without a coordinate system
        corners[simplify] = len(shape.exterior.coords)
    assert corners[2] < corners[0] / 3


def test_more_polygons_than_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2ls.inference.polygons._WRITTEN", 4)
    classes = (np.indices((5, 3)).sum(axis=0) % 2).astype(np.uint8)
    for number in (15, 8):
        path = tmp_path / f"{number}.gpkg"
        group = list(trace(classes, classes))[:number]
        assert write_polygons(path, group, ("x", "y"), Affine.identity(), None) == number
        assert pyogrio.read_info(path)["features"] == number
