"""Labels of annotation tools as masks, against shapely's test of pixel centres, Pillow and pycocotools."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio import warp
from rasterio.transform import from_origin

from d2ls.cli.common import run_main
from d2ls.cli.import_labels import main
from d2ls.data.io import read_index
from d2ls.data.sets.folder import FolderDataset, read_classes
from d2ls.errors import D2LSError
from d2ls.preparation.importers import read_coco, read_labelme, write_folder

HEIGHT, WIDTH = 40, 60
SQUARE = [[5.0, 5.0], [25.0, 5.0], [25.0, 25.0], [5.0, 25.0]]


def inside(geometry: Any, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """Pixels whose centre a geometry contains."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.asarray(shapely.contains_xy(geometry, columns, rows))


def picture(path: Path, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, width, 3), np.uint8)).save(path)
    return path


def coco(folder: Path, *shapes: tuple[int, Any], **changes: Any) -> Path:
    """A file with the classes 3 house and 7 tree, and the shapes of one of its two images."""
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)]
    for n in (1, 2):
        picture(folder / f"{n}.png")
    content = {
        "images": images,
        "categories": [{"id": 7, "name": "tree"}, {"id": 3, "name": "house"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": category, "segmentation": outline}
            for n, (category, outline) in enumerate(shapes)
        ],
    } | changes
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return path


def labelme(folder: Path, *shapes: dict[str, Any], name: str = "a", **changes: Any) -> Path:
    picture(folder / f"{name}.png")
    content = {"imagePath": f"..\\photos\\{name}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
    (folder / f"{name}.json").write_text(json.dumps(content | changes))
    return folder


def imported(tmp_path: Path, *words: object) -> NDArray[np.uint8]:
    """The mask of the first image, after the command."""
    assert run_main(main, [*map(str, words), "-o", str(tmp_path / "out")]) == 0
    return read_index(min((tmp_path / "out/masks").rglob("*.png")))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 70), st.floats(-9, 50)), min_size=3, max_size=9), st.integers(0, 2))
def test_a_pixel_is_in_a_polygon_if_its_centre_is(points: list[tuple[float, float]], start: int) -> None:
    hull = shapely.MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon":
        return
    (one,) = read_into(hull, start)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    one.shapes[0][1](mask, 9)
    wrong = (mask == 9) != inside(hull)
    columns, rows = np.nonzero(wrong)[1] + 0.5, np.nonzero(wrong)[0] + 0.5
    assert shapely.distance(hull.exterior, shapely.points(columns, rows)).max(initial=0) < 1e-2, "on the edge itself"


