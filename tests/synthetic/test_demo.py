"""The demo's data: made once, completed after an interruption, never over anyone's files."""

import json
import multiprocessing
from pathlib import Path

import pytest

from d2ls.data.sets import vaihingen
from d2ls.errors import DataError
from d2ls.synthetic import prepare as demo
from d2ls.synthetic import prepare_demo


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in (("TRAIN", 4), ("VALIDATION", 1), ("TEST", 2), ("SIZE", 64)):
        monkeypatch.setattr(demo, name, value)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_vaihingens_layout_with_a_validation_tile(tmp_path, monkeypatch):
    monkeypatch.setenv("D2LS_DATA", str(tmp_path))
    assert prepare_demo(progress=False) == tmp_path / "demo"
    sizes = [len(part(folder="demo")) for part in (vaihingen.train, vaihingen.val, vaihingen.test)]
    assert sizes == [4, 1, 2]


def test_a_second_call_draws_nothing(tmp_path, monkeypatch):
    folder = prepare_demo(tmp_path, progress=False)
    before = _contents(folder)

    def forbidden(*args, **options):
        raise AssertionError("drew again")

    monkeypatch.setattr(demo, "write_piece", forbidden)
    prepare_demo(tmp_path, progress=False)
    assert _contents(folder) == before


@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_interrupted_run_is_completed(tmp_path, monkeypatch, after):
    clean = _contents(prepare_demo(tmp_path / "clean", progress=False))
    real, drawn = demo.write_piece, []

    def interrupted(piece):
        if len(drawn) == after:
            raise KeyboardInterrupt
        drawn.append(piece)
        real(piece)

    monkeypatch.setattr(demo, "write_piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path, progress=False)
    assert not json.loads((tmp_path / "demo" / "drawn_by_d2ls.json").read_text())["complete"]
    monkeypatch.setattr(demo, "write_piece", real)
    assert _contents(prepare_demo(tmp_path, progress=False)) == clean


def test_a_deleted_file_comes_back(tmp_path):
    folder = prepare_demo(tmp_path, progress=False)
    before = _contents(folder)
    next((folder / "train" / "masks_1024").iterdir()).unlink()
    assert _contents(prepare_demo(tmp_path, progress=False)) == before


def test_another_version_replaces_its_own_files_and_no_others(tmp_path, monkeypatch):
    folder = prepare_demo(tmp_path, progress=False)
    old = _contents(folder)
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    monkeypatch.setattr(demo, "TRAIN", 3)
    new = _contents(prepare_demo(tmp_path, progress=False))
    assert new.pop("notes.txt") == b"mine"
    fresh = _contents(prepare_demo(tmp_path / "fresh", progress=False))
    assert new == fresh
    assert len(new) == len(old) - 2
    assert not set(new.values()) & set(old.values())


def test_an_interrupted_change_of_version_leaves_no_old_picture(tmp_path, monkeypatch):
    prepare_demo(tmp_path, progress=False)
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    real = demo.write_piece
    monkeypatch.setattr(demo, "write_piece", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path, progress=False)
    monkeypatch.setattr(demo, "write_piece", real)
    fresh = _contents(prepare_demo(tmp_path / "fresh", progress=False))
    assert _contents(prepare_demo(tmp_path, progress=False)) == fresh


def test_a_marker_cannot_delete_outside_the_folder(tmp_path):
    folder = prepare_demo(tmp_path, progress=False)
    mine = tmp_path / "mine.tif"
    mine.write_bytes(b"mine")
    marker = json.loads((folder / "drawn_by_d2ls.json").read_text())
    marker["files"].append("../mine.tif")
    marker["version"] = 0
    (folder / "drawn_by_d2ls.json").write_text(json.dumps(marker))
    prepare_demo(tmp_path, progress=False)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["train/images_1024/mine.tif", "mine.txt"])
def test_a_folder_of_someone_elses_is_refused(tmp_path, name):
    path = tmp_path / "demo" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match="not drawn for the demo"):
        prepare_demo(tmp_path, progress=False)
    assert _contents(tmp_path) == {f"demo/{name}": b"mine"}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 1'])
def test_a_damaged_marker_is_an_error_that_names_it(tmp_path, text):
    folder = prepare_demo(tmp_path, progress=False)
    (folder / "drawn_by_d2ls.json").write_text(text)
    with pytest.raises(DataError, match=r"drawn_by_d2ls\.json.*cannot be read"):
        prepare_demo(tmp_path, progress=False)


def _prepare(root: Path) -> None:
    demo.TRAIN, demo.VALIDATION, demo.TEST, demo.SIZE = 4, 1, 2, 64
    prepare_demo(root, progress=False)


def test_two_processes_may_call_it_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_prepare, args=(tmp_path / "both",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert _contents(tmp_path / "both" / "demo") == _contents(prepare_demo(tmp_path / "one", progress=False))
