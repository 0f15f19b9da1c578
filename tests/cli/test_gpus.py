"""Processes on several GPUs: which GPU each sees, and how they end."""

import argparse
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from d2ls.cli import gpus
from d2ls.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("number", "device", "visible", "expected"),
    [
        ("all", "auto", None, ["0", "1", "2"]), (2, "cuda", None, ["0", "1"]), (2, "auto", "4,7,9", ["4", "7"]),
        ("all", "auto", "GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b", "GPU-c"]), (2, "cpu", None, [None, None]),
        (4, "auto", None, "shows 3 GPUs"), (1, "cuda:1", None, "--device cuda:1"), ("all", "cpu", None, "--device cpu"),
    ],
)  # fmt: skip
def test_each_process_sees_one_gpu(
    number: int | str,
    device: str,
    visible: str | None,
    expected: list[str | None] | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    options = argparse.Namespace(gpus=number, device=device)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            gpus.choose_gpus(options)
    else:
        assert gpus.choose_gpus(options) == expected


def work(number: int, folder: Path, how: str) -> int:
    """Leave a file; the first process fails in the way that is asked for, the others take their time."""
    import os  # noqa: PLC0415

    (folder / f"{number} on {os.environ.get('CUDA_VISIBLE_DEVICES')}").touch()
    if number == 0 and how == "error":
        raise DataError("a.tif: damaged")
    if number == 0 and how == "killed":
        os._exit(3)
    time.sleep(600 if number and how != "done" else 0)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["done", "error", "killed"])
def test_processes_end_together(how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []

    def start() -> int:
        arguments = (tmp_path, how)
        return gpus.run_processes(["GPU-a", "GPU-b"], work, arguments, together=True, watch=lambda: calls.append(0))

    started = time.monotonic()
    if how == "killed":
        with pytest.raises(DataError, match=r"1 of 2 processes ended early \(exit code 3\)\. .* --resume"):
            start()
    else:
        assert start() == (2 if how == "error" else 0)
    assert time.monotonic() - started < 500  # nobody waited for the other one's ten minutes
    assert capfd.readouterr().err.count("a.tif: damaged") == (how == "error")
    assert calls
    if how == "done":
        assert {path.name for path in tmp_path.iterdir()} == {"0 on GPU-a", "1 on GPU-b"}
