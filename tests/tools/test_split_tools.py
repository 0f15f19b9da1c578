import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.preparation import oracle
from tests.tools.conftest import run_tool, start_tool


def isprs(images, masks, output, mode, *more, size=64, stride=32):
    return (
        "--img-dir", images, "--mask-dir", masks, "--output-img-dir", output / "images_64",
        "--output-mask-dir", output / "masks_64", "--mode", mode, "--split-size", size, "--stride", stride, *more,
    )  # fmt: skip


def write_tiles(folder, names, image_ending="", mask_ending="", shape=(150, 101), cars=0.02):
    drawn = {}
    for at, name in enumerate(names):
        image, mask = oracle.draw(np.random.default_rng(at), shape, cars=cars)
        oracle.save(folder / "images" / f"{name}{image_ending}.tif", image, compression="tiff_lzw")
        oracle.save(folder / "masks" / f"{name}{mask_ending}.tif", mask, compression="tiff_lzw")
        drawn[name] = image, mask
    return drawn


def check(output, drawn, stride, variants):
    """Compare both folders with the plain way; crops around cars are left to their own test. Gives the crops' names."""
    images, masks = oracle.read_folder(output / "images_64"), oracle.read_folder(output / "masks_64")
    assert [Path(name).stem for name in images] == [Path(name).stem for name in masks]
    assert all(name.endswith(".tif") for name in images)
    expected = {}
    for stem, (image, mask) in drawn.items():
        for (variant, k), patch in oracle.patches(image, oracle.to_index(mask), 64, stride, variants).items():
            expected[f"{stem}_{variant}_{k}"] = patch
    whole = {Path(name).stem for name in images} & expected.keys()
    for name in whole:
        np.testing.assert_array_equal(images[f"{name}.tif"], expected[name][0])
        np.testing.assert_array_equal(masks[f"{name}.png"], expected[name][1])
    crops = {Path(name).stem for name in images} - whole
    assert crops == {f"{name}_{part}" for name in expected.keys() - whole for part in range(4)}
    return crops


def test_vaihingen_training(tmp_path):
    drawn = write_tiles(tmp_path, ["top_mosaic_09cm_area1", "top_mosaic_09cm_area30"])
    arguments = isprs(tmp_path / "images", tmp_path / "masks", tmp_path / "out", "train")
    code, out, error = run_tool("vaihingen_patch_split.py", *arguments)
    assert (code, error) == (0, "")
    assert check(tmp_path / "out", drawn, 32, 3)
    number = len(list((tmp_path / "out/images_64").iterdir()))
    assert f"{number} patches in" in out
    assert "Building" in out


