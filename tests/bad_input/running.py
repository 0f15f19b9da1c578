"""Scripts on wrong input, and what each of them must do, whatever is wrong."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from d2ls.cli.common import EXIT_BAD_INPUT, run_main
from d2ls.data.io import read_image, read_index
from d2ls.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
TOOLS = tuple(sorted(path.stem for path in (ROOT / "tools").glob("*.py")))
TESTS = tuple(sorted(path.stem for path in ROOT.glob("test_*.py")))


@cache
def main_of(script: str) -> Callable[[Any], int]:
    """The main function of a script or tool."""
    if script not in TOOLS:
        return importlib.import_module(script).main
    spec = importlib.util.spec_from_file_location(f"tool_{script}", ROOT / "tools" / f"{script}.py")
    module, path = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module.main


def call(script: str, *words: object) -> int:
    """Run a script's command line in this process; its exit code."""
    try:
        return run_main(main_of(script), [str(word) for word in words])
    except SystemExit as end:  # of argparse
        return end.code


def contents(*folders: Path) -> dict[Path, bytes | None]:
    """Every file and folder below some folders; of files, what is in them. Pipes and broken links are passed over."""
    found: dict[Path, bytes | None] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() or path.is_dir():
                found[path] = path.read_bytes() if path.is_file() else None
    return found


def refused(
    capfd: pytest.CaptureFixture[str], script: str, *words: object, told: tuple[str, ...], begun: bool = False
) -> str:
    """Run a script and check how it refuses: code 2, one message that names things, nothing half-written.

    Args:
        capfd: of pytest; what libraries write to the terminal themselves is seen too.
        script: its name.
        words: its command line.
        told: what the message must name.
        begun: whether output may have been written by then; what there is must be whole.

    Returns:
        The message.
    """
    before = contents(Path.cwd())
    capfd.readouterr()
    code = call(script, *words)
    captured = capfd.readouterr()
    messages = [line for line in captured.err.splitlines() if line.startswith("error: ") or ": error: " in line]
    assert code == EXIT_BAD_INPUT, captured
    assert len(messages) == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    for part in told:
        assert part in captured.err, captured.err
    after = contents(Path.cwd())
    new = {path for path, content in after.items() if before.get(path, b"-") != content}
    assert not before.keys() - after.keys()
    if not begun:
        assert not new, "left behind"
    check_whole(new)
    return messages[0]


def check_whole(paths: set[Path]) -> None:
    """No file of these is half-written, and none tells a score."""
    for path in paths:
        assert path.suffix not in (".part", ".tmp", ".zip", ".ckpt"), path
        assert path.name not in ("metrics.json", "metrics.csv") or "lightning_logs" in path.parts, path
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".png", ".tif"):
            try:
                read_index(path)
            except DataError:
                read_image(path)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Writing fails where a file would grow beyond `room` bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
