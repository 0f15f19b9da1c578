"""Test scripts with --gpus: processes share the images, and the files are those of one process; here on the CPU."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d2ls.cli import test_run
from d2ls.cli.common import run_main
from d2ls.cli.test import script
from d2ls.data.sets import loveda, vaihingen
from tests.cli.test_test_scripts import CheckpointOf, tree

GPUS = ("--device", "cpu", "--gpus", "2")


def run(name: str, *words: object) -> int:
    return run_main(script(name), [str(word) for word in words])


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes' work is done in this one, one after the other; gives how many there were."""
    found: list[int] = []

    def one_after_the_other(gpus: list[str], work: Callable[..., int], arguments: Any, **_: Any) -> int:
        found.append(len(gpus))
        return max(work(number, *arguments) for number in reversed(range(len(gpus))))

    monkeypatch.setattr(test_run, "run_processes", one_after_the_other)
    return found


def files(folder: Path) -> dict[str, Any]:
    """Every file of a run, without its command line."""
    found: dict[str, Any] = tree(folder)
    for name in ("run.json", "metrics.json"):
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (content if name == "run.json" else content.get("run", {})).pop("command", None)
        found[name] = content
    if (table := folder / "metrics.csv").exists():
        found["metrics.csv"] = [row for row in csv.reader(table.open()) if row[:2] != ["run", "command"]]
    assert set(found) >= {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} - {"report.html"}
    return found


@pytest.mark.parametrize(("batch", "processes"), [(1, 2), (2, 2), (3, 1)])
def test_the_files_are_those_of_one_process(
    batch: int, processes: int, data: Path, checkpoint: CheckpointOf, shares: list[int], tmp_path: Path
) -> None:
    words = ("-w", checkpoint(vaihingen.SPEC), "--device", "cpu", "-t", "lr", "-b", batch, "--report")
    assert run("vaihingen", *words, "-o", tmp_path / "one") == 0
    assert run("vaihingen", *words, "-o", tmp_path / "two", *GPUS) == 0
    assert shares == [processes]  # three images: no process without any
    assert files(tmp_path / "two") == files(tmp_path / "one")
    pages = [(tmp_path / folder / "report.html").read_text() for folder in ("one", "two")]
    assert len(pages[0]) == pytest.approx(len(pages[1]), abs=200)  # the command line and the folder


def test_masks_that_exist_are_kept_by_resume_alone(
    data: Path, checkpoint: CheckpointOf, shares: list[int], tmp_path: Path
) -> None:
    words = ("-w", checkpoint(vaihingen.SPEC), "-o", tmp_path, *GPUS)
    assert run("vaihingen", *words) == 0
    before = files(tmp_path)
    first, second, _ = sorted(tmp_path.glob("*.png"))
    second.unlink()
    first.write_bytes((tmp_path / "metrics.csv").read_bytes())  # no mask: whoever keeps it fails
    assert run("vaihingen", *words, "--resume") == 2
    second.unlink(missing_ok=True)
    assert run("vaihingen", *words) == 0
    assert files(tmp_path) == before
    second.unlink()
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.png"))]
    assert run("vaihingen", *words, "--resume") == 0
    assert files(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.png")) if path != second] == times


def test_a_submission(data: Path, checkpoint: CheckpointOf, shares: list[int], tmp_path: Path) -> None:
    words = ("-w", checkpoint(loveda.SPEC))
    assert run("loveda", *words, "-o", tmp_path / "a", "--submission", tmp_path / "a.zip") == 0
    assert run("loveda", *words, "-o", tmp_path / "b", "--submission", tmp_path / "b.zip", *GPUS) == 0
    one, other = (
        {name: archive.read(name) for name in archive.namelist()}
        for archive in (zipfile.ZipFile(tmp_path / f"{name}.zip") for name in "ab")
    )
    assert one == other


@pytest.mark.slow
def test_two_processes(data: Path, checkpoint: CheckpointOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("-w", checkpoint(vaihingen.SPEC))
    assert run("vaihingen", *words, "-o", tmp_path / "one", "--device", "cpu") == 0
    assert run("vaihingen", *words, "-o", tmp_path / "two", *GPUS) == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    told = capfd.readouterr()
    assert told.out.count("note: weights") == told.out.count("3 masks in") == 2  # once a run, not once a process
    (tmp_path / "two" / sorted(tree(tmp_path / "two"))[0]).write_text("no mask")
    assert run("vaihingen", *words, "-o", tmp_path / "two", *GPUS, "--resume") == 2
    assert capfd.readouterr().err.count("error:") == 1
    assert not (tmp_path / "two" / "metrics.json").exists()
