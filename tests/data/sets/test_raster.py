"""Rasters with label rasters and polygons as a data set: labels, splits, what is refused."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio import Affine, warp

from d2ls.cli.band_statistics import main as statistics_main
from d2ls.cli.common import run_main
from d2ls.cli.train import main as train_main
from d2ls.data.augment import Augmentation
from d2ls.data.check import check_headers, count_labels
from d2ls.data.dataset import SampleRequest
from d2ls.data.sets.raster import LabelledRasters, RasterDataset
from d2ls.data.statistics import band_statistics
from d2ls.errors import D2LSError, DataError
from tests.scenes import CLASSES, COLOURS, CRS, TABLE, TRANSFORM, Scene

ROOT = Path(__file__).parents[3]
SCENE = Scene(300, 420)
IMAGE = {"mean": (1000,) * 4, "std": (800,) * 4}
KINDS = ("labels.tif", "labels", "fields.gpkg", "fields.geojson")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with its labels in every form."""
    root = tmp_path_factory.mktemp("scene")
    (root / "labels").mkdir()
    SCENE.write(root / "scene.tif")
    SCENE.write_labels(root / "labels.tif")
    SCENE.write_labels(root / "labels/scene.tif")
    SCENE.write_polygons(root / "fields.gpkg")
    wgs = {"crs": "EPSG:4326", "column": "class"}
    copy_polygons(root / "fields.gpkg", root / "fields.geojson", **wgs)
    for folder in (root, root / "labels"):
        (folder / "classes.csv").write_text(TABLE)
    return root


def copy_polygons(source: Path, target: Path, crs: str = CRS, column: str = "class") -> None:
    _, _, shapes, (names,) = pyogrio.raw.read(source)
    if crs != CRS:
        moved = shapely.transform(shapely.from_wkb(shapes), lambda xy: np.column_stack(warp.transform(CRS, crs, *xy.T)))
        shapes = shapely.to_wkb(moved)
    pyogrio.raw.write(target, shapes, [names], [column], geometry_type="Polygon", crs=crs)


def rasters(root: Path, labels: str = "labels.tif", **options: Any) -> LabelledRasters:
    defaults = {"block": 80, "gap": 8, "image": IMAGE, "warp": labels.endswith("json")}
    return LabelledRasters(root / "scene.tif", root / labels, **{**defaults, **options})


@pytest.mark.parametrize("labels", KINDS)
def test_masks_are_the_drawn_fields(labels: str, drawn: Path) -> None:
    dataset = rasters(drawn, labels).val()
    assert dataset.spec.classes == CLASSES
    assert dataset.spec.bands == ("red", "green", "blue", "nir")
    assert dataset.spec.dtype == "uint16"
    assert len(dataset) == 4  # of 20 blocks
    names = [sample["name"] for sample in (dataset[index] for index in range(4))]
    assert names == sorted(set(names))
    for region, sample in zip(dataset.pairs, (dataset[index] for index in range(4)), strict=True):
        top, left, height, width = region.window
        expected = np.where(SCENE.has_data(0, 300), SCENE.truth(0, 300), 255)[top : top + height, left : left + width]
        found = sample["mask"].numpy()
        assert sample["image"].shape == (4, height, width)
        if labels.endswith("json"):  # degrees are rounded, on the edges of fields
            assert np.mean(found != expected) < 0.02
        else:
            np.testing.assert_array_equal(found, expected)
        assert (sample["image"].numpy()[:, expected == 255] == 0).all()  # the mean of the band


def test_pixels_and_labels_of_a_training_crop_belong_together(drawn: Path) -> None:
    plain = rasters(drawn).train(crop=64)
    for seed in range(10):
        sample = plain[SampleRequest(seed % len(plain), seed)]
        image = (sample["image"] * 800 + 1000).permute(1, 2, 0).numpy()
        nearest = np.abs(image[:, :, None] - COLOURS).sum(axis=-1).argmin(axis=-1)
        known = sample["mask"].numpy() != 255
        assert (nearest == sample["mask"].numpy())[known].all()
        again = plain[SampleRequest(seed % len(plain), seed)]
        assert (again["image"] == sample["image"]).all()


