"""Command lines that say too little, too much, or what would harm the user's own files."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2ls.data.sets import cloud, uavid
from tests.bad_input.running import TESTS, TOOLS, contents, refused

TILE = "top_mosaic_09cm_area1"


@pytest.mark.parametrize("script", ["train", *TESTS, *TOOLS])
def test_nothing_said(script: str, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capfd, script, told=(" error: ", "-"))


@pytest.mark.parametrize("script", ["train", *TESTS, *TOOLS])
def test_an_option_that_is_not_there(
    script: str, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capfd, script, "--colour-blind", told=(" error: ",))


TEST: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no network": (("-o", "out"), ("-c", "-w")),
    "no output": (("-w", "GOOD"), ("-o",)),
    "an output that is a file": (("-w", "GOOD", "-o", "file.txt"), ("file.txt is a file",)),
    "an output below a file": (("-w", "GOOD", "-o", "file.txt/out"), ("file.txt",)),
    "an output that is a device": (("-w", "GOOD", "-o", "/dev/null"), ("/dev/null is a file",)),
    "an output that links to itself": (("-w", "GOOD", "-o", "loop"), ("loop",)),
    "masks among the images": (("-w", "GOOD", "-o", "data/cloud/img_dir/test"), ("-o", "data/cloud/img_dir/test")),
    "masks in the place of the labels": (("-w", "GOOD", "-o", "data/cloud/ann_dir/test"), ("data/cloud/ann_dir/test",)),
    "the same, by a detour": (("-w", "GOOD", "-o", "data/../link"), ("data/cloud/ann_dir/test",)),
    "views": (("-w", "GOOD", "-o", "out", "-t", "all"), ("-t", "'all'")),
    "a batch of 0": (("-w", "GOOD", "-o", "out", "-b", "0"), ("-b", "0: expected a whole number above 0")),
    "a batch of words": (("-w", "GOOD", "-o", "out", "-b", "many"), ("-b", "many: expected a whole number above 0")),
    "workers": (("-w", "GOOD", "-o", "out", "--workers", "-1"), ("--workers",)),
    "half a view": (("-w", "GOOD", "-o", "out", "--tta-batch", "0.5"), ("--tta-batch", "0.5: expected")),
    "precision": (("-w", "GOOD", "-o", "out", "--precision", "8"), ("--precision", "'8'")),
    "device": (("-w", "GOOD", "-o", "out", "--device", "warp"), ("--device warp",)),
    "a device that is not there": (("-w", "GOOD", "-o", "out", "--device", "cuda:99"), ("--device cuda:99",)),
    "legend": (("-w", "GOOD", "-o", "out", "--legend", "mine"), ("--legend", "'mine'")),
    "settings without a config": (("-w", "GOOD", "-o", "out", "stages=2"), ("stages=2", "-c")),
    "a config that is not there": (("-c", "gone.py", "-o", "out"), ("no config file gone.py",)),
    "a checkpoint that is not there": (("-w", "gone.ckpt", "-o", "out"), ("no weight file gone.ckpt",)),
}


@pytest.fixture
def place(pictures: Path) -> Path:
    """The working folder, with a file, a link to itself and one to the labels."""
    Path("file.txt").write_text("mine")
    Path("loop").symlink_to("loop")
    Path("link").symlink_to("data/cloud/ann_dir/test")
    return pictures


@pytest.mark.parametrize("kind", TEST)
def test_of_the_test_scripts(
    kind: str, place: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    words, told = TEST[kind]
    good = weights(cloud.SPEC)
    refused(capfd, "test_cloud", *(good if word == "GOOD" else word for word in words), told=told)


FRAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "overlap of 2": (("-o", "out", "--overlap", "2"), ("overlap by 2.0",)),
    "overlap of nothing known": (("-o", "out", "--overlap", "nan"), ("overlap by nan",)),
    "overlap in words": (("-o", "out", "--overlap", "half"), ("--overlap", "'half'")),
    "windows of two kinds": (("-o", "out", "-pw", "64", "--window", "64"), ("--window and -ph or -pw",)),
    "windows of no height": (("-o", "out", "-ph", "0"), ("-ph", "0: expected a whole number above 0")),
    "classes": (("-o", "out", "-d", "mars"), ("-d", "'mars'")),
    "indices and colours": (("-o", "out", "--rgb", "--index"), ("--rgb and --index",)),
    "frames that are not there": (("-o", "out", "-i", "gone"), ("gone: no folders seqN/Images",)),
    "frames that are a file": (("-o", "out", "-i", "file.txt"), ("file.txt: no folders seqN/Images",)),
    "masks in the place of the labels": (
        ("-o", "data/uavid/uavid_val", "-i", "data/uavid/uavid_val"),
        ("uavid_val/seq",),
    ),
    "a zip in no folder": (("-o", "out", "--submission", "gone/a.zip"), ("--submission gone/a.zip", "no folder gone")),
    "indices for the server": (
        ("-o", "out", "--submission", "a.zip", "--index"),
        ("--submission", "leave out --index"),
    ),
    "other classes for the server": (("-o", "out", "--submission", "a.zip", "-d", "pv"), ("--submission", "uavid")),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_of_the_script_for_frames(
    kind: str, place: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    words, told = FRAMES[kind]
    refused(capfd, "test_uavid", "-w", weights(uavid.SPEC), *words, told=told)


SPLIT = {
    "--img-dir": "images",
    "--mask-dir": "masks",
    "--output-img-dir": "out/i",
    "--output-mask-dir": "out/m",
    "--mode": "val",
}
SPLITS: dict[str, tuple[dict[str, str | None], tuple[str, ...]]] = {
    "no mode": ({"--mode": None}, ("--mode",)),
    "an unknown mode": ({"--mode": "test"}, ("--mode", "'test'")),
    "no images": ({"--img-dir": "gone"}, ("gone: no such folder",)),
    "no masks": ({"--mask-dir": "empty"}, ("empty: no masks",)),
    "images that are a file": ({"--img-dir": "file.txt"}, ("file.txt: no such folder",)),
    "patches among the images": ({"--output-img-dir": "images"}, ("images: the originals lie here",)),
    "patches among the labels": ({"--output-mask-dir": "masks"}, ("masks: the originals lie here",)),
    "one folder for both": ({"--output-mask-dir": "out/i"}, ("out/i: images and masks",)),
    "an output that is a file": ({"--output-img-dir": "file.txt"}, ("file.txt",)),
    "patches of no size": ({"--split-size": "0"}, ("--split-size", "0: expected")),
    "half a step": ({"--stride": "1.5"}, ("--stride", "1.5: expected")),
    "a scale in training": ({"--mode": "train", "--val-scale": "2"}, ("--val-scale is 2.0",)),
    "a scale of 0": ({"--val-scale": "0"}, ("val-scale is 0.0",)),
    "a scale that is no number": ({"--val-scale": "nan"}, ("val-scale is nan",)),
    "no process": ({"--workers": "0"}, ("--workers", "0: expected")),
    "eroded labels that are not there": ({"--eroded": ""}, ("masks: no masks", "_noBoundary")),
    "an unknown wish": ({"--unknown": "guess"}, ("--unknown", "'guess'")),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_of_a_split_tool(kind: str, tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "masks"):
        Path(folder).mkdir()
        cv2.imwrite(f"{folder}/{TILE}.tif", np.full((40, 40, 3), 255, np.uint8))
    Path("empty").mkdir()
    Path("file.txt").write_text("mine")
    changes, told = SPLITS[kind]
    words = [word for pair in (SPLIT | changes).items() if pair[1] is not None for word in pair if word]
    before = contents(Path("images"), Path("masks"))
    refused(capfd, "vaihingen_patch_split", *words, told=told)
    assert contents(Path("images"), Path("masks")) == before


def zip_of(name: str, members: dict[str, bytes], **options: int) -> None:
    with zipfile.ZipFile(name, "w", **options) as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def bomb(name: str) -> None:
    """An archive that declares a file of 200 GB."""
    zip_of(name, {f"{TILE}.tif": b"x"})
    data = bytearray(Path(name).read_bytes())
    place = data.rindex(b"PK\1\2")
    data[place + 24 : place + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    Path(name).write_bytes(data)


TOOL: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "prepare what nobody knows": ("prepare_data", ("mars", "--from", "empty"), ("'mars'",)),
    "prepare from nowhere": ("prepare_data", ("cloud", "--from", "gone"), ("gone: no such folder",)),
    "prepare from a file": ("prepare_data", ("cloud", "--from", "file.txt"), ("file.txt: no such folder",)),
    "prepare from nothing": ("prepare_data", ("cloud", "--from", "empty"), ("empty: nothing of cloud found",)),
    "prepare into a file": ("prepare_data", ("cloud", "--from", "data/cloud", "--to", "file.txt"), ("file.txt",)),
    "a broken archive": ("prepare_data", ("vaihingen", "--from", "broken"), ("a.zip: no readable zip archive",)),
    "an archive that leads out": ("prepare_data", ("vaihingen", "--from", "out"), ("'../x.tif' would leave",)),
    "an archive that bursts": (
        "prepare_data",
        ("vaihingen", "--from", "bomb"),
        ("a.zip", f"{TILE}.tif", "4294967280 bytes"),
    ),
    "an archive of itself": ("prepare_data", ("vaihingen", "--from", "nested"), ("archives inside archives",)),
    "check what nobody knows": ("check_data", ("mars",), ("'mars'",)),
    "check nothing": ("check_data", ("cloud", "--root", "empty"), ("empty: no folders of cloud",)),
    "check a file": ("check_data", ("cloud", "--root", "file.txt"), ("file.txt: no folders of cloud",)),
    "a picture among the images": (
        "check_data",
        ("cloud", "--picture", "data/cloud/img_dir/test/a.png"),
        ("a.png", "part of the data set"),
    ),
    "a picture below a file": ("check_data", ("cloud", "--picture", "file.txt/a.png"), ("file.txt",)),
    "a submission to nobody": ("check_submission", ("mars", "empty"), ("'mars'",)),
    "a submission that is not there": ("check_submission", ("loveda", "gone.zip"), ("gone.zip",)),
    "a submission that is no zip": (
        "check_submission",
        ("loveda", "file.txt"),
        ("file.txt", "neither a folder nor a zip"),
    ),
    "masks that are not there": (
        "loveda_mask_convert",
        ("--mask-dir", "gone", "--output-mask-dir", "x"),
        ("gone: no such",),
    ),
    "no masks": ("loveda_mask_convert", ("--mask-dir", "empty", "--output-mask-dir", "x"), ("empty: no masks in it",)),
    "masks in the place of masks": (
        "loveda_mask_convert",
        ("--mask-dir", "data/cloud/ann_dir/test", "--output-mask-dir", "data/cloud/ann_dir/test"),
        ("ann_dir/test", "would replace the published ones"),
    ),
    "frames that are not there": (
        "uavid_patch_split",
        ("--input-dir", "gone", "--output-img-dir", "i", "--output-mask-dir", "m", "--mode", "val"),
        ("gone: no such folder",),
    ),
    "frames into one folder": (
        "uavid_patch_split",
        ("--input-dir", "data/uavid/uavid_val", "--output-img-dir", "i", "--output-mask-dir", "i", "--mode", "val"),
        ("i: images and masks",),
    ),
    "an infrared tile of Potsdam": (
        "potsdam_patch_split",
        (
            "--img-dir",
            "empty",
            "--mask-dir",
            "empty",
            "--output-img-dir",
            "i",
            "--output-mask-dir",
            "m",
            "--mode",
            "val",
        ),
        ("empty: no images", "_IRRG"),
    ),
}


@pytest.mark.parametrize("kind", TOOL)
def test_of_tools(kind: str, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("empty", "broken", "out", "bomb", "nested"):
        Path(folder).mkdir()
    Path("broken/a.zip").write_bytes(b"PK\3\4 and nothing more")
    zip_of("out/a.zip", {"../x.tif": b"x"})
    bomb("bomb/a.zip")
    zip_of("nested/a.zip", {"inner.txt": b"x"})
    for _ in range(8):
        zip_of("nested/a.zip", {"a.zip": Path("nested/a.zip").read_bytes()}, compression=zipfile.ZIP_DEFLATED)
    tool, words, told = TOOL[kind]
    refused(capfd, tool, *words, told=told)