def test_vaihingen_colour_masks_of_eroded_labels(call_tool, tmp_path):
    drawn = write_tiles(tmp_path, ["top_mosaic_09cm_area2"], mask_ending="_noBoundary")
    arguments = isprs(tmp_path / "images", tmp_path / "masks", tmp_path / "out", "val", "--eroded", "--gt", stride=64)
    code, _out, error = call_tool("vaihingen_patch_split.py", *arguments, "--val-scale", "1.0")
    assert (code, error) == (0, "")
    _image, mask = drawn["top_mosaic_09cm_area2"]
    padded = np.pad(mask, ((-150 % 64, 0), (-101 % 64, 0), (0, 0)))
    for k in range(6):
        y, x = 64 * (k // 2), 64 * (k % 2)
        patch = oracle.read(tmp_path / f"out/masks_64/top_mosaic_09cm_area2_0_{k}.png")
        np.testing.assert_array_equal(patch, padded[y : y + 64, x : x + 64])
    np.testing.assert_array_equal(oracle.read(tmp_path / "out/masks_64/origin/top_mosaic_09cm_area2.tif"), mask)
    assert len(list((tmp_path / "out").rglob("*.*"))) == 13


@pytest.mark.parametrize("rgb", [True, False])
def test_potsdam(call_tool, tmp_path, rgb):
    drawn = write_tiles(tmp_path, ["top_potsdam_2_10"], "_RGB" if rgb else "_IRRG", "_label", cars=0.4)
    write_tiles(tmp_path, ["top_potsdam_2_10"], "_IRRG" if rgb else "_RGB", "_label_noBoundary", cars=0)
    mode, flags = ("train", ["--rgb-image"]) if rgb else ("val", [])
    code, _out, error = (run_tool if rgb else call_tool)(
        "potsdam_patch_split.py", *isprs(tmp_path / "images", tmp_path / "masks", tmp_path / "out", mode, *flags)
    )
    assert (code, error) == (0, "")
    assert not check(tmp_path / "out", drawn, 32, 3 if rgb else 1)


def test_the_off_palette_tiles_of_potsdam_are_mentioned(call_tool, tmp_path):
    drawn = write_tiles(tmp_path, ["top_potsdam_6_7", "top_potsdam_4_12"], "_RGB", "_label")
    cars = drawn["top_potsdam_6_7"][1].copy()
    cars[(cars == (255, 255, 0)).all(axis=2)] = (252, 255, 0)
    oracle.save(tmp_path / "masks/top_potsdam_6_7_label.tif", cars)
    lossy = np.where(drawn["top_potsdam_4_12"][1] > 0, 231, 17).astype(np.uint8)
    oracle.save(tmp_path / "masks/top_potsdam_4_12_label.tif", lossy)
    arguments = isprs(tmp_path / "images", tmp_path / "masks", tmp_path / "out", "val", "--rgb-image")
    code, out, error = call_tool("potsdam_patch_split.py", *arguments)
    assert (code, error) == (0, "")
    assert not check(tmp_path / "out", drawn, 32, 1)
    assert "top_potsdam_6_7_label.tif: official labels off their palette" in out
    assert "top_potsdam_4_12_label.tif: official labels off their palette" in out


def test_uavid(tmp_path):
    rng, frames = np.random.default_rng(0), {}
    for sequence, width in (("seq12", 3840),):
        image, mask = (a.repeat(8, 0).repeat(8, 1) for a in oracle.draw(rng, (270, width // 8), oracle.UAVID))
        oracle.save(tmp_path / f"in/{sequence}/Images/000300.png", image)
        oracle.save(tmp_path / f"in/{sequence}/Labels/000300.png", mask)
        frames[sequence] = image, mask
    code, _out, error = run_tool(
        "uavid_patch_split.py", "--input-dir", tmp_path / "in", "--output-img-dir", tmp_path / "out/images",
        "--output-mask-dir", tmp_path / "out/masks", "--mode", "train", "--split-size-h", 1024, "--split-size-w", 1024,
        "--stride-h", 1024, "--stride-w", 1024,
    )  # fmt: skip
    assert (code, error) == (0, "")
    images, masks = oracle.read_folder(tmp_path / "out/images"), oracle.read_folder(tmp_path / "out/masks")
    assert images.keys() == masks.keys() == {f"{seq}_000300_0_{k}.png" for seq in frames for k in range(8)}
    for sequence, (frame, mask) in frames.items():
        left = 4096 - frame.shape[1]
        image = np.pad(frame[-2048:], ((0, 0), (left, 0), (0, 0)))
        index = np.pad(oracle.to_index(mask[-2048:], oracle.UAVID), ((0, 0), (left, 0)), constant_values=255)
        for k in range(8):
            place = np.s_[1024 * (k // 4) :, 1024 * (k % 4) :]
            np.testing.assert_array_equal(images[f"{sequence}_000300_0_{k}.png"], image[place][:1024, :1024])
            np.testing.assert_array_equal(masks[f"{sequence}_000300_0_{k}.png"], index[place][:1024, :1024])


def test_loveda(call_tool, tmp_path):
    raw = np.random.default_rng(0).integers(8, size=(33, 47), dtype=np.uint8)
    for name in ("7", "12"):
        oracle.save(tmp_path / f"masks_png/{name}.png", raw)
    target = tmp_path / "masks_png_convert"
    code, out, error = run_tool(
        "loveda_mask_convert.py", "--mask-dir", tmp_path / "masks_png", "--output-mask-dir", target
    )
    assert (code, error) == (0, "")
    for name in ("7", "12"):
        np.testing.assert_array_equal(oracle.read(target / f"{name}.png"), np.array([7, 0, 1, 2, 3, 4, 5, 6])[raw])
        colours = oracle.read(tmp_path / f"masks_png_convert_rgb/{name}.png")
        table = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0)]
        np.testing.assert_array_equal(colours, np.array([*table, (255, 195, 128)])[raw])
    assert "2 masks in" in out
    oracle.save(tmp_path / "masks_png/9.png", raw + 1)
    code, out, error = call_tool(
        "loveda_mask_convert.py", "--mask-dir", tmp_path / "masks_png", "--output-mask-dir", target
    )
    assert code == 2
    assert "masks_png/9.png: " in error
    assert " 8 (" in error


def test_real_pieces(call_tool, tmp_path, shared_data):
    for data, tool, suffix, flags in (
        ("vaihingen", "vaihingen_patch_split.py", "", []),
        ("potsdam", "potsdam_patch_split.py", "_RGB", ["--rgb-image"]),
    ):
        images = shared_data / data / "test_images"
        arguments = isprs(images, shared_data / data / "test_masks_eroded", tmp_path / data, "val", "--eroded", *flags)
        assert call_tool(tool, *arguments)[0] == 0
        image = next(images.glob("*.tif"))
        mask = next((shared_data / data / "test_masks_eroded").glob("*.tif"))
        stem = image.stem.removesuffix(suffix)
        assert not check(tmp_path / data, {stem: (oracle.read(image), oracle.read(mask))}, 32, 1)


def test_errors_are_one_message_and_code_2(call_tool, tmp_path):
    write_tiles(tmp_path, ["top_mosaic_09cm_area1"])
    good = isprs(tmp_path / "images", tmp_path / "masks", tmp_path / "out", "val")
    (tmp_path / "masks/top_mosaic_09cm_area1.tif").write_bytes(b"II*\0 broken")
    code, _, error = call_tool("vaihingen_patch_split.py", *good)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "masks/top_mosaic_09cm_area1.tif" in error
    _, _, error = call_tool("vaihingen_patch_split.py", *good, "--debug")
    assert "Traceback" in error
    code, _out, error = call_tool("vaihingen_patch_split.py", "--img-dir", tmp_path)
    assert code == 2
    assert "usage" in error
    assert "Traceback" not in error


def test_a_disk_that_takes_no_more_of_a_file(tmp_path):
    write_tiles(tmp_path, ["top_mosaic_09cm_area1"])
    arguments = isprs(tmp_path / "images", tmp_path / "masks", tmp_path / "out", "val", "--gt", stride=64)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    code, _, error = run_tool("vaihingen_patch_split.py", *arguments, preexec_fn=limit)
    assert code == 2
    assert "top_mosaic_09cm_area1.tif: cannot be written: File too large" in error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("who", ["parent", "worker"])
def test_killed_half_way_and_run_again(call_tool, tmp_path, who):
    write_tiles(tmp_path, [f"top_mosaic_09cm_area{n}" for n in range(1, 7)], shape=(240, 200))
    arguments = [
        (*isprs(tmp_path / "images", tmp_path / "masks", tmp_path / out, "train"), "--workers", "2")
        for out in ("clean", "out")
    ]
    assert call_tool("vaihingen_patch_split.py", *arguments[0])[0] == 0
    clean = oracle.hashes(tmp_path / "clean")
    with start_tool("vaihingen_patch_split.py", *arguments[1]) as process:
        while len(list((tmp_path / "out/masks_64").glob("*.png"))) < 60:
            time.sleep(0.005)
        victim = process.pid if who == "parent" else children(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    half = oracle.hashes(tmp_path / "out")
    assert 60 <= len(half) < len(clean)
    assert {name: value for name, value in half.items() if not name.endswith(".part")}.items() <= clean.items()
    if who == "worker":
        assert process.returncode == 2
        assert "ended unexpectedly" in error
    assert call_tool("vaihingen_patch_split.py", *arguments[1])[0] == 0
    assert oracle.hashes(tmp_path / "out") == clean


def children(process):
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