@pytest.mark.parametrize("by", ["blocks", "areas"])
def test_no_training_sample_holds_a_pixel_of_validation(by: str, drawn: Path, tmp_path: Path) -> None:
    """Validation pixels have a value of their own in every band, which must never show in training."""
    for name in ("labels.tif", "classes.csv"):
        shutil.copy(drawn / name, tmp_path)
    splits = None
    shutil.copy(drawn / "scene.tif", tmp_path)
    if by == "areas":
        splits = write_areas(tmp_path / "splits.gpkg")
    made = rasters(tmp_path, splits=splits, gap=0)
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        pixels, marked = file.read(), np.zeros((300, 420), bool)
        for region in made.val().pairs:
            top, left, height, width = region.window
            area = np.s_[top : top + height, left : left + width]
            inside = made.val().read_mask(region) != 255 if by == "areas" else np.ones((height, width), bool)
            marked[area] |= inside
        assert 0.05 < marked.mean() < 0.5
        pixels[:, marked & (pixels[0] > 0)] = 60_000
        file.write(pixels)
    augmentation = Augmentation(crop=64, mosaic=0.3, rot90=0.5, flip=0.5)
    train = made.train(augmentation)
    for seed in range(60):
        sample = train[SampleRequest(seed % len(train), seed)]
        assert sample["image"].max() < 10
    assert made.val()[0]["image"].max() > 50  # the mark would be seen


def write_areas(path: Path, split: tuple[str, ...] = ("train", "val", "val", "test"), column: str = "split") -> Path:
    """A slanted border between train and val that cuts blocks, a part of val in train, and a corner that tests."""
    x, y = TRANSFORM.c, TRANSFORM.f
    shapes = [
        shapely.Polygon([(x, y), (x + 100, y), (x + 160, y - 150), (x, y - 150)]),
        shapely.Polygon([(x + 100, y), (x + 210, y), (x + 210, y - 60), (x + 124, y - 60)]),
        shapely.box(x + 20, y - 60, x + 40, y - 40),
        shapely.box(x + 170, y - 110, x + 210, y - 70),
    ]
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), [np.array(split, object)], [column], geometry_type="Polygon", crs=CRS
    )
    return path


def test_areas_of_polygons(drawn: Path, tmp_path: Path) -> None:
    made = rasters(drawn, splits=write_areas(tmp_path / "splits.gpkg"))
    used = np.zeros((300, 420), int)
    for number, dataset in enumerate((made.train(), made.val(), made.test()), 1):
        for region in dataset.pairs:
            top, left, height, width = region.window
            used[top : top + height, left : left + width][dataset.read_mask(region) != 255] += 10**number
    assert set(np.unique(used)) == {0, 10, 100, 1000}  # no pixel in two splits, none twice
    assert used[200, 100] == 10
    assert used[100, 60] == 100  # val within train is val
    assert used[180, 400] == 1000
    statistics = band_statistics(made.train())
    assert statistics.pixels == ((used == 10) & SCENE.has_data(0, 300)).sum()


def test_checks_and_statistics_read_every_block_once(drawn: Path, tmp_path: Path) -> None:
    dataset = rasters(drawn, val_share=0.01).train()
    assert check_headers(dataset) == []
    held_out = rasters(drawn, val_share=0.01, gap=0).val()
    counts, others = count_labels(dataset), count_labels(held_out)
    assert counts.problems == []
    truth = np.bincount(SCENE.truth(0, 300).ravel(), minlength=4)
    np.testing.assert_array_equal((counts.pixels + others.pixels)[:4], truth)
    found = band_statistics(dataset)
    with rasterio.open(drawn / "scene.tif") as file:
        pixels = file.read()
    (region,) = held_out.pairs
    top, left, height, width = region.window
    pixels[:, top : top + height, left : left + width] = 0
    assert found.pixels == (pixels[0] > 0).sum()
    np.testing.assert_allclose(found.mean, pixels[:, pixels[0] > 0].mean(axis=1))


