"""A folder as a data set: layouts, tables of classes, and the three commands from pictures to masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import test_dubai
import train
from d2ls.cli.common import run_main
from d2ls.cli.describe import main as describe_main
from d2ls.data.io import read_index
from d2ls.data.sets.folder import Entry, FolderDataset, pairs_of, parse_colour, read_classes, spec_of, splits_of
from d2ls.errors import ConfigError, DataError
from d2ls.preparation.describe import advice, describe

ROOT = Path(__file__).parents[3]


def draw(image: Path, mask: Path | None, seed: int, values: tuple[int, int] = (0, 255), side: int = 48) -> None:
    """A dark picture with bright rectangles, and their mask."""
    rng = np.random.default_rng(seed)
    picture, labels = rng.integers(0, 60, (side, side, 3), np.uint8), np.full((side, side), values[0], np.uint8)
    for _ in range(3):
        left, top = rng.integers(0, side - 12, 2)
        picture[top : top + 12, left : left + 12] += 150
        labels[top : top + 12, left : left + 12] = values[1]
    for path in filter(None, (image, mask)):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), picture)
    if mask is not None:
        cv2.imwrite(str(mask), labels)


def test_three_commands_from_pictures_to_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        draw(Path(f"shots/{number:02}_sat.png"), Path(f"shots/{number:02}_mask.png"), number)
    assert run_main(describe_main, ["shots", "--write"]) == 0
    assert "0 and 255" in capfd.readouterr().out
    assert [entry[::2] for entry in read_classes(Path("shots/classes.csv"))] == [(0, "background"), (255, "foreground")]
    small = ["backbone=test_convnext", "pretrained=False", "width=32", "stages=1", "crop=32", "num_workers=0"]
    assert run_main(train.main, ["-c", str(ROOT / "config/folder/d2ls.py"), "data=shots", "max_epoch=12", *small]) == 0
    arguments = ["-c", str(ROOT / "config/folder/d2ls.py"), "-o", "out", "data=shots", *small]
    assert run_main(test_dubai.main, arguments) == 0
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["04_sat.png", "09_sat.png"]
    assert set(np.unique(read_index(Path("out/04_sat.png")))) <= {0, 1}
    assert run_main(describe_main, ["shots", "--write"]) == 2


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{split}/images/{n}.png", "{split}/masks/{n}.png"),
        ("images/{split}/{n}.jpg", "labels/{split}/{n}_label.png"),
        ("{split}/{n}_sat.png", "{split}/{n}_mask.png"),
        ("img_dir/{split}/{n}_rgb.png", "ann_dir/{split}/{n}_gt.png"),
    ],
)
def test_layouts(tmp_path: Path, image: str, mask: str) -> None:
    for split in ("train", "val", "test"):
        for n in range(2):
            there = None if split == "test" else tmp_path / mask.format(split=split, n=n)
            draw(tmp_path / image.format(split=split, n=n), there, n)
    found = splits_of(tmp_path)
    assert {split: len(pairs) for split, pairs in found.items()} == {"train": 2, "val": 2, "test": 2}
    assert all(pair.mask is not None and pair.image != pair.mask for pair in found["train"] + found["val"])
    assert len(pairs_of(tmp_path, "test")) == 2


def test_lists_of_stems_and_blocks(tmp_path: Path) -> None:
    for n in range(20):
        draw(tmp_path / f"images/{n:02}.png", tmp_path / f"masks/{n:02}.png", n)
    blocks = splits_of(tmp_path)
    assert [pair.name for pair in blocks["val"]] == ["08", "09", "18", "19"]
    assert {pair.name for pair in blocks["val"]}.isdisjoint(pair.name for pair in blocks["train"])
    (tmp_path / "train.txt").write_text("00\n01.png\n")
    (tmp_path / "val.txt").write_text("02\n")
    assert [pair.name for pair in pairs_of(tmp_path, "train")] == ["00", "01"]
    assert [pair.name for pair in pairs_of(tmp_path, "test")] == ["02"]
    (tmp_path / "val.txt").write_text("99\n")
    with pytest.raises(DataError, match=r"val\.txt.*99"):
        pairs_of(tmp_path, "val")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 11])
def test_few_images_are_split_too(number: int, tmp_path: Path) -> None:
    for n in range(number):
        draw(tmp_path / f"images/{n:02}.png", tmp_path / f"masks/{n:02}.png", n)
    found = {split: [pair.name for pair in pairs] for split, pairs in splits_of(tmp_path).items()}
    assert len(found["val"]) == {1: 0, 11: 2}.get(number, 1)
    assert sorted(found["train"] + found["val"]) == [f"{n:02}" for n in range(number)]


def test_an_image_without_a_mask_is_an_error_where_it_is_needed(tmp_path: Path) -> None:
    draw(tmp_path / "train/images/a.png", tmp_path / "train/masks/a.png", 0)
    draw(tmp_path / "train/images/b.png", None, 1)
    with pytest.raises(DataError, match=r"1 of 2 train.*b\.png"):
        pairs_of(tmp_path, "train")
    with pytest.raises(DataError, match="val"):
        pairs_of(tmp_path, "val")


def test_tables_of_colours_and_values(tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text("colour,name,scored\n#3c1098,house,1\n132 41 246,land,0\n#000000,ignore,\n#ff0000,house,\n")
    spec, _ = spec_of(read_classes(table), "town")
    assert spec.classes == ("house", "land")
    assert (spec.colours, spec.scored) == (((60, 16, 152), (132, 41, 246)), (0,))
    assert (dict(spec.also_read), spec.ignore_colours) == ({(255, 0, 0): 0}, ((0, 0, 0),))
    spec, _ = spec_of([Entry(1, None, "a"), Entry(2, None, "b"), Entry(0, None, "ignore"), Entry(3, None, "a")], "v")
    assert dict(spec.values) == {1: "a", 2: "b", 0: "ignore", 3: "a"}
    assert len(set(spec.colours)) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("value,name\nx,a\n", "line 2"),
        ("value,name\n1,\n", "line 2"),
        ("name\na\n", "line 2"),
        ("value,name,scored\n1,a,maybe\n", "line 2"),
        ("value,colour,name\n1,,a\n,#000000,b\n", "every row"),
        ("value,name\n", "every row"),
        ("value,name\n300,a\n1,b\n", "300"),
        ("value,name\n1,a\n1,b\n", "twice"),
    ],
)
def test_tables_that_mean_nothing(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(ConfigError, match=told):
        FolderDataset(tmp_path)


def test_no_table_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"describe_data\.py"):
        FolderDataset(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        FolderDataset(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "#12", "1 2", "1 2 300", "red"])
def test_texts_that_are_no_colour(text: str) -> None:
    with pytest.raises(ValueError, match="no colour"):
        parse_colour(text)


def test_description_of_what_looks_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for n in range(3):
        draw(tmp_path / f"images/{n}.png", tmp_path / f"masks/{n}.png", n, values=(1, 2))
    draw(tmp_path / "images/3.png", None, 3)
    cv2.imwrite(str(tmp_path / "masks/2.png"), np.ones((20, 20), np.uint8))
    (tmp_path / "images/4.png").write_bytes(b"no picture")
    found = describe(tmp_path)
    assert {kind: len(lines) for kind, lines in found.problems.items()} == {
        "masks of another size than their image": 1, "images without a mask": 1, "unreadable files": 1,
    }  # fmt: skip
    expected = sum(cv2.imread(str(tmp_path / f"masks/{n}.png"), -1).size for n in range(3))
    assert set(found.labels) == {1, 2}
    assert sum(found.labels.values()) == expected
    assert any("begin with 1" in line for line in advice(found))
    assert run_main(describe_main, [str(tmp_path)]) == 1
    assert "2.png" in capfd.readouterr().out
