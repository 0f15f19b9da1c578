import warnings
from pathlib import Path
from types import ModuleType

import pytest

from d2ls.data.sets import potsdam, vaihingen
from d2ls.errors import ConfigError, DataError
from tests.data.folders import write_pair

NAMES = {
    vaihingen: "top_mosaic_09cm_area{}_{}_{}",
    potsdam: "top_potsdam_{}_{}_{}",
}
BOTH = pytest.mark.parametrize("module", NAMES, ids=lambda module: module.SPEC.name)


def write_patches(root: Path, module: ModuleType, folder: str | None = None) -> None:
    """Two training tiles with the validation tile, three variants each, and a test tile."""
    top = root / (folder or module.SPEC.name)
    held, other = module.VALIDATION_TILE, module.TRAIN_TILES[0 if module is vaihingen else 1]
    for tile in (held, other):
        for variant in range(3):
            for k in ("0", "12", "13_2"):
                name = NAMES[module].format(tile, variant, k)
                write_pair(
                    top / "train" / "images_1024", top / "train" / "masks_1024", name, size=(8, 8), suffix=".tif"
                )
    name = NAMES[module].format(module.TEST_TILES[0], 0, 0)
    write_pair(top / "test" / "images_1024", top / "test" / "masks_1024", name, size=(8, 8), suffix=".tif")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    return tmp_path


@BOTH
def test_strict_holds_one_tile_back(module: ModuleType, root: Path) -> None:
    write_patches(root, module)
    train, val, test = module.train(), module.val(), module.test()
    held = {NAMES[module].format(module.VALIDATION_TILE, 0, k) for k in ("0", "12", "13_2")}
    assert {pair.name for pair in val.pairs} == held
    assert len(train) == 9
    assert not any(
        f"{module.VALIDATION_TILE}_" in pair.name.split("area")[-1].split("potsdam_")[-1] for pair in train.pairs
    )
    assert len(test) == 1
    assert train.augmentation == module.AUGMENTATION
    assert val.augmentation is None
    assert test.augmentation is None


@BOTH
def test_published_trains_on_all_and_selects_on_test(module: ModuleType, root: Path) -> None:
    write_patches(root, module)
    assert len(module.train("published")) == 18
    assert module.val("published").pairs == module.test().pairs


@BOTH
def test_without_the_validation_tile(module: ModuleType, root: Path) -> None:
    write_patches(root, module)
    for folder in ("images_1024", "masks_1024"):
        for path in (root / module.SPEC.name / "train" / folder).glob(f"*_*{module.VALIDATION_TILE}_[012]_*"):
            path.unlink()
    assert len(module.train()) == 9
    with pytest.raises(DataError, match=f"no patches of tile {module.VALIDATION_TILE}.*protocol = 'published'"):
        len(module.val())


@BOTH
def test_with_the_validation_tile_alone(module: ModuleType, root: Path) -> None:
    top = root / module.SPEC.name / "train"
    name = NAMES[module].format(module.VALIDATION_TILE, 1, 0)
    write_pair(top / "images_1024", top / "masks_1024", name, size=(8, 8))
    with pytest.raises(DataError, match="all patches are of tile"):
        len(module.train())


@BOTH
def test_names_that_do_not_tell_their_tile(module: ModuleType, root: Path) -> None:
    top = root / module.SPEC.name / "train"
    write_pair(top / "images_1024", top / "masks_1024", "scene", size=(8, 8))
    for dataset in (module.train(), module.val()):
        with pytest.raises(DataError, match=r"scene.png: the name does not tell its tile.*patch_split.py"):
            len(dataset)
    assert len(module.train("published")) == 1


@BOTH
def test_a_missing_folder_names_the_tool(module: ModuleType, root: Path) -> None:
    with pytest.raises(DataError, match=rf"train/images_1024: no such folder.*tools/{module.SPEC.name}_patch_split.py"):
        len(module.train())


@BOTH
def test_other_folders_changes_and_protocols(module: ModuleType, root: Path) -> None:
    write_patches(root, module, "demo")
    dataset = module.train(folder="demo", crop=4, mosaic=0.0)
    assert dataset[0]["image"].shape == (3, 4, 4)
    assert dataset.augmentation.flip == module.AUGMENTATION.flip
    assert len(module.val(folder="demo")) == 3
    assert len(module.test(folder="demo")) == 1
    with pytest.raises(ConfigError, match="'other'"):
        module.train("other")
    with pytest.raises(ConfigError, match="'other'"):
        module.val("other")
    with pytest.raises(TypeError):
        module.train(crops=4)


def test_leading_zeros_in_potsdams_tiles(root: Path) -> None:
    top = root / "potsdam" / "train"
    write_pair(top / "images_1024", top / "masks_1024", "top_potsdam_02_10_0_3", size=(8, 8))
    assert len(potsdam.val()) == 1


def test_the_official_splits() -> None:
    assert (len(vaihingen.TRAIN_TILES), len(vaihingen.TEST_TILES)) == (16, 17)
    assert (len(potsdam.TRAIN_TILES), len(potsdam.TEST_TILES)) == (23, 14)
    for module in (vaihingen, potsdam):
        assert not set(module.TRAIN_TILES) & set(module.TEST_TILES)
        assert module.VALIDATION_TILE in module.TRAIN_TILES
    assert potsdam.LEFT_OUT_TILE not in (*potsdam.TRAIN_TILES, *potsdam.TEST_TILES)


def test_published_recipes() -> None:
    assert vaihingen.AUGMENTATION.crop == 512
    assert vaihingen.AUGMENTATION.scales == (0.5, 0.75, 1, 1.25, 1.5)
    assert vaihingen.AUGMENTATION.smart_crop == 0.5
    assert potsdam.AUGMENTATION.crop == 768
    assert potsdam.AUGMENTATION.scales == (0.75, 1, 1.25, 1.5)
    assert potsdam.AUGMENTATION.rot90 == 0.25
    with warnings.catch_warnings(action="error"):
        vaihingen.train()