def test_eight_bit_colours_mind_nodata(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (3, 64, 64), np.uint8)
    pixels[:, :20] = 0
    facts = {"driver": "GTiff", "width": 64, "height": 64, "dtype": "uint8", "crs": CRS, "transform": TRANSFORM}
    with rasterio.open(tmp_path / "a.tif", "w", count=3, nodata=0, **facts) as file:
        file.write(pixels)
    with rasterio.open(tmp_path / "labels.tif", "w", count=1, nodata=9, **facts) as file:
        labels = np.ones((1, 64, 64), np.uint8)
        labels[0, 50:], labels[0, :, 50:] = 9, 2
        file.write(labels)
    (tmp_path / "classes.csv").write_text("value,name\n1,a\n2,b\n")
    made = LabelledRasters(tmp_path, tmp_path / "labels.tif", block=32, gap=0)
    assert made.images == [tmp_path / "a.tif"]
    assert made.spec.bands == ("red", "green", "blue")
    assert not made.spec.is_rgb8
    seen = np.full((64, 64), 7)
    for dataset in (made.train(crop=None), made.val()):
        for index, region in enumerate(dataset.pairs):
            top, left, height, width = region.window
            if dataset.augmentation is None:
                seen[top : top + height, left : left + width] = dataset[index]["mask"]
            else:
                whole = RasterDataset(made.spec, lambda dataset=dataset: dataset.pairs, dataset._labels)
                seen[top : top + height, left : left + width] = whole[index]["mask"]
    expected = np.where(labels[0] == 9, 255, labels[0] - 1)
    expected[:20] = 255
    np.testing.assert_array_equal(seen, expected)


Change = Callable[[Path], dict[str, Any] | None]


def georeference(name: str, **changes: Any) -> Change:
    """Change what a raster of the folder says of its place."""

    def change(root: Path) -> None:
        with rasterio.open(root / name) as file:
            profile, pixels = file.profile, file.read()
        with rasterio.open(root / name, "w", **{**profile, **changes}) as file:
            file.write(pixels)

    return change


def spoiled_values(root: Path) -> None:
    with rasterio.open(root / "labels.tif", "r+") as file:
        file.write(np.full((1, 300, 420), 77, np.uint8))


def other_column(root: Path) -> dict[str, Any]:
    copy_polygons(root / "fields.gpkg", root / "other.gpkg", column="kind")
    return {"labels": root / "other.gpkg"}


def two_layers(root: Path) -> dict[str, Any]:
    for name in ("a", "b"):
        shape = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)]))
        pyogrio.raw.write(
            root / "two.gpkg", shape, [np.array(["crop"], object)], ["class"], layer=name, geometry_type="Polygon",
            crs=CRS, append=name == "b",
        )  # fmt: skip
    return {"labels": root / "two.gpkg"}


def points(root: Path) -> dict[str, Any]:
    shape = shapely.to_wkb(np.array([shapely.Point(0, 0)]))
    names = np.array(["crop"], object)
    pyogrio.raw.write(root / "points.gpkg", shape, [names], ["class"], geometry_type="Point", crs=CRS)
    return {"labels": root / "points.gpkg"}


def fewer_classes(root: Path) -> dict[str, Any]:
    (root / "classes.csv").write_text(TABLE.replace("4,town\n", ""))
    return {"labels": root / "fields.gpkg"}


def truncated(root: Path) -> None:
    path = root / "labels.tif"
    path.write_bytes(path.read_bytes()[:-300])


def other_stem(root: Path) -> dict[str, Any]:
    (root / "labels/scene.tif").rename(root / "labels/other.tif")
    return {"labels": root / "labels"}


