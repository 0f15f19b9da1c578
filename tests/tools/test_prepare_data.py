import os
import resource
import shutil
import signal
import time
import zipfile
from functools import partial

import numpy as np
import pytest

from d2ls.data.sets import layout, loveda, potsdam, uavid, vaihingen
from tests.preparation import fake_archives, oracle
from tests.preparation.fake_archives import encode, write_zip
from tests.tools.conftest import run_tool, start_tool

JOURNAL = "vaihingen/.d2ls_prepared.json"


@pytest.fixture(autouse=True)
def small_patches(monkeypatch):
    monkeypatch.setattr(layout, "PATCH_SIDE", 64)


def below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def check_vaihingen(home):
    for split, tiles in (("train", vaihingen.TRAIN_TILES), ("test", vaihingen.TEST_TILES)):
        tile_names = {f"top_mosaic_09cm_area{tile}.tif" for tile in tiles}
        assert names(home / f"{split}_images") == names(home / f"{split}_masks") == tile_names
    for tile in (*vaihingen.TRAIN_TILES, *vaihingen.TEST_TILES):
        split = "train" if tile in vaihingen.TRAIN_TILES else "test"
        image, mask, eroded = fake_archives.tile(int(tile))
        assert (home / f"{split}_images/top_mosaic_09cm_area{tile}.tif").read_bytes() == image
        assert (home / f"{split}_masks/top_mosaic_09cm_area{tile}.tif").read_bytes() == mask
        if split == "test":
            assert (home / f"test_masks_eroded/top_mosaic_09cm_area{tile}_noBoundary.tif").read_bytes() == eroded
    assert len(names(home / "test_masks_eroded")) == 17


def test_vaihingen_from_archives_of_any_name(call_tool, tmp_path):
    fake_archives.write_vaihingen(tmp_path / "downloads")
    code, out, error = call_tool(
        "prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "data"
    )
    assert (code, error) == (0, ""), out
    home = tmp_path / "data/vaihingen"
    check_vaihingen(home)
    index = oracle.to_index(oracle.read(home / "test_masks_eroded/top_mosaic_09cm_area2_noBoundary.tif"))
    image = oracle.read(home / "test_images/top_mosaic_09cm_area2.tif")
    for (_, k), (pixels, labels) in oracle.patches(image, index, 64, 64, 1).items():
        name = f"top_mosaic_09cm_area2_0_{k}"
        np.testing.assert_array_equal(oracle.read(home / f"test/images_1024/{name}.tif"), pixels)
        np.testing.assert_array_equal(oracle.read(home / f"test/masks_1024/{name}.png"), labels)
        assert oracle.read(home / f"test/masks_1024_rgb/{name}.png").shape == (64, 64, 3)
    variants = {name.split("_")[4] for name in names(home / "train/images_1024")}
    numbers = {name.split("_")[5].removesuffix(".tif") for name in names(home / "train/images_1024")}
    assert variants == {"0", "1", "2"}
    assert numbers == {"0", "1", "2", "4", "5", "6", "8", "9", "10"}, "stride is half a patch"


