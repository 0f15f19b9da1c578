"""Drawn data sets: the right names, formats and values, and our own data sets read them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2ls.data import io as files
from d2ls.data import labels
from d2ls.data.sets import cloud, dubai, grass, loveda, potsdam, uavid, vaihingen
from tests.drawn import folders as synthetic


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    return tmp_path


def _tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _masks(dataset) -> list[np.ndarray]:
    return [dataset[at]["mask"].numpy() for at in range(len(dataset))]


def test_vaihingen_patches_follow_the_split_and_are_read(root):
    folder = synthetic.write_vaihingen(root, folder="drawn", train=16, validation=2, test=2, size=64)
    assert folder == root / "drawn"
    names = {path.stem for path in (folder / "train" / "images_1024").iterdir()}
    assert len(names) == 18
    assert {"top_mosaic_09cm_area1_0_0", "top_mosaic_09cm_area1_0_1", "top_mosaic_09cm_area30_0_1"} <= names
    assert {path.name for path in (folder / "test" / "masks_1024").iterdir()} == {
        "top_mosaic_09cm_area2_0_0.png", "top_mosaic_09cm_area4_0_0.png",
    }  # fmt: skip
    assert len(vaihingen.train(folder="drawn")) == 16
    assert {pair.name for pair in vaihingen.val(folder="drawn").pairs} == {
        "top_mosaic_09cm_area30_0_0", "top_mosaic_09cm_area30_0_1",
    }  # fmt: skip
    test = vaihingen.test(folder="drawn")
    assert test[0]["image"].shape == (3, 64, 64)
    assert max(mask.max() for mask in _masks(test)) <= 5


def test_no_scene_is_drawn_twice(root):
    folder = synthetic.write_vaihingen(root, train=4, validation=2, test=2, size=64)
    seen = {path.read_bytes() for path in folder.rglob("*.tif")}
    assert len(seen) == 8


def test_potsdam_patches_follow_the_split_and_are_read(root):
    synthetic.write_potsdam(root, train=3, validation=1, test=1, size=(64, 80))
    assert [pair.name for pair in potsdam.val().pairs] == ["top_potsdam_2_10_0_0"]
    assert len(potsdam.train()) == 3
    assert potsdam.test()[0]["mask"].shape == (64, 80)


@pytest.mark.parametrize(
    ("write", "spec", "image", "mask", "eroded"),
    [
        (
            synthetic.write_vaihingen_originals, vaihingen.SPEC, "top_mosaic_09cm_area2.tif",
            "top_mosaic_09cm_area2.tif", "top_mosaic_09cm_area2_noBoundary.tif",
        ),
        (
            synthetic.write_potsdam_originals, potsdam.SPEC, "top_potsdam_2_13_RGB.tif",
            "top_potsdam_2_13_label.tif", "top_potsdam_2_13_label_noBoundary.tif",
        ),
    ],
)  # fmt: skip
def test_isprs_originals_carry_colours_and_black_boundaries(root, write, spec, image, mask, eroded):
    folder = write(root, size=(150, 170), seed=1)
    whole = labels.read_colour_mask(folder / "test_masks" / mask, spec)
    thin = labels.read_colour_mask(folder / "test_masks_eroded" / eroded, spec)
    assert whole.shape == thin.shape == files.read_image(folder / "test_images" / image).shape[:2] == (150, 170)
    assert whole.max() <= 5
    kept = thin != spec.ignore_index
    np.testing.assert_array_equal(thin[kept], whole[kept])
    # Black exactly where a pixel at most 3 px away (in a disc) belongs to another class: counted pixel by pixel.
    rng = np.random.default_rng(0)
    for y, x in zip(rng.integers(4, 146, 300), rng.integers(4, 166, 300), strict=True):
        around = whole[y - 3 : y + 4, x - 3 : x + 4]
        if (around == whole[y, x]).all():
            assert kept[y, x]
        elif (whole[y - 3 : y + 4, x] != whole[y, x]).any() or (whole[y, x - 3 : x + 4] != whole[y, x]).any():
            assert not kept[y, x]
    assert Image.open(folder / "train_images" / _first(folder / "train_images")).info["compression"] == "tiff_lzw"
    assert len(_tree(folder / "train_masks")) == 2
    assert not (folder / "train_masks_eroded").exists()


def _first(folder: Path) -> str:
    return sorted(_tree(folder))[0]


def test_loveda_holds_all_published_values_and_is_read(root):
    folder = synthetic.write_loveda(root, train=2, val=1, test=1, size=256)
    raw = [files.read_index(path) for path in folder.glob("*/*/masks_png/*.png")]
    assert set(np.unique(np.concatenate([mask.ravel() for mask in raw]))) == set(range(8))
    for image, mask in ((mask.parents[1] / "images_png" / mask.name, mask) for mask in folder.glob("*/*/masks_png/*")):
        assert not files.read_image(image)[files.read_index(mask) == 0].any()  # no data is black
    assert not (folder / "Test" / "Urban" / "masks_png").exists()
    assert len(loveda.train()) == 4
    assert len(loveda.val()) == len(loveda.test()) == 2
    assert {int(value) for mask in _masks(loveda.train()) for value in np.unique(mask)} == set(range(8))


def test_uavid_originals_and_patches(root):
    synthetic.write_uavid_originals(root, frames=2, size=(216, 384))
    folder = synthetic.write_uavid(root, train=3, val=1, size=128)
    colours = [labels.read_colour_mask(path, uavid.SPEC) for path in folder.glob("uavid_*/*/Labels/*.png")]
    assert len(colours) == 6
    assert {int(value) for mask in colours for value in np.unique(mask)} == set(range(8))
    assert {pair.name for pair in uavid.test().pairs} == {"seq21/000000", "seq21/000100"}
    assert "mask" not in uavid.test()[0]
    assert (len(uavid.train()), len(uavid.val()), len(uavid.train("published"))) == (3, 1, 4)
    assert max(mask.max() for mask in _masks(uavid.val())) <= 7


def test_grass_cloud_and_dubai_are_read_and_hold_all_classes(root):
    synthetic.write_grass(root)
    synthetic.write_cloud(root, size=128)
    synthetic.write_dubai(root)
    readers = (labels.read_index_mask, labels.read_index_mask, labels.read_colour_mask)
    for module, read in zip((grass, cloud, dubai), readers, strict=True):
        masks = [read(pair.mask, module.SPEC) for pair in module.train().pairs]
        assert set(np.unique(np.concatenate([mask.ravel() for mask in masks]))) == set(range(module.SPEC.num_classes))
        assert len(module.val()) == len(module.test()) == 2
    assert {path.suffix for path in (root / "grass" / "img_dir" / "train").iterdir()} == {".tif"}
    assert {path.suffix for path in (root / "cloud" / "img_dir" / "test").iterdir()} == {".png"}
    assert {path.suffix for path in (root / "dubai" / "images" / "val").iterdir()} == {".jpg"}


def test_pictures_follow_their_labels(root):
    """Mean colours of the classes differ, in the order that anyone would expect."""

    def brightness(pairs, read, index: int) -> float:
        values = [files.read_image(pair.image)[read(pair.mask) == index] for pair in pairs]
        return float(np.concatenate(values).mean())

    synthetic.write_cloud(root, size=128)
    pairs = cloud.train().pairs
    shadow, clear, thin, thick = (brightness(pairs, files.read_index, index) for index in (1, 0, 2, 3))
    assert shadow < clear < thin < thick
    synthetic.write_grass(root, size=64)
    images = np.concatenate([files.read_image(pair.image).reshape(-1, 3) for pair in grass.train().pairs]).astype(float)
    cover = np.concatenate([files.read_index(pair.mask).ravel() for pair in grass.train().pairs])
    greenness = [(images[cover == level, 1] - images[cover == level, 0]).mean() for level in range(5)]
    assert greenness == sorted(greenness)


def test_files_that_exist_stay_as_they_are(root):
    folder = synthetic.write_vaihingen(root, train=1, validation=1, test=1, size=64)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    victim = next(iter((folder / "test" / "masks_1024").iterdir()))
    victim.unlink()
    synthetic.write_vaihingen(root, train=1, validation=1, test=1, size=64)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert set(after) == set(before)
    train = [path for path in before if "train" in path.parts]
    assert train
    assert all(before[path] == after[path] for path in train)
