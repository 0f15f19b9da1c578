from pathlib import Path

import pytest

from d2ls.data.pairs import Pair, check_sizes, left_out, list_images, match, unique_names
from d2ls.errors import DataError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two images and their masks; `match` opens none of them."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder, suffix in ((images, ".tif"), (masks, ".png")):
        folder.mkdir()
        for stem in ("b", "a 1 \N{LATIN SMALL LETTER E WITH ACUTE}"):
            (folder / (stem + suffix)).touch()
    return images, masks


def test_matches_by_stem_in_order(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    for passed_over in (".hidden.tif", "notes.txt", "a.tif.aux.xml", "._b.tif"):
        (images / passed_over).touch()
    pairs = match(images, masks, "")
    assert [pair.name for pair in pairs] == ["a 1 \N{LATIN SMALL LETTER E WITH ACUTE}", "b"]
    assert pairs[1] == Pair(images / "b.tif", masks / "b.png", "b")
    assert [pair.mask for pair in match(images, None, "")] == [None, None]


def test_suffixes_in_capitals(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.tif").rename(folders[0] / "b.TIF")
    assert len(match(*folders, "")) == 2


def test_missing_masks_are_counted_and_the_first_is_named(folders: tuple[Path, Path]) -> None:
    for stem in "zyx":
        (folders[0] / f"{stem}.tif").touch()
    with pytest.raises(DataError, match=r"masks: no mask for 3 of 5 images \(first: x.tif\).*Use the tool"):
        match(*folders, "Use the tool.")


def test_missing_image(folders: tuple[Path, Path]) -> None:
    (folders[1] / "c.png").touch()
    with pytest.raises(DataError, match=r"images: no image for 1 of 3 masks \(first: c.png\)"):
        match(*folders, "")


def test_one_stem_twice(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.png").touch()
    with pytest.raises(DataError, match=r"b.png and b.tif share one name"):
        match(*folders, "")


def test_missing_and_empty_folders(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder. Use the tool"):
        match(folders[0], tmp_path / "nowhere", "Use the tool.")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no images .*Use the tool"):
        match(tmp_path / "empty", folders[1], "Use the tool.")
    with pytest.raises(DataError, match="cannot list"):
        list_images(tmp_path / "nowhere")


def test_every_format_that_the_libraries_read_is_listed(tmp_path: Path) -> None:
    for suffix in (".tif", ".TIFF", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2", ".gif"):
        (tmp_path / f"{suffix[1:]}{suffix}").touch()
    assert len(list_images(tmp_path)) == 9
    assert left_out(tmp_path) is None


def test_images_that_are_left_out_are_counted_by_kind(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = folders
    assert left_out(images) is None
    for name in ("c.heic", "d.HEIC", "e.jxl", "f.npy", "notes.txt", ".h.npy"):
        (images / name).touch()
    (images / "more").mkdir()
    (masks / "origin").mkdir()
    with pytest.warns(UserWarning) as caught:
        assert len(match(images, masks, "")) == 2
    first, second = (str(warning.message) for warning in caught)
    assert first.startswith(f"{images}: left out: 2 .heic, 1 .jxl, 1 .npy, 1 sub-folder.")
    assert second.startswith(f"{masks}: left out: 1 sub-folder.")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty: no images .*1 sub-folder"):
        match(tmp_path / "empty", masks, "")


def test_names_become_unique() -> None:
    pairs = [
        Pair(Path(f"d/{area}/images/{stem}.png"), None, stem) for area, stem in (("u", "1"), ("r", "1"), ("r", "2"))
    ]
    assert [pair.name for pair in unique_names(pairs, depth=1)] == ["u_1", "r_1", "2"]
    with pytest.raises(DataError, match="occur twice"):
        unique_names([pairs[0], pairs[0]], depth=1)


def test_sizes() -> None:
    pair = Pair(Path("i/a.tif"), Path("m/a.png"), "a")
    check_sizes(pair, (4, 6, 3), (4, 6))
    with pytest.raises(DataError, match=r"m/a.png: 4 x 6 pixels, but its image a.tif has 6 x 4"):
        check_sizes(pair, (4, 6, 3), (6, 4))
