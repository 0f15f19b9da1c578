"""The tests and the measurements of a card work: they run on the CPU with tiny sizes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "chosen", ["not compiled and not test_networks", pytest.param("compiled or test_networks", marks=pytest.mark.slow)]
)
def test_the_tests_of_a_card_pass_on_the_cpu(chosen: str) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", chosen, "tests/gpu", "-p", "no:cacheprovider"]
    environment = os.environ | {"D2LS_GPU_SMOKE": "1"}
    done = subprocess.run(words, check=False, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_a_stage_that_fails_or_hangs_costs_no_other_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def python(text: str) -> gpu.Stage:
        return gpu.Stage(2, lambda session, until, log, _: session.python("-c", text, until=until, log=log))

    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    stages = {"broken": python("raise SystemExit(3)"), "hangs": python(child), "works": python("print('here')")}
    monkeypatch.setattr(gpu, "STAGES", stages)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path), "--minutes", "1", "--stages", *stages])
    monkeypatch.setattr(gpu, "describe_machine", lambda missing: {"card": "none"})
    started = time.monotonic()
    assert gpu.main() == 1
    assert time.monotonic() - started < 30
    outcomes = {name: s["outcome"] for name, s in json.loads((tmp_path / "gpu.json").read_text())["stages"].items()}
    assert outcomes == {"broken": "exit code 3", "hangs": "out of time", "works": "passed"}
    assert "here" in (tmp_path / "works.log").read_text()
    assert "| hangs | out of time |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_the_script_measures_everything_on_the_cpu(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable}
    words = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--smoke", "--output", str(tmp_path)]
    done = subprocess.run(words, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report["stages"]) == list(gpu.STAGES)
    steps = {f"{mode} {step}" for mode in gpu.MODES for step in gpu.STEPS}
    assert set(report["stages"]["eager"]["figures"]) == steps
    assert report["stages"]["demo"]["figures"].keys() >= {"test mIoU", "best val_F1"}
    assert "host waits" in (tmp_path / "gpu.md").read_text()
