"""Submissions are found out where they are wrong in number, name, size, form or value."""

import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2ls.cli.common import run_main
from d2ls.data.io import read_index, write_png
from d2ls.data.labels import index_to_colours
from d2ls.data.sets import loveda, uavid
from d2ls.data.sets.facts import Server
from d2ls.errors import DataError
from d2ls.inference.results import Masks
from d2ls.inference.submission import check, server, write_zip

ROOT = Path(__file__).resolve().parents[2]
INDEX = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 7


@pytest.fixture
def masks(data: Path, tmp_path: Path) -> Path:
    """Good masks of the drawn LoveDA test images."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in server("loveda").sizes:
        write_png(folder / name, INDEX)
    return folder


def first(folder: Path) -> Path:
    return min(folder.glob("*.png"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: first(folder).unlink(), "1 of 4 masks are missing"),
    "renamed": (lambda folder: first(folder).rename(folder / "x.png"), "1 files do not belong there"),
    "nested": (lambda folder: (folder / "deep").mkdir() or first(folder).rename(folder / "deep" / "4.png"), "missing"),
    "size": (lambda folder: write_png(first(folder), INDEX[:, :60]), "60 x 64 pixels, expected 64 x 64"),
    "ignore": (lambda folder: write_png(first(folder), INDEX + (INDEX == 6)), "of no class"),
    "value": (lambda folder: write_png(first(folder), INDEX + 10), "10 ("),
    "colour": (lambda folder: write_png(first(folder), np.zeros((64, 64, 3), np.uint8)), "index mask"),
    "garbage": (lambda folder: first(folder).write_bytes(b"no image"), "not a PNG file"),
    "truncated": (lambda folder: first(folder).write_bytes(first(folder).read_bytes()[:-30]), "png"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_in_folder_and_zip_and_no_zip_is_written(masks: Path, tmp_path: Path, damage: str) -> None:
    break_it, text = DAMAGE[damage]
    break_it(masks)
    expected, place = server("loveda"), tmp_path / "out.zip"
    in_folder = check(masks, expected)
    assert any(text in line for line in in_folder), in_folder
    assert write_zip(place, masks, expected) == in_folder
    assert sorted(tmp_path.iterdir()) == [masks]
    with zipfile.ZipFile(place, "w") as archive:
        for path in masks.rglob("*.png"):
            archive.write(path, path.relative_to(masks).as_posix())
    assert check(place, expected) == in_folder  # the same words, no temporary paths


def test_a_good_folder_makes_a_flat_zip_that_passes_and_is_the_same_every_time(masks: Path, tmp_path: Path) -> None:
    expected, place = server("loveda"), tmp_path / "out.zip"
    (masks / "metrics.json").write_text("{}")  # what a run leaves beside its masks is no part of it
    assert write_zip(place, masks, expected) == []
    with zipfile.ZipFile(place) as archive:
        assert archive.namelist() == sorted(expected.sizes)
        assert archive.read(first(masks).name) == first(masks).read_bytes()
        assert all("/" not in name for name in archive.namelist())
    content = place.read_bytes()
    assert write_zip(place, masks, expected) == []
    assert place.read_bytes() == content


def test_masks_with_palettes_go_to_the_server_as_plain_indices(masks: Path, tmp_path: Path) -> None:
    expected, place = server("loveda"), tmp_path / "out.zip"
    folder = Masks(masks, expected.spec)
    for path in sorted(masks.glob("*.png")):
        index = read_index(path)
        folder.write(path.stem, index)
        with Image.open(path) as image:
            assert image.mode == "P"
            assert image.getpalette()[:21] == [value for colour in expected.spec.colours for value in colour]
        assert np.array_equal(folder.read(path.stem), index)
    assert write_zip(place, masks, expected) == []
    with zipfile.ZipFile(place) as archive, Image.open(archive.open(first(masks).name)) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), read_index(first(masks)))


def test_what_a_zip_can_have_wrong_by_itself(masks: Path, tmp_path: Path) -> None:
    expected, place = server("loveda"), tmp_path / "out.zip"
    write_zip(place, masks, expected)
    with zipfile.ZipFile(place, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(first(masks).name, first(masks).read_bytes())
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("__MACOSX/1.png", b"")
        archive.writestr("../outside.png", b"")
    assert [line.split(" (")[0] for line in check(place, expected)] == [
        "2 files do not belong there",
        "1 files are there twice",
    ]
    assert not (tmp_path.parent / "outside.png").exists()
    place.write_bytes(b"no zip")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        check(place, expected)


def test_the_official_test_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    for name, number in (("loveda", 1796), ("uavid", 150)):
        found = server(name)
        assert len(found.sizes) == found.official == number
        assert found.note is None
    assert {"4191.png", "5986.png"} <= server("loveda").sizes.keys()
    assert "seq21/Labels/000000.png" in server("uavid").sizes


def test_uavid_wants_colours_of_its_classes(tmp_path: Path) -> None:
    expected = Server(uavid.SPEC, {"seq21/Labels/0.png": ((64, 64),)}, coloured=True, official=1)
    path = tmp_path / "seq21" / "Labels" / "0.png"
    path.parent.mkdir(parents=True)
    write_png(path, index_to_colours(INDEX, uavid.SPEC))
    assert check(tmp_path, expected) == []
    write_png(path, INDEX)
    assert "grey pixels" in check(tmp_path, expected)[0]
    write_png(path, index_to_colours(INDEX, loveda.SPEC))
    assert "no class of uavid" in check(tmp_path, expected)[0]


def test_the_tool(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "tools" / "check_submission.py"))["main"]
    assert run_main(main, ["loveda", str(masks)]) == 0
    assert "4 masks, as the server expects them" in capsys.readouterr().out
    first(masks).unlink()
    assert run_main(main, ["loveda", str(masks)]) == 1
    assert "1 of 4 masks are missing" in capsys.readouterr().out
    assert run_main(main, ["loveda", str(tmp_path / "nowhere.zip")]) == 2
    assert "nowhere.zip" in capsys.readouterr().err
