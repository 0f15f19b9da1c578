"""Images and labels that cannot be used, through the test scripts, the check of a data set and a split tool."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2ls.data.io import read_image, read_index, write_png
from d2ls.data.sets import cloud, dubai
from tests.bad_input.running import call, refused

Spoil = Callable[[Path], object]
NEW = ".new"


def replaced(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def saved(change: Callable[[np.ndarray], np.ndarray | Image.Image], suffix: str = ".png", **options: object) -> Spoil:
    """The same picture, changed, in a file of this kind; its name ends as before, so only its content tells."""

    def save(path: Path) -> None:
        picture = change(np.asarray(Image.open(path)))
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        picture.save(path.with_suffix(NEW), format=Image.registered_extensions()[suffix], **options)
        path.with_suffix(NEW).replace(path)

    return save


def by_opencv(change: Callable[[np.ndarray], np.ndarray], suffix: str) -> Spoil:
    return lambda path: path.write_bytes(cv2.imencode(suffix, change(np.asarray(Image.open(path))))[1].tobytes())


def removed(path: Path) -> None:
    path.unlink()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop_instead(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def sizes_in_header(height: int, width: int) -> Callable[[bytes], bytes]:
    """A PNG whose header declares another size, with the right checksum: a decompression bomb."""

    def change(data: bytes) -> bytes:
        header = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]

    return change


def one_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGED: dict[str, tuple[Spoil, str]] = {
    "empty": (replaced(lambda _: b""), "is empty"),
    "text": (replaced(lambda _: b"this is no picture"), "neither PNG, JPEG, TIFF"),
    "cut": (replaced(lambda data: data[: len(data) // 2]), "breaks off"),
    "its last byte missing": (replaced(lambda data: data[:-1]), "breaks off"),
    "one bit": (replaced(one_bit), "a checksum does not hold"),
    "60 000 pixels square": (replaced(sizes_in_header(60_000, 60_000)), "60000 x 60000 pixels, expected at most"),
    "20 000 pixels square": (replaced(sizes_in_header(20_000, 20_000)), "cannot hold 20000 x 20000"),
    "no pixels": (replaced(sizes_in_header(0, 64)), "64 x 0 pixels"),
    "a folder": (folder_instead, "Is a directory"),
    "a pipe": (pipe_instead, "a pipe or a device"),
    "a link to itself": (loop_instead, "Too many levels of symbolic links"),
}
IMAGES: dict[str, tuple[Spoil, str]] = DAMAGED | {
    "16 bits": (by_opencv(lambda rgb: rgb.astype(np.uint16) * 257, ".png"), "16 bits a sample"),
    "floats": (by_opencv(lambda rgb: rgb.astype(np.float32), ".tif"), "32 bits a sample"),
    "grey": (saved(lambda rgb: rgb[..., 0]), "grey pixels where RGB is expected"),
    "transparent": (saved(lambda rgb: np.dstack([rgb, rgb[..., 0] // 2])), "not opaque throughout"),
    "CMYK": (saved(lambda rgb: Image.fromarray(rgb).convert("CMYK"), ".jpg"), "cmyk pixels where RGB is expected"),
}
MASKS: dict[str, tuple[Spoil, str]] = DAMAGED | {
    "no such class": (saved(lambda index: index + 4), "are no class of cloud"),
    "255 and 128": (saved(lambda index: (index > 0).astype(np.uint8) * 128), "128"),
    "colours": (saved(lambda index: np.dstack([index] * 3)), "rgb pixels where an index mask"),
    "16 bits": (saved(lambda index: index.astype(np.uint16) + 300), "uint16 values such as 300"),
    "floats": (by_opencv(lambda index: index.astype(np.float32) + 0.5, ".tif"), "float32 values such as 0.5"),
    "JPEG": (saved(lambda index: index, ".jpg"), "no longer exact"),
    "JPEG in a TIFF": (saved(lambda index: index, ".tif", compression="jpeg"), "no longer exact"),
    "smaller": (saved(lambda index: index[:-1]), "64 x 63 pixels"),
    "turned": (saved(lambda index: index[:, :32].T), "64 x 32 pixels"),
    "one pixel": (saved(lambda index: index[:1, :1]), "1 x 1 pixels"),
}
COLOURS: dict[str, tuple[Spoil, str]] = {
    "unknown colours": (saved(lambda rgb: rgb ^ 1), "no class of dubai"),
    "one unknown pixel": (
        saved(lambda rgb: np.where(np.arange(rgb.size).reshape(rgb.shape) < 3, 9, rgb).astype(np.uint8)),
        "(9, 9, 9) (1 pixels)",
    ),
    "scaled smoothly": (
        saved(lambda rgb: cv2.resize(cv2.resize(rgb, (30, 30)), rgb.shape[1::-1])),
        "no class of dubai",
    ),
    "JPEG": (saved(lambda rgb: rgb, ".jpg", quality=100), "no longer exact"),
    "JPEG in a TIFF": (saved(lambda rgb: rgb, ".tif", compression="jpeg"), "no longer exact"),
    "indices": (saved(lambda rgb: rgb[..., 0]), "grey pixels where RGB is expected"),
    "smaller": (saved(lambda rgb: rgb[1:]), "61 x 49 pixels"),
    "cut": (replaced(lambda data: data[:-30]), "breaks off"),
}


def spoilt(folder: Path, spoil: Spoil) -> Path:
    path = min(folder.iterdir())
    spoil(path)
    return path


READ = {
    "image": (IMAGES, "img_dir/test", cloud.SPEC),
    "mask": (MASKS, "ann_dir/test", cloud.SPEC),
    "colour mask": (COLOURS, "masks/val", dubai.SPEC),
}


@pytest.mark.parametrize(("read", "kind"), [(read, kind) for read, (kinds, *_) in READ.items() for kind in kinds])
def test_what_a_test_script_reads(
    read: str, kind: str, pictures: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    kinds, folder, spec = READ[read]
    spoil, told = kinds[kind]
    path = spoilt(pictures / spec.name / folder, spoil)
    words = ("-w", weights(spec), "-o", "out")
    refused(capfd, f"test_{spec.name}", *words, told=(f"error: {path}: ", told), begun=True)


@pytest.mark.parametrize("kind", ["cut", "no such class", "colours", "smaller", "a pipe"])
def test_the_check_of_a_data_set_names_the_file_and_ends_with_1(
    kind: str, pictures: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = spoilt(pictures / "cloud/ann_dir/test", MASKS[kind][0])
    assert call("check_data", "cloud", "--json", "--workers", 1) == 1
    captured = capfd.readouterr()
    told = {problem["path"] for problem in json.loads(captured.out)["problems"]}
    assert str(path) in told or (kind == "a pipe" and str(path).replace("ann_dir", "img_dir") in told)
    assert captured.err == ""


FOLDERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no images": (
        lambda top: [path.unlink() for path in (top / "img_dir/test").iterdir()],
        ("img_dir/test: no images",),
    ),
    "no folder of images": (lambda top: shutil.rmtree(top / "img_dir/test"), ("img_dir/test: no such folder",)),
    "no folder of masks": (lambda top: shutil.rmtree(top / "ann_dir/test"), ("ann_dir/test: no such folder",)),
    "a file in its place": (
        lambda top: (shutil.rmtree(top / "ann_dir/test"), (top / "ann_dir/test").write_text("")),
        ("ann_dir/test: no such folder",),
    ),
    "a mask too few": (lambda top: min((top / "ann_dir/test").iterdir()).unlink(), ("no mask for 1 of 2 images",)),
    "an image too few": (lambda top: min((top / "img_dir/test").iterdir()).unlink(), ("no image for 1 of 2 masks",)),
    "two of one name": (
        lambda top: shutil.copy(path := min((top / "img_dir/test").iterdir()), path.with_suffix(".tif")),
        ("img_dir/test: ", "share one name"),
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind: str, pictures: Path, weights: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    change, told = FOLDERS[kind]
    change(pictures / "cloud")
    refused(capfd, "test_cloud", "-w", weights(cloud.SPEC), "-o", "out", told=told)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((1, 1), "a b (1)"),
        ((40_000, 100), "'$x; #"),
        ((3, 5), "\N{LATIN SMALL LETTER E WITH ACUTE}\N{CJK UNIFIED IDEOGRAPH-6C34}"),
        ((5, 3), os.fsdecode(b"not UTF-8 \xff")),
    ],
    ids=["one pixel", "40 000 x 100", "not ASCII", "not UTF-8"],
)
def test_unusual_sizes_and_names_are_no_bad_input(
    size: tuple[int, int], name: str, pictures: Path, weights: Callable[..., Path]
) -> None:
    for kind in ("img_dir", "ann_dir"):
        shutil.rmtree(pictures / "cloud" / kind / "test")
        (pictures / "cloud" / kind / "test").mkdir()
    rng = np.random.default_rng(0)
    width, height = size
    write_png(pictures / f"cloud/img_dir/test/{name}.png", rng.integers(256, size=(height, width, 3), dtype=np.uint8))
    truth = rng.integers(4, size=(height, width), dtype=np.uint8)
    write_png(pictures / f"cloud/ann_dir/test/{name}.png", truth)
    assert call("test_cloud", "-w", weights(cloud.SPEC), "-o", "out") == 0
    mask = read_index(Path(f"out/{name}.png"))
    assert mask.shape == truth.shape
    assert json.loads(Path("out/metrics.json").read_text())["OA"] == pytest.approx((mask == truth).mean())


def test_a_training_run_names_the_broken_file(
    run_folder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data, "data")
    monkeypatch.setenv("D2LS_DATA", "data")
    masks = sorted(Path("data/vaihingen/train/masks_1024").iterdir())
    for path in masks:
        write_png(path, read_index(path) + np.uint8(7))
    message = refused(capfd, "train", "-c", "tiny.py", told=("data/vaihingen/train/masks_1024/",), begun=True)
    assert "class" in message


def test_tiles_of_other_sizes_than_their_labels(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, pixels in (("images", np.zeros((40, 40, 3), np.uint8)), ("masks", np.zeros((40, 41, 3), np.uint8))):
        Path(folder).mkdir()
        cv2.imwrite(f"{folder}/top_mosaic_09cm_area1.tif", pixels)
    words = (
        "--img-dir",
        "images",
        "--mask-dir",
        "masks",
        "--output-img-dir",
        "out/images",
        "--output-mask-dir",
        "out/masks",
    )
    told = ("masks/top_mosaic_09cm_area1.tif: 41 x 40 pixels",)
    refused(capfd, "vaihingen_patch_split", *words, "--mode", "val", "--workers", 1, told=told, begun=True)
    assert read_image(Path("images/top_mosaic_09cm_area1.tif")).shape == (40, 40, 3)