FAR = Affine(0.5, 0, 900_000, 0, -0.5, 5_600_000)
REFUSED: dict[str, tuple[Change, tuple[str, ...]]] = {
    "image without CRS": (georeference("scene.tif", crs=None), ("scene.tif", "CRS")),
    "labels without CRS": (georeference("labels.tif", crs=None), ("labels.tif", "CRS")),
    "labels in another CRS": (
        georeference("labels.tif", crs="EPSG:32632"),
        ("labels.tif", "EPSG:32632", "scene.tif", "EPSG:32633", "warp=True"),
    ),
    "labels of other pixels": (
        georeference("labels.tif", transform=Affine(1, 0, 400_000, 0, -1, 5_600_000)), ("labels.tif", "warp=True")
    ),
    "labels elsewhere": (georeference("labels.tif", transform=FAR), ("labels.tif", "900000", "scene.tif", "400000")),
    "polygons elsewhere": (
        lambda root: georeference("scene.tif", transform=FAR)(root) or {"labels": root / "fields.gpkg"},
        ("fields.gpkg", "scene.tif", "900000"),
    ),
    "polygons in another CRS": (
        lambda root: {"labels": root / "fields.geojson"}, ("fields.geojson", "EPSG:4326", "EPSG:32633", "warp=True")
    ),
    "values of no class": (spoiled_values, ("labels.tif", "77")),
    "no such column": (other_column, ("other.gpkg", "'class'", "kind")),
    "entries of no class": (fewer_classes, ("fields.gpkg", "'class'", "town", "water")),
    "several layers": (two_layers, ("two.gpkg", "2 layers")),
    "points": (points, ("points.gpkg", "Point")),
    "no polygons": (lambda root: (root / "x.gpkg").write_text("no") and {"labels": root / "x.gpkg"}, ("x.gpkg",)),
    "truncated labels": (truncated, ("labels.tif",)),
    "no label raster of this name": (other_stem, ("labels", "scene.tif")),
    "no table": (lambda root: (root / "classes.csv").unlink(), ("classes.csv", "value,name")),
    "no labels": (lambda root: {"labels": root / "gone.gpkg"}, ("labels=", "gone.gpkg")),
    "no data": (lambda root: {"data": root / "gone.tif"}, ("data=", "gone.tif")),
    "no rasters": (lambda root: {"data": root / "empty"} if (root / "empty").mkdir() is None else {}, ("empty",)),
    "unknown background": (lambda root: {"labels": root / "fields.gpkg", "background": "sea"}, ("background", "'sea'")),
    "unknown split": (
        lambda root: {"splits": write_areas(root / "s.gpkg", ("train", "val", "tset", "test"))}, ("s.gpkg", "tset")
    ),
    "no validation area": (
        lambda root: {"splits": write_areas(root / "s.gpkg", ("train",) * 4)}, ("no val areas", "splits")
    ),
    "no split column": (
        lambda root: {"splits": write_areas(root / "s.gpkg", column="part")}, ("s.gpkg", "'split'", "part")
    ),
    "too large a gap": (lambda _: {"gap": 50}, ("gap is 50",)),
    "one block": (lambda _: {"block": 1000}, ("1 block(s)",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_with_both_names(kind: str, drawn: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    shutil.copytree(drawn, root)
    change, told = REFUSED[kind]
    options: dict[str, Any] = {"data": root / "scene.tif", "labels": root / "labels.tif", "block": 80, "image": IMAGE}
    options |= change(root) or {}
    with pytest.raises(D2LSError) as problem:
        made = LabelledRasters(options.pop("data"), options.pop("labels"), **options)
        for dataset in (made.val(), made.train()):
            for region in dataset.pairs:
                dataset.read_mask(region)
    for part in told:
        assert part in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("moved", ["CRS", "pixels", "part"])
def test_labels_are_warped_if_asked(moved: str, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    with rasterio.open(drawn / "labels.tif") as file:
        labels, profile = file.read(1), file.profile
    needs_warp = True
    if moved == "CRS":
        transform, width, height = warp.calculate_default_transform(CRS, "EPSG:4326", 420, 300, *file.bounds)
        found = np.zeros((height, width), np.uint8)
        warp.reproject(
            labels, found, src_transform=TRANSFORM, src_crs=CRS, dst_transform=transform, dst_crs="EPSG:4326"
        )
        profile |= {"crs": "EPSG:4326", "transform": transform, "nodata": 0}
    elif moved == "pixels":
        found = labels[::2, ::2]
        profile |= {"transform": TRANSFORM * Affine.scale(2)}
    else:  # labels of a part of the raster, on its grid
        found, needs_warp = labels[100:, 50:], False
        profile |= {"transform": TRANSFORM * Affine.translation(50, 100)}
    with rasterio.open(
        tmp_path / "labels.tif", "w", **{**profile, "height": found.shape[0], "width": found.shape[1]}
    ) as file:
        file.write(found, 1)
    if needs_warp:
        with pytest.raises(DataError, match="warp=True"):
            rasters(tmp_path).val().pairs  # noqa: B018
    made = rasters(tmp_path, warp=needs_warp)
    wrong = total = 0
    truth = np.where(SCENE.has_data(0, 300), SCENE.truth(0, 300), 255)
    if moved == "part":
        truth[:100], truth[:, :50] = 255, 255
    for index, region in enumerate(made.val().pairs):
        top, left, height, width = region.window
        mask = made.val()[index]["mask"].numpy()
        expected = truth[top : top + height, left : left + width]
        wrong, total = wrong + (mask != expected).sum(), total + mask.size
    assert wrong <= (0 if moved == "part" else 0.03 * total)


def test_the_background_of_polygons(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    x, y = TRANSFORM.c, TRANSFORM.f
    shapes = shapely.to_wkb(
        np.array([shapely.box(x + 10, y - 20, x + 30, y - 10), shapely.box(x + 20, y - 30, x + 40, y)])
    )
    pyogrio.raw.write(tmp_path / "few.gpkg", shapes, [np.array([2, 4])], ["class"], geometry_type="Polygon", crs=CRS)
    sparse, every = (rasters(tmp_path, "few.gpkg", background=name, gap=0, block=30) for name in (None, "water"))
    counts = [sum(count_labels(split).pixels for split in (made.train(), made.val())) for made in (sparse, every)]
    assert counts[0][[0, 1, 2, 3]].tolist() == [0, 400, 0, 2400]  # values name classes; the later polygon covers
    assert counts[1][[0, 1, 2, 3]].tolist() == [300 * 420 - 2800, 400, 0, 2400]
    assert len(sparse.train()) + len(sparse.val()) < len(every.train()) + len(every.val())


def test_the_statistics_of_rasters(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "-c",
        str(ROOT / "config/raster/d2ls.py"),
        f"data={drawn / 'scene.tif'}",
        f"labels={drawn / 'fields.gpkg'}",
    ]
    small = ["block=80", "gap=4", "backbone=test_convnext", "pretrained=False", "stages=1"]
    assert run_main(statistics_main, [*words, *small]) == 0
    image = eval(f"dict({capsys.readouterr().out})")
    made = rasters(drawn, "fields.gpkg", image=image)
    exact = band_statistics(made.train())
    assert made.spec.mean == pytest.approx(exact.mean, rel=1e-5)
    assert made.spec.std == pytest.approx(exact.std, rel=1e-5)


def test_rasters_that_differ_or_are_damaged_are_told_before_training(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        shutil.copy(drawn / "scene.tif", tmp_path / "in" / name)
    made = LabelledRasters(tmp_path / "in", drawn / "fields.gpkg", block=80, gap=0, image=IMAGE)
    assert {region.image.name for region in made.train().pairs} == {"a.tif", "b.tif"}
    with rasterio.open(drawn / "scene.tif") as file:
        pixels, profile = file.read(), file.profile
    for changes, told in (({"dtype": "float32"}, "float32"), ({"count": 3}, r"3 band\(s\)")):
        with rasterio.open(tmp_path / "in/b.tif", "w", **{**profile, **changes}) as file:
            file.write(pixels[: file.count].astype(file.dtypes[0]))
        (problem,) = check_headers(made.train())
        assert re.search(rf"in/b\.tif: .*{told}", problem)
    shutil.copy(drawn / "scene.tif", tmp_path / "in/b.tif")
    data = (tmp_path / "in/b.tif").read_bytes()
    (tmp_path / "in/b.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"in/b\.tif: cannot be read"):
        band_statistics(made.train())


def test_a_run_that_is_refused_leaves_nothing(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["block=80", "gap=4", "backbone=test_convnext", "pretrained=False", "stages=1", "num_workers=0"]
    words = ["-c", str(ROOT / "config/raster/d2ls.py"), f"data={drawn / 'scene.tif'}", *small]
    for labels, told in (("fields.geojson", "EPSG:4326"), ("gone.gpkg", "gone.gpkg")):
        assert run_main(train_main, [*words, f"labels={drawn / labels}"]) == 2
        error = capfd.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert run_main(train_main, [*words, f"labels={drawn / 'fields.gpkg'}"]) == 2
    assert "tools/band_statistics.py" in capfd.readouterr().err  # no mean and std yet
    assert list(tmp_path.iterdir()) == []