def test_a_second_run_changes_nothing_and_mends_what_is_lost(call_tool, tmp_path):
    fake_archives.write_vaihingen(tmp_path / "downloads")
    command = ("prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    assert call_tool(*command)[0] == 0
    clean = oracle.hashes(tmp_path / "data")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.*")}
    code, out, _ = call_tool(*command)
    assert code == 0
    assert out.count("done before") == 3
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.*")}
    next((tmp_path / "data/vaihingen/train/masks_1024").iterdir()).unlink()
    (tmp_path / "data/vaihingen/test_masks/top_mosaic_09cm_area8.tif").unlink()
    code, out, _ = call_tool(*command)
    assert code == 0
    assert {k: v for k, v in oracle.hashes(tmp_path / "data").items() if "prepared" not in k} == {
        k: v for k, v in clean.items() if "prepared" not in k
    }


def test_unpacked_folders_serve_as_well_and_stay(call_tool, tmp_path):
    data, complete, eroded = fake_archives.vaihingen_members()
    for folder, members in (("Vaihingen", data), ("full", complete), ("cut", eroded)):
        for name, content in members.items():
            path = tmp_path / "unpacked" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    before = oracle.hashes(tmp_path / "unpacked")
    code, out, _ = call_tool("prepare_data.py", "vaihingen", "--from", tmp_path / "unpacked", "--to", tmp_path / "data")
    assert code == 0, out
    check_vaihingen(tmp_path / "data/vaihingen")
    assert oracle.hashes(tmp_path / "unpacked") == before


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_potsdam_from_zips_in_a_zip(call_tool, tmp_path, method):
    fake_archives.write_potsdam(tmp_path / "downloads", outer=method)
    code, out, _ = call_tool("prepare_data.py", "potsdam", "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    assert code == 0, out
    home = tmp_path / "data/potsdam"
    for split, tiles in (("train", potsdam.TRAIN_TILES), ("test", potsdam.TEST_TILES)):
        assert names(home / f"{split}_images") == {f"top_potsdam_{tile}_RGB.tif" for tile in tiles}
        assert names(home / f"{split}_masks") == {f"top_potsdam_{tile}_label.tif" for tile in tiles}
    assert names(home / "test_masks_eroded") == {f"top_potsdam_{t}_label_noBoundary.tif" for t in potsdam.TEST_TILES}
    assert not [path for path in below(tmp_path / "data") if "7_10" in path]
    assert "7_10_label.tif: left out, its labels are faulty" in out
    assert len(names(home / "train/masks_1024")) == 23 * 3 * 4
    assert "top_potsdam_4_12_label.tif: official labels off their palette" in out


def test_dry_run_writes_nothing(call_tool, tmp_path):
    fake_archives.write_vaihingen(tmp_path / "downloads")
    command = ("prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "data", "--dry-run")
    code, out, _ = call_tool(*command)
    assert code == 0
    assert not (tmp_path / "data").exists()
    assert "vaihingen/test_masks_eroded" in out
    assert "vaihingen/train/masks_1024: would be made" in out


def test_missing_tiles_are_listed_by_name(call_tool, tmp_path):
    data, complete, eroded = fake_archives.vaihingen_members()
    del eroded["top_mosaic_09cm_area38_noBoundary.tif"]
    del data["top/top_mosaic_09cm_area30.tif"]
    for number, members in enumerate((data, complete, eroded)):
        write_zip(tmp_path / f"downloads/{number}.zip", members)
    code, out, _ = call_tool(
        "prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "data"
    )
    assert code == 1
    assert "missing: vaihingen/test_masks_eroded/top_mosaic_09cm_area38_noBoundary.tif" in out
    assert "missing: vaihingen/train_images/top_mosaic_09cm_area30.tif" in out
    assert out.count("missing: ") == 2
    assert "no image for 1 of 16 masks (first: top_mosaic_09cm_area30.tif" in out


def test_files_that_are_there_are_never_replaced(call_tool, tmp_path):
    fake_archives.write_vaihingen(tmp_path / "downloads")
    mine = tmp_path / "data/vaihingen/train_images/top_mosaic_09cm_area1.tif"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own")
    command = ("prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    code, _, error = call_tool(*command)
    assert code == 2
    assert "train_images/top_mosaic_09cm_area1.tif (from" in error
    assert below(tmp_path / "data") == {"vaihingen/train_images/top_mosaic_09cm_area1.tif"}
    mine.unlink()
    patch = tmp_path / "data/vaihingen/train/masks_1024/top_mosaic_09cm_area1_0_0.png"
    patch.parent.mkdir(parents=True)
    patch.write_bytes(b"made by somebody else")
    code, out, _ = call_tool(*command)
    assert code == 1
    assert "holds 1 files that prepare_data has not made" in out
    assert patch.read_bytes() == b"made by somebody else"


def test_loveda(call_tool, tmp_path):
    rng = np.random.default_rng(0)
    number, raws = 0, {}
    for split in ("Train", "Val", "Test"):
        members = {}
        for area in loveda.AREAS:
            for _ in range(2):
                raws[number] = rng.integers(8, size=(20, 30), dtype=np.uint8)
                members[f"{split}/{area}/images_png/{number}.png"] = encode(
                    rng.integers(256, size=(20, 30, 3), dtype=np.uint8), "PNG"
                )
                if split != "Test":
                    members[f"{split}/{area}/masks_png/{number}.png"] = encode(raws[number], "PNG")
                number += 1
        write_zip(tmp_path / f"downloads/{split}.zip", members)
    code, out, _ = call_tool("prepare_data.py", "loveda", "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    assert code == 0, out
    home = tmp_path / "data/LoveDA"
    merged = {"Urban": {"0.png", "1.png", "4.png", "5.png"}, "Rural": {"2.png", "3.png", "6.png", "7.png"}}
    for area, expected in merged.items():
        for kind in ("images_png", "masks_png", "masks_png_convert", "masks_png_convert_rgb"):
            assert names(home / "train_val" / area / kind) == expected
    assert (home / "train_val/Urban/images_png/4.png").samefile(home / "Val/Urban/images_png/4.png")
    table = np.array([7, 0, 1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(oracle.read(home / "Val/Rural/masks_png_convert/6.png"), table[raws[6]])
    assert names(home / "Test/Rural/images_png") == {"10.png", "11.png"}
    assert not (home / "Test/Rural/masks_png").exists()


def test_uavid(call_tool, tmp_path, monkeypatch):
    monkeypatch.setattr(uavid, "CANVAS", (128, 256))
    members, top = {}, "uavid_v1.5_official_release_image"
    for split, sequence in (("train", "seq1"), ("train", "seq2"), ("val", "seq16"), ("test", "seq21")):
        for frame in ("000000", "000100"):
            image, mask = oracle.draw(np.random.default_rng(len(members)), (135, 240), oracle.UAVID)
            members[f"{top}/uavid_{split}/{sequence}/Images/{frame}.png"] = encode(image, "PNG")
            if split != "test":
                members[f"{top}/uavid_{split}/{sequence}/Labels/{frame}.png"] = encode(mask, "PNG")
    write_zip(tmp_path / f"downloads/{top}.zip", members)
    command = ("prepare_data.py", "uavid", "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    code, out, _ = call_tool(*command, "--dry-run")
    assert code == 0
    assert out.count("would be made") == 4
    code, out, _ = call_tool(*command)
    assert code == 0, out
    home = tmp_path / "data/uavid"
    made = {split: names(home / split / "images") for split in ("train", "val", "train_val")}
    assert made["train_val"] == made["train"] | made["val"]
    assert made["val"] == {f"seq16_{frame}_0_{k}.png" for frame in ("000000", "000100") for k in range(8)}
    assert names(home / "train_val/masks") == made["train_val"]
    assert names(home / "uavid_train_val/seq16/Labels") == {"000000.png", "000100.png"}
    assert names(home / "uavid_test/seq21/Images") == {"000000.png", "000100.png"}
    first = next((home / "train/masks").iterdir())
    assert first.samefile(home / "train_val/masks" / first.name)
    assert uavid.SPEC.ignore_index in np.unique(oracle.read(home / "val/masks/seq16_000000_0_0.png"))


@pytest.mark.parametrize(("name", "other"), [("grass", "l8_biome"), ("cloud", "grass")])
def test_grass_and_cloud_are_told_apart_by_their_folders(call_tool, tmp_path, name, other):
    for folder in ({"cloud": "l8_biome"}.get(name, name), other):
        for kind in ("img_dir", "ann_dir"):
            for split in ("train", "val"):
                path = tmp_path / "downloads" / folder / kind / split / f"{folder}_{split}.png"
                path.parent.mkdir(parents=True)
                path.write_bytes(f"{folder} {kind} {split}".encode())
    code, out, _ = call_tool("prepare_data.py", name, "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    assert code == 0, out
    ours = {"cloud": "l8_biome"}.get(name, name)
    assert below(tmp_path / "data") == {
        f"{name}/{kind}/{split}/{ours}_{split}.png" for kind in ("img_dir", "ann_dir") for split in ("train", "val")
    }


def test_dubai(call_tool, tmp_path):
    members = {}
    for number in (1, 2):
        for part in range(1, 10):
            members[f"Semantic segmentation dataset/Tile {number}/images/image_part_{part:03d}.jpg"] = b"jpg%d" % part
            members[f"Semantic segmentation dataset/Tile {number}/masks/image_part_{part:03d}.png"] = b"png%d" % part
    write_zip(tmp_path / "downloads/archive.zip", members)
    code, out, _ = call_tool("prepare_data.py", "dubai", "--from", tmp_path / "downloads", "--to", tmp_path / "data")
    assert code == 0, out
    home = tmp_path / "data/dubai"
    assert len(names(home / "images/train")) == 12
    assert names(home / "masks/val") == {"tile1_image_part_008.png", "tile2_image_part_008.png"}
    assert (home / "images/test/tile2_image_part_009.jpg").read_bytes() == b"jpg9"


def test_a_lost_partner_is_a_problem(call_tool, tmp_path):
    for name in ("img_dir/train/a.tif", "img_dir/train/b.tif", "ann_dir/train/a.png"):
        path = tmp_path / "grass" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    code, out, _ = call_tool("prepare_data.py", "grass", "--from", tmp_path / "grass", "--to", tmp_path / "data")
    assert code == 1
    assert "problem: grass/img_dir/train/b.tif: no partner grass/ann_dir/train/b.*" in out


@pytest.mark.parametrize(("name", "text"), [("../x.tif", "would leave"), ("x.tif", "nothing of potsdam found")])
def test_nothing_is_written_where_nothing_can_be_used(call_tool, tmp_path, name, text):
    write_zip(tmp_path / "downloads/a.zip", {name: b""})
    (tmp_path / "downloads/b.rar").write_bytes(b"")
    code, _, error = call_tool(
        "prepare_data.py", "potsdam", "--from", tmp_path / "downloads", "--to", tmp_path / "data"
    )
    assert code == 2
    assert text in error
    assert not (tmp_path / "data").exists()


def test_no_room(call_tool, tmp_path, monkeypatch):
    fake_archives.write_vaihingen(tmp_path / "downloads")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    code, _, error = call_tool(
        "prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "data"
    )  # fmt: skip
    assert code == 2
    assert "GB are needed for the originals, 0.0 GB are free" in error
    assert not below(tmp_path / "data")


@pytest.mark.parametrize("at", ["train_images", "train/images_1024"])
def test_killed_half_way_and_run_again(call_tool, tmp_path, monkeypatch, at):
    monkeypatch.setattr(layout, "PATCH_SIDE", 1024)
    fake_archives.write_vaihingen(tmp_path / "downloads")
    command = ("prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to")
    assert call_tool(*command, tmp_path / "clean")[0] == 0
    with start_tool(*command, tmp_path / "out") as process:
        folder = tmp_path / "out/vaihingen" / at
        while not folder.is_dir() or len(list(folder.iterdir())) < 8:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    clean, half = (oracle.hashes(tmp_path / name) for name in ("clean", "out"))
    assert len(half) < len(clean)
    assert {name for name, value in half.items() if clean.get(name) != value and ".part" not in name} <= {JOURNAL}
    assert call_tool(*command, tmp_path / "out")[0] == 0
    again = oracle.hashes(tmp_path / "out")
    assert {**clean, JOURNAL: ""} == {**again, JOURNAL: ""}


def test_a_disk_that_fills_up_leaves_whole_files(call_tool, tmp_path):
    fake_archives.write_vaihingen(tmp_path / "downloads")
    command = ("prepare_data.py", "vaihingen", "--from", tmp_path / "downloads", "--to", tmp_path / "out")
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (19_300, 19_300))
    code, _, error = run_tool(*command, preexec_fn=limit)
    assert code == 2
    assert ".tif: cannot be written: File too large" in error
    for path in (tmp_path / "out").rglob("*.tif"):
        tile = int(path.stem.split("area")[1].split("_")[0])
        assert path.read_bytes() in fake_archives.tile(tile)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert call_tool(*command)[0] == 0
    check_vaihingen(tmp_path / "out/vaihingen")
