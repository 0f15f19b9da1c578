"""What lies around a command: data that are not there, folders that cannot be written, disks that are full."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from d2ls.data.io import write_png
from d2ls.data.sets import cloud, loveda
from tests.bad_input.running import ROOT, call, contents, full_disk, refused
from tests.drawn import folders
from tests.tiny import write_config

ROOTS = {
    "nowhere": "nowhere",
    "empty folder": "empty",
    "a file": "file.txt",
    "a link to itself": "loop",
    "unset, and no folder data": "",
}


@pytest.fixture
def roots(run_folder: Path) -> None:
    Path("empty").mkdir()
    Path("file.txt").write_text("mine")
    Path("loop").symlink_to("loop")


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize("kind", ROOTS)
@pytest.mark.parametrize("script", ["train", "test_vaihingen", "check_data", "test_uavid"])
def test_data_roots(
    kind: str,
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    weights: Callable[..., Path],
) -> None:
    monkeypatch.setenv("D2LS_DATA", ROOTS[kind])
    words = {
        "train": ("-c", "tiny.py"),
        "test_vaihingen": ("-c", "tiny.py", "-o", "out"),
        "test_uavid": ("-w", weights(cloud.SPEC), "-o", "out"),
        "check_data": ("cloud",),
    }
    refused(capfd, script, *words[script], told=(ROOTS[kind] or "data",))


TARGETS: dict[str, tuple[str, tuple[object, ...]]] = {
    "masks of a test": ("test_cloud", ("-w", "WEIGHTS", "-o", "/dev/null/out")),
    "a picture": ("check_data", ("cloud", "--picture", "/dev/null/a.png", "--workers", 1)),
    "prepared data": ("prepare_data", ("cloud", "--from", "data/cloud", "--to", "/dev/null/data")),
    "converted masks": (
        "loveda_mask_convert",
        ("--mask-dir", "data/cloud/ann_dir/test", "--output-mask-dir", "/dev/null/m"),
    ),
    "patches": (
        "uavid_patch_split",
        (
            "--input-dir",
            "data/uavid/uavid_val",
            "--output-img-dir",
            "/dev/null/i",
            "--output-mask-dir",
            "m",
            "--mode",
            "val",
        ),
    ),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_folders_that_cannot_be_made(
    kind: str, pictures: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    script, words = TARGETS[kind]
    good = weights(cloud.SPEC)
    refused(capfd, script, *(good if word == "WEIGHTS" else word for word in words), told=("/dev/null",))


@pytest.mark.parametrize("setting", ["weights_path=/dev/null/w", "log_name=/dev/null/l", "weights_path=tiny.py"])
def test_a_training_run_that_cannot_write(setting: str, run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused(capfd, "train", "-c", "tiny.py", setting, told=(setting.partition("=")[2],), begun=True)


@pytest.mark.parametrize("script", ["test_cloud", "check_data", "train"])
def test_folders_that_may_not_be_written(
    script: str,
    pictures: Path,
    weights: Callable[..., Path],
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As the system refuses it; tests often run as root, whom it refuses nothing."""

    def refuse(*_: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(options.get("dir")))

    write_config(Path())
    if script == "train":
        monkeypatch.setenv("D2LS_DATA", str(tiny_data))
    for name in ("NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    words, told = {
        "test_cloud": (("-w", weights(cloud.SPEC), "-o", "out"), "out/run.json: cannot be written"),
        "check_data": (("cloud", "--picture", "a.png", "--workers", 1), "a.png: cannot be written"),
        "train": (("-c", "tiny.py"), "weights_path='model_weights/vaihingen/tiny' cannot be written"),
    }[script]
    refused(capfd, script, *words, told=(f"{told}: Permission denied",), begun=True)


FULL: dict[str, tuple[str, tuple[object, ...]]] = {
    "masks of a test": ("test_cloud", ("-w", "WEIGHTS", "-o", "out", "--rgb")),
    "a picture": ("check_data", ("cloud", "--picture", "a.png", "--workers", 1)),
    "converted masks": ("loveda_mask_convert", ("--mask-dir", "data/LoveDA", "--output-mask-dir", "m", "--workers", 1)),
}


@pytest.mark.parametrize("kind", FULL)
def test_full_disks(kind: str, pictures: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    """There is room for messages and records, but not for a picture of noise."""
    script, words = FULL[kind]
    good, rng = weights(cloud.SPEC), np.random.default_rng(0)
    for folder in ("cloud/img_dir/test", "cloud/ann_dir/test", "LoveDA"):
        shutil.rmtree(pictures / folder, ignore_errors=True)
        (pictures / folder).mkdir()
        shape = (200, 200, 3) if "img" in folder else (200, 200)
        write_png(pictures / folder / "noise.png", rng.integers(4, size=shape, dtype=np.uint8))
    with full_disk(4000):
        told = ("cannot be written: File too large",)
        refused(capfd, script, *(good if word == "WEIGHTS" else word for word in words), told=told, begun=True)


def test_a_disk_that_is_full_at_the_checkpoint(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with full_disk(200_000):
        refused(capfd, "train", "-c", "tiny.py", "max_epoch=1", told=("model_weights/vaihingen/tiny/",), begun=True)
    assert not [path for path in Path("model_weights").rglob("*.*") if path.suffix in (".ckpt", ".part")]


def test_a_disk_that_is_full_at_the_zip(
    tmp_path: Path, weights: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2LS_DATA", "data")
    folders.write_loveda(Path("data"), size=64, train=1, val=1, test=8)
    words = ("-w", weights(loveda.SPEC), "-o", "out", "--submission", "a.zip")
    assert call("test_loveda", *words) == 0
    Path("a.zip").unlink()
    largest = max(path.stat().st_size for path in Path("out").iterdir())
    with full_disk(largest + 10):
        refused(
            capfd, "test_loveda", *words, "--resume", told=("a.zip: cannot be written: File too large",), begun=True
        )
    assert not [path for path in Path().iterdir() if "zip" in path.name]


@pytest.mark.slow
def test_as_a_real_process(pictures: Path, weights: Callable[..., Path]) -> None:
    mask = min((pictures / "cloud/ann_dir/test").iterdir())
    mask.write_bytes(mask.read_bytes()[:-20])
    checkpoint = weights(cloud.SPEC)
    command = [sys.executable, str(ROOT / "test_cloud.py"), "-w", str(checkpoint), "-o", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (2, f"note: weights: {checkpoint}\n")
    assert done.stderr.startswith(f"error: {mask}: ")
    assert "breaks off before its end" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.suffix for path in contents(Path("out"))} <= {".json", ".png"}
    assert not Path("out/metrics.json").exists()
