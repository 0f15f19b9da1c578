"""Tools as their users run them: from a shell, or the same command line inside this process, which is quicker."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d2ls.cli.common import run_main

ROOT = Path(__file__).resolve().parents[2]
Outcome = tuple[int, str, str]


def start_tool(tool: str, *arguments: Any, **options: Any) -> subprocess.Popen:
    """Start a tool in a process of its own, from another folder and without an installed package."""
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    environment.pop("PYTHONPATH", None)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", env=environment, **options
    )  # fmt: skip


def run_tool(tool: str, *arguments: Any, **options: Any) -> Outcome:
    """Run a tool in a process of its own: exit code, stdout, stderr."""
    with start_tool(tool, *arguments, **options) as process:
        out, error = process.communicate(timeout=300)
    return process.returncode, out, error


@pytest.fixture
def call_tool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a tool's command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def call(tool: str, *arguments: Any) -> Outcome:
        spec = importlib.util.spec_from_file_location(Path(tool).stem, ROOT / "tools" / tool)
        module = importlib.util.module_from_spec(spec)
        path = list(sys.path)
        spec.loader.exec_module(module)
        sys.path[:] = path
        capsys.readouterr()
        try:
            code = run_main(module.main, [*map(str, arguments)])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
