import errno
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.errors import CheckpointError
from d2ls.models.weight_files import load_file
from d2ls.training import checkpoint_io as saving
from d2ls.training.checkpoint_io import WholeCheckpoints, clear_leftovers, previous_of, quarantine, write_checkpoint

CONTENT = {"state_dict": {"weight": torch.arange(600.0), "bias": torch.ones(3)}, "epoch": 3}


def test_previous_is_kept_from_the_second_checkpoint_on(tmp_path: Path) -> None:
    path = tmp_path / "new/last.ckpt"
    writer = WholeCheckpoints()
    for epoch in range(3):
        writer.save_checkpoint({"epoch": epoch}, str(path))
        assert load_file(path) == {"epoch": epoch}
        assert previous_of(path).exists() == (epoch > 0)
    assert load_file(previous_of(path)) == {"epoch": 1}
    assert sorted(file.name for file in path.parent.iterdir()) == ["last-previous.ckpt", "last.ckpt"]


def test_another_runs_checkpoints_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for _ in range(2):
        write_checkpoint({"epoch": 29}, path, keep=True)
    WholeCheckpoints().save_checkpoint({"epoch": 0}, path)
    assert not previous_of(path).exists()
    write_checkpoint({"epoch": 1}, path, keep=True)
    WholeCheckpoints(continued=True).save_checkpoint({"epoch": 2}, path)
    assert load_file(previous_of(path)) == {"epoch": 1}


def test_other_checkpoints_have_no_previous(tmp_path: Path) -> None:
    writer = WholeCheckpoints(continued=True)
    for epoch in range(2):
        writer.save_checkpoint({"epoch": epoch}, tmp_path / "best.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_disk_without_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "last.ckpt"
    for epoch in range(2):
        write_checkpoint({"epoch": epoch}, path, keep=True)
    assert (load_file(previous_of(path)), load_file(path)) == ({"epoch": 0}, {"epoch": 1})


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)

    def full(_: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving.torch, "save", full)
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt cannot be written: No space left .*; last\.ckpt is as it was"
    ):
        write_checkpoint({}, path)
    assert load_file(path)["epoch"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    path, content = tmp_path / "last.ckpt", {"t": torch.zeros(10**6)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="^" + re.escape(f"{path} cannot be written: ")):
            write_checkpoint(content, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_damage_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.ckpt"
    write_checkpoint(CONTENT, path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    kind = data.draw(st.sampled_from(["cut", "zeros"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    if kind == "cut":
        del damaged[at:]
    else:
        damaged[at:] = bytes(len(whole) - at)
    path.write_bytes(damaged)
    if bytes(damaged) == whole:
        return
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt cannot be read as a weight file"):
        load_file(path)


def test_a_flipped_bit_in_a_tensor_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    whole = bytearray(path.read_bytes())
    at = bytes(whole).index(torch.arange(600.0).numpy().tobytes()) + 1001
    whole[at] ^= 4
    path.write_bytes(whole)
    with pytest.raises(CheckpointError):
        load_file(path)


def test_leftovers_of_dead_writers_alone_are_cleared(tmp_path: Path) -> None:
    host, now = socket.gethostname(), time.time()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    expected = {
        f".last.ckpt.{host}.{dead.pid}.part": False,
        f".last-previous.ckpt.{host}.{os.getpid()}.part": False,  # of an earlier process of this number
        f".last.ckpt.{host}.{os.getppid()}.part": True,
        ".tiny.ckpt.node7.cluster.12.part": True,
        ".tiny-epoch=3.ckpt.node8.13.part": False,
        ".other.part": True,
        "last.ckpt": True,
    }
    for name in expected:
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / ".tiny-epoch=3.ckpt.node8.13.part", (now - 4000, now - 4000))
    removed = clear_leftovers(tmp_path)
    assert {name: (tmp_path / name).exists() for name in expected} == expected
    assert {path.name for path in removed} == {name for name, stays in expected.items() if not stays}
    assert clear_leftovers(tmp_path / "gone") == []


def test_quarantine(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"x")
    assert quarantine(tmp_path / "last.ckpt").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["last-unreadable.ckpt"]
    quarantine(tmp_path / "last.ckpt")


def test_a_reader_that_is_killed_while_a_checkpoint_is_written_is_no_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: Any) -> None:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # torch's writer, as it is closed

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid 7\)"):
        write_checkpoint({}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())