def read_into(polygon: Any, start: int) -> list[Any]:
    ring = list(polygon.exterior.coords)[:-1]
    ring = ring[start % len(ring) :] + ring[: start % len(ring)]
    content = {
        "images": [{"id": 1, "file_name": "x.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[v for point in ring for v in point]]}],
    }
    path = Path(__file__).with_name("unwritten.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: json.dumps(content))
        return read_coco(path, path.parent)


def test_coco_polygons_of_several_parts_and_overlaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = [value for point in SQUARE for value in point]
    bow_tie = [30.1, 2.3, 50.2, 22.9, 50.3, 2.1, 30.3, 22.2]
    parts = [[40.0, 25.2, 55.1, 25.0, 47.2, 38.0], [1.0, 30.0, 8.0, 30.0, 8.0, 38.0], [1.0, 1.0, 2.0, 2.0]]
    path = coco(tmp_path, (3, [flat]), (7, [[v + 10 for v in flat]]), (7, [bow_tie]), (3, parts))
    mask = imported(tmp_path, "coco", path)
    assert [(e.value, e.name, e.scored) for e in read_classes(tmp_path / "out/classes.csv")] == [
        (0, "background", True), (1, "house", True), (2, "tree", True)
    ]  # fmt: skip
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    square = shapely.Polygon(SQUARE)
    for value, geometry in (
        (1, square),
        (2, shapely.affinity.translate(square, 10, 10)),
        (2, shapely.make_valid(shapely.Polygon(np.reshape(bow_tie, (-1, 2))))),
        (1, shapely.union_all([shapely.Polygon(np.reshape(part, (-1, 2))) for part in parts[:2]])),
    ):
        wanted[inside(geometry)] = value
    np.testing.assert_array_equal(mask, wanted)
    assert (mask == 1)[5:15, 5:25].all()
    assert (mask == 2)[15:25, 15:25].all(), "the later one lies on top"
    assert not read_index(tmp_path / "out/masks/2.png").any()
    told = capsys.readouterr().out
    assert "2 masks" in told
    assert "1 of them without a shape" in told
    assert "tree: 2 shapes" in told
    data = FolderDataset(tmp_path / "out")
    assert [pair.name for pair in (*data.train().pairs, *data.val().pairs)] == ["1", "2"]


def test_coco_run_lengths_are_pycocotools_own(tmp_path: Path) -> None:
    coder = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    blobs = rng.random((2, HEIGHT, WIDTH)) > 0.7
    packed = coder.encode(np.asfortranarray(blobs[0].astype(np.uint8)))
    column = blobs[1].ravel(order="F")
    edges = np.flatnonzero(np.diff(column, prepend=False))
    counts = np.diff([0, *edges, column.size]).tolist()  # zeros first
    path = coco(
        tmp_path,
        (3, {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}),
        (7, {"size": [HEIGHT, WIDTH], "counts": counts}),
    )
    mask = imported(tmp_path, "coco", path)
    np.testing.assert_array_equal(mask, np.where(blobs[1], 2, blobs[0]))


def test_labelme_shapes_against_pillow(tmp_path: Path) -> None:
    window = np.zeros((6, 8), np.uint8)
    window[1:5, 2:] = 255
    stream = io.BytesIO()
    Image.fromarray(window).save(stream, "PNG")
    folder = labelme(
        tmp_path / "photos",
        {"label": "a", "points": SQUARE, "shape_type": "polygon"},
        {"label": "b", "points": [[30, 20], [20, 10]], "shape_type": "rectangle"},
        {"label": "c", "points": [[45, 20], [45, 30]], "shape_type": "circle"},
        {"label": "d", "points": [[0, 0], [9, 9]], "shape_type": "line"},
        {"label": "a", "points": [[55, 2], [62, 7]], "shape_type": "mask",
         "mask": base64.b64encode(stream.getvalue()).decode()},
        {"label": "b", "points": [[-4, 36], [3, 41]], "shape_type": "mask",
         "mask": base64.b64encode(stream.getvalue()).decode()},
    )  # fmt: skip
    mask = imported(tmp_path, "labelme", folder)
    factor = 16
    drawn = Image.new("L", (WIDTH * factor, HEIGHT * factor))
    draw = ImageDraw.Draw(drawn)
    draw.polygon([(x * factor, y * factor) for x, y in SQUARE], fill=1)
    draw.rectangle((20 * factor, 10 * factor, 30 * factor - 1, 20 * factor - 1), fill=2)
    draw.ellipse((35 * factor, 10 * factor, 55 * factor, 30 * factor), fill=3)
    wanted = np.asarray(drawn)[factor // 2 :: factor, factor // 2 :: factor].copy()
    wanted[2:8, 55:60][window[:, :5] > 0] = 1
    wanted[36:40, 0:4][window[:4, 4:] > 0] = 2
    assert (mask != wanted).sum() <= 4, "centres within a sixteenth of the circle's edge"
    assert (mask == 3).sum() == pytest.approx(np.pi * 100, rel=0.02)
    assert [entry.name for entry in read_classes(tmp_path / "out/classes.csv")] == ["background", "a", "b", "c", "d"]


def raster(path: Path, left: float, top: float, crs: str = "EPSG:32633", side: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=3, dtype="uint8", crs=crs,
        transform=from_origin(left, top, side, side),
    ) as file:  # fmt: skip
        file.write(np.zeros((3, HEIGHT, WIDTH), np.uint8))
    return path


def geojson(path: Path, *features: tuple[Any, Any], crs: str = "EPSG:32633") -> Path:
    """Polygons in coordinates of `crs`, written as longitude and latitude."""
    content = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {"crop": label, "id": n},
             "geometry": warp.transform_geom(crs, "EPSG:4326", shapely.geometry.mapping(shape), precision=9)}
            for n, (label, shape) in enumerate(features)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def test_geojson_over_two_rasters_of_two_systems(tmp_path: Path) -> None:
    left, top = 500_000.0, 5_400_000.0
    raster(tmp_path / "tiles/a.tif", left, top)
    raster(tmp_path / "tiles/b.tif", 100_000.0, 5_400_000.0, "EPSG:32634")

    def box(x0: float, y0: float, x1: float, y1: float) -> Any:
        """In pixels of the first raster."""
        return shapely.box(left + 2 * x0, top - 2 * y1, left + 2 * x1, top - 2 * y0)

    ring = box(4, 4, 24, 24).difference(box(8, 8, 16, 12))
    several = shapely.MultiPolygon([box(30, 2, 40, 12), box(50, 20, 90, 30)])
    path = geojson(
        tmp_path / "fields.geojson", ("wheat", ring), ("maize", several), ("wheat", shapely.Point(left, top))
    )
    mask = imported(tmp_path, "geojson", path, "--images", tmp_path / "tiles", "--column", "crop")
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[4:24, 4:24] = 2
    wanted[8:12, 8:16] = 0
    wanted[2:12, 30:40] = wanted[20:30, 50:] = 1
    np.testing.assert_array_equal(mask, wanted)
    assert not read_index(tmp_path / "out/masks/b.png").any()
    assert (tmp_path / "out/images/a.tif").read_bytes() == (tmp_path / "tiles/a.tif").read_bytes()


def test_an_existing_table_rules_and_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco(tmp_path, (3, [[value for point in SQUARE for value in point]]))
    (tmp_path / "out").mkdir()
    table = tmp_path / "out/classes.csv"
    table.write_text("value,name\n9,house\n4,ignore\n")
    words = ["coco", str(path), "-o", str(tmp_path / "out"), "--split", "train", "--background", "ignore"]
    assert run_main(main, words) == 0
    mask = read_index(tmp_path / "out/masks/train/1.png")
    assert (set(np.unique(mask)), (mask == 9).sum()) == ({4, 9}, 400)
    assert run_main(main, words) == 2
    assert "2 masks are there already" in capsys.readouterr().err
    assert run_main(main, [*words, "--overwrite"]) == 0
    table.write_text("value,name\n4,ignore\n")
    assert run_main(main, [*words, "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert "no value for house; it has ignore" in told
    assert "5,,house,1" in told


def test_images_that_lie_in_the_folder_already_stay(tmp_path: Path) -> None:
    folder = labelme(tmp_path / "out/images", {"label": "a", "points": SQUARE})
    imported(tmp_path, "labelme", folder)
    assert (tmp_path / "out/images/a.png").is_file()
    assert read_labelme(folder / "a.json", folder)[0].size == (HEIGHT, WIDTH)


def broken_size(folder: Path) -> list[str]:
    path = coco(folder)
    picture(folder / "2.png", width=WIDTH + 1)
    return ["coco", str(path)]


def no_image(folder: Path) -> list[str]:
    path = coco(folder)
    (folder / "2.png").unlink()
    return ["coco", str(path)]


def same_names(folder: Path) -> list[str]:
    images = [{"id": n, "file_name": f"{n}/x.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)]
    for n in (1, 2):
        picture(folder / f"{n}/x.png")
    return ["coco", str(coco(folder, images=images))]


def text(content: str, name: str = "labels.json", kind: str = "coco") -> Any:
    def write(folder: Path) -> list[str]:
        (folder / name).write_text(content)
        return [kind, str(folder / name)]

    return write


def far_away(folder: Path) -> list[str]:
    raster(folder / "a.tif", 500_000.0, 5_400_000.0)
    return ["geojson", str(geojson(folder / "x.geojson", ("a", shapely.box(0, 0, 9, 9)))), "--column", "crop"]


def no_geojson(folder: Path) -> list[str]:
    return [*text("{}", "x.geojson", "geojson")(folder), "--column", "a"]


def no_reference(folder: Path) -> list[str]:
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / "a.tif")
    return ["geojson", str(geojson(folder / "x.geojson", ("a", shapely.box(0, 0, 9, 9)))), "--column", "crop"]


def no_class(folder: Path) -> list[str]:
    return ["geojson", str(geojson(folder / "x.geojson", (None, shapely.box(0, 0, 9, 9)))), "--column", "crop"]


BAD = {
    "image of another size": (broken_size, r"2\.png: 61 x 40 pixels, its labels are for 60 x 40"),
    "no image": (no_image, r"1 of 2 images are not there \(first: .*2\.png\)\. Give --images"),
    "two of one name": (same_names, "two images have the name x"),
    "no JSON": (text("{"), r"labels\.json: cannot be read as JSON"),
    "no COCO": (text('{"shapes": []}'), "cannot be read as COCO instances .*categories"),
    "a list": (text("[1]"), "cannot be read as COCO instances"),
    "no labelme": (text("{}", kind="labelme"), "cannot be read as labelme .*imagePath"),
    "no GeoJSON": (no_geojson, r"x\.geojson: cannot be read"),
    "no file": (lambda folder: ["coco", str(folder / "none.json")], "no such file"),
    "an empty folder": (lambda folder: ["labelme", str(folder)], "no JSON file in it"),
    "far away": (far_away, "none of its 1 polygons lies on one of the 1 images"),
    "no georeference": (no_reference, r"a\.tif: no coordinate reference system"),
    "no class": (no_class, "1 polygons have no class in the column crop"),
    "no column": (lambda folder: far_away(folder)[:2], "--column None: it names the column .* for geojson"),
    "another column": (lambda folder: [*far_away(folder)[:3], "sort"], "no column 'sort'; its columns: crop, id"),
    "a column of COCO": (lambda folder: ["coco", str(coco(folder)), "--column", "a"], "--column a: .* for that alone"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_and_nothing_is_written(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, told = BAD[kind]
    out = tmp_path / "out"
    assert run_main(main, [*make(tmp_path), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error), error
    assert not out.exists()


def test_shapes_that_do_not_fit_and_too_many_classes(tmp_path: Path) -> None:
    with pytest.raises(D2LSError, match=r"COCO instances .*99"):
        read_coco(coco(tmp_path, (99, [[0, 0, 9, 0, 9, 9]])), tmp_path)
    with pytest.raises(D2LSError, match=r"COCO instances .*run lengths of \[4, 4\] in an image of \(40, 60\)"):
        read_coco(coco(tmp_path, (3, {"size": [4, 4], "counts": [16]})), tmp_path)
    shapes = [{"label": str(n), "points": SQUARE} for n in range(255)]
    with pytest.raises(D2LSError, match="256 different labels"):
        write_folder(read_labelme(labelme(tmp_path / "photos", *shapes), tmp_path / "photos"), tmp_path / "out")
