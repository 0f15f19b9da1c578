import warnings
from pathlib import Path

import numpy as np
import pytest

from d2ls.data import io as files
from d2ls.data.sets import loveda
from d2ls.errors import DataError
from tests.data.folders import write_pair


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    return tmp_path / "LoveDA"


def write_split(root: Path, split: str, areas: tuple[str, ...] = loveda.AREAS, names: str = "12") -> None:
    for area in areas:
        for name in names:
            folder = root / split / area
            stem = name if area == "Urban" else f"9{name}"
            write_pair(folder / "images_png", folder / "masks_png", stem, size=(16, 16))


def test_raw_masks_are_converted_as_they_are_read(root: Path) -> None:
    write_split(root, "Val")
    raw = np.arange(256, dtype=np.uint8).reshape(16, 16) % 8
    files.write_png(root / "Val" / "Urban" / "masks_png" / "1.png", raw)
    mask = loveda.val()[0]["mask"].numpy()
    assert np.array_equal(mask, np.array([7, 0, 1, 2, 3, 4, 5, 6])[raw])


def test_converted_masks_come_first(root: Path) -> None:
    write_split(root, "Val", ("Urban",))
    converted = root / "Val" / "Urban" / "masks_png_convert"
    converted.mkdir()
    for name in "12":
        files.write_png(converted / f"{name}.png", np.full((16, 16), 7, np.uint8))
    with pytest.warns(UserWarning, match="Rural"):
        assert (loveda.val()[0]["mask"] == 7).all()
    files.write_png(converted / "1.png", np.full((16, 16), 8, np.uint8))
    with pytest.warns(UserWarning, match="Rural"), pytest.raises(DataError, match=r"convert/1.png: values 8"):
        loveda.val()[0]
    (converted / "2.png").unlink()
    with pytest.warns(UserWarning, match="Rural"), pytest.raises(DataError, match="no mask for 1 of 2 images"):
        len(loveda.val())


def test_raw_values_above_seven(root: Path) -> None:
    write_split(root, "Val")
    files.write_png(root / "Val" / "Urban" / "masks_png" / "1.png", np.full((16, 16), 8, np.uint8))
    with pytest.raises(DataError, match=r"masks_png/1.png: .*8"):
        loveda.val()[0]


def test_one_area_missing_is_a_warning_both_an_error(root: Path) -> None:
    write_split(root, "Train", ("Rural",))
    with pytest.warns(UserWarning, match=r"Train/Urban: no folder images_png; reading Rural alone"):
        assert len(loveda.train()) == 2
    write_split(root, "Train")
    with warnings.catch_warnings(action="error"):
        assert [pair.name for pair in loveda.train().pairs] == ["1", "2", "91", "92"]
    with pytest.raises(DataError, match=r"Val: neither Urban/images_png nor Rural/images_png.*prepare_data.py loveda"):
        len(loveda.val())


def test_protocols(root: Path) -> None:
    write_split(root, "Train", names="12")
    write_split(root, "Val", names="345")
    assert len(loveda.train()) == 4
    assert len(loveda.train("published")) == 10  # both together
    assert loveda.val("published").pairs == loveda.val().pairs
    write_split(root, "train_val", names="7")
    assert [pair.name for pair in loveda.train("published").pairs] == ["7", "97"]


def test_equal_names_become_different(root: Path) -> None:
    for area in loveda.AREAS:
        folder = root / "Train" / area
        write_pair(folder / "images_png", folder / "masks_png", "1", size=(16, 16))
    write_split(root, "Val", names="1")
    assert [pair.name for pair in loveda.train().pairs] == ["Urban_1", "Rural_1"]
    assert len({pair.name for pair in loveda.train("published").pairs}) == 4


def test_test_has_no_labels(root: Path) -> None:
    write_split(root, "Test")
    assert all(pair.mask is None for pair in loveda.test().pairs)
    assert "mask" not in loveda.test()[0]


def test_real_raw_masks(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(shared_data))
    with pytest.warns(UserWarning, match="Urban"):
        dataset = loveda.train(protocol="published")
        assert len(dataset) == 3
    for pair in dataset.pairs:
        raw, mask = files.read_index(pair.mask).astype(int), dataset.read_mask(pair)
        assert np.array_equal(np.where(mask == 7, 0, mask + 1), raw)
    assert dataset[0]["image"].shape == (3, 512, 512)
