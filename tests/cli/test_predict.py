"""predict.py on drawn rasters: what it writes, what it refuses, and how it goes on."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import tifffile
import torch
from filelock import FileLock
from PIL import Image
from rasterio import Affine
from rasterio.shutil import copy as copy_raster
from rio_cogeo import cog_validate

import d2ls
from d2ls.checkpoint import KEY, describe
from d2ls.cli.common import run_main
from d2ls.cli.predict import main, slurm_shard
from d2ls.data.sets import vaihingen
from d2ls.inference import raster_file
from d2ls.inference.maps import MapFiles, OutputError
from d2ls.inference.raster import LEVELS, NODATA
from d2ls.models import DynamicDictionaryLearning
from tests.inference.conftest import MODEL

ROOT = Path(__file__).resolve().parents[2]
UTM = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)}
SMALL = ("--window", "64")
CheckpointOf = Callable[[d2ls.DatasetSpec], Path]


def run(*words: object) -> int:
    return run_main(main, [str(word) for word in words])


def write_scene(
    path: Path, height: int = 150, width: int = 210, bands: int = 3, kind: str = "uint8", **profile: Any
) -> np.ndarray:
    """A raster of smooth colours; returns its values (C, H, W)."""
    rng = np.random.default_rng(height + width)
    blocks = rng.integers(1, 256, (bands, height // 30 + 1, width // 30 + 1))
    pixels = np.kron(blocks, np.ones((30, 30), int))[:, :height, :width]
    pixels = (pixels + rng.integers(0, 20, pixels.shape)).clip(1, 255).astype(kind)
    nodata = profile.get("nodata")
    if nodata is not None:
        pixels[:, :40, :70] = nodata
    with rasterio.open(path, "w", "GTiff", width, height, bands, dtype=kind, **{**UTM, **profile}) as dataset:
        dataset.write(pixels)
    return pixels


@pytest.fixture
def weights(checkpoint: CheckpointOf) -> Path:
    return checkpoint(vaihingen.SPEC)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_map_is_a_cloud_optimised_geotiff_with_its_legend(weights: Path, tmp_path: Path) -> None:
    pixels = write_scene(tmp_path / "scene.tif", 700, 640, nodata=0)
    out = tmp_path / "out"
    assert run("-w", weights, "-i", tmp_path / "scene.tif", "-o", out) == 0
    assert files(out) == {"scene.tif", "scene.tif.aux.xml", "scene.qml", "scene.json"}
    assert cog_validate(out / "scene.tif", strict=True) == (True, [], [])
    with rasterio.open(out / "scene.tif") as dataset:
        assert (dataset.crs.to_epsg(), dataset.transform) == (32632, UTM["transform"])
        assert (dataset.dtypes, dataset.nodata, dataset.compression.name) == (("uint8",), NODATA, "deflate")
        assert dataset.overviews(1) == [2]
        colours = dataset.colormap(1)
        found = dataset.read(1)
    assert [colours[index][:3] for index in range(6)] == list(vaihingen.SPEC.colours)
    names = [node.text for node in ET.parse(out / "scene.tif.aux.xml").iter("Category")]
    assert names == list(vaihingen.SPEC.classes)
    entries = [node.attrib for node in ET.parse(out / "scene.qml").iter("paletteEntry")]
    assert [entry["label"] for entry in entries] == names
    assert entries[1]["color"] == "#0000ff"
    model = d2ls.load_model(weights, device="cpu")
    expected = d2ls.predict(model, np.moveaxis(pixels, 0, -1).copy())
    missing = (pixels == 0).all(axis=0)
    assert (found[missing] == NODATA).all()
    assert np.mean(found[~missing] != expected[~missing]) < 1e-3
    summary = json.loads((out / "scene.json").read_text())
    counts = np.bincount(found[~missing], minlength=6)
    assert list(summary["shares"].values()) == pytest.approx(counts / counts.sum())
    assert list(summary["hectares"].values()) == pytest.approx(counts * 0.25 / 1e4)


def test_further_layers_and_polygons(weights: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", nodata=0)
    words = ("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / "out", *SMALL)
    assert run(*words, "--probabilities", "--confidence", "--polygons") == 0
    classes, shares, confidence = (read(tmp_path / "out" / f"a{n}.tif") for n in ("", ".probabilities", ".confidence"))
    known = classes[0] != NODATA
    assert ((shares == NODATA) == ~known).all()
    assert np.abs(shares.astype(int).sum(axis=0)[known] - LEVELS).max() <= 3  # rounded six times
    chosen = np.take_along_axis(shares, classes.clip(0, 5).astype(int), axis=0)[0]
    assert (chosen == shares.max(axis=0))[known].all()
    np.testing.assert_array_equal(confidence[0][known], chosen[known])
    with rasterio.open(tmp_path / "out" / "a.probabilities.tif") as dataset:
        assert dataset.descriptions == vaihingen.SPEC.classes
        assert set(dataset.scales) == {1 / LEVELS}
    for name in ("", ".probabilities", ".confidence"):
        assert cog_validate(tmp_path / "out" / f"a{name}.tif", strict=True)[0]
    meta, _, _, columns = pyogrio.raw.read(tmp_path / "out" / "a.gpkg")
    fields = dict(zip(meta["fields"], columns, strict=True))
    assert meta["crs"] == "EPSG:32632"
    for index, name in enumerate(vaihingen.SPEC.classes):
        assert fields["area_m2"][fields["class"] == name].sum() == 0.25 * (classes == index).sum()
    assert run(*words) == 0
    assert files(tmp_path / "out") == {"a.tif", "a.tif.aux.xml", "a.qml", "a.json"}  # none of the first run's left


def test_pictures_give_palette_pngs(weights: Path, tmp_path: Path) -> None:
    pixels = np.moveaxis(write_scene(tmp_path / "a.tif"), 0, -1)
    for suffix in ("png", "jpg"):
        folder = tmp_path / suffix
        folder.mkdir()
        Image.fromarray(pixels).save(folder / f"a.{suffix}")
        assert run("-w", weights, "-i", folder / f"a.{suffix}", "-o", tmp_path / f"out{suffix}") == 0
        with Image.open(tmp_path / f"out{suffix}" / "a.png") as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (210, 150))
            assert picture.getpalette()[:18] == [value for colour in vaihingen.SPEC.colours for value in colour]
            index = np.asarray(picture)
        image = np.asarray(Image.open(folder / f"a.{suffix}"))
        expected = d2ls.predict(d2ls.load_model(weights, device="cpu"), image)
        assert np.mean(index != expected) < (1e-3 if suffix == "png" else 0.02)  # decoders of JPEG differ


def test_views_and_scale_change_the_map_and_keep_its_size(weights: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif")
    found = {}
    for name, words in {"plain": (), "lr": ("-t", "lr"), "d4": ("-t", "d4"), "half": ("--scale", "0.5")}.items():
        assert run("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / name, *SMALL, *words) == 0
        found[name] = read(tmp_path / name / "a.tif")
        assert found[name].shape == (1, 150, 210)
    assert len({array.tobytes() for array in found.values()}) == 4


@pytest.fixture
def of_small_samples(weights: Path, tmp_path: Path) -> Path:
    """The same weights; the checkpoint says that they were trained on samples of 64 px."""
    content = torch.load(weights, weights_only=True)
    content[KEY]["train_size"] = 64
    torch.save(content, tmp_path / "small.ckpt")
    return tmp_path / "small.ckpt"


def test_windows_follow_from_the_training_samples(
    of_small_samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif")
    words = ("-w", of_small_samples, "-i", tmp_path / "a.tif", "-o")
    assert run(*words, tmp_path / "own") == 0
    assert capsys.readouterr().out.startswith("windows of 64 px: the network was trained on samples of 64 px")
    assert run(*words, tmp_path / "own", "--resume", *SMALL) == 0
    told = capsys.readouterr().out
    assert "finished before" in told
    assert "windows of" not in told
    assert json.loads((tmp_path / "own" / "a.json").read_text())["run"]["window"] == 64
    assert run(*words, tmp_path / "own", "--resume", "--window", 96) == 0
    assert "finished before" not in capsys.readouterr().out
    assert run(*words, tmp_path / "half", "--scale", 0.5) == 0
    assert capsys.readouterr().out.startswith("windows of 128 px")


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_interrupted_and_resumed_the_files_are_the_same(
    at: int, by_columns: bool, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster_file, "_WIDE", 100 if by_columns else 1000)
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 16}
    write_scene(tmp_path / "a.tif", *((90, 210) if by_columns else (150, 210)), nodata=0, **tiles)
    words = ("-w", weights, "-i", tmp_path / "a.tif", *SMALL, "--confidence")
    assert run(*words, "-o", tmp_path / "clean") == 0
    out, write, calls = tmp_path / "out", MapFiles.write, []

    def interrupted(self: MapFiles, rows: Any) -> None:
        if len(calls) == at:
            raise KeyboardInterrupt
        calls.append(rows.top)
        write(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(MapFiles, "write", interrupted)
        assert run(*words, "-o", out) == 130
    assert not [name for name in files(out) if not name.startswith(".")]
    monkeypatch.setattr(MapFiles, "write", lambda self, rows: calls.append(rows.top) or write(self, rows))
    assert run(*words, "-o", out, "--resume") == 0
    assert len(calls) == len(set(calls))  # no row was made twice
    for name in ("a.tif", "a.confidence.tif", "a.tif.aux.xml", "a.qml"):
        assert (out / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert files(out) == files(tmp_path / "clean")


def test_a_wide_strip_is_read_by_columns_with_the_same_result(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path / "a.tif", 70, 300, nodata=0, tiled=True, blockxsize=32, blockysize=16)
    layers = ("a.tif", "a.probabilities.tif", "a.confidence.tif")
    for name, wide in (("rows", 1000), ("columns", 100)):
        monkeypatch.setattr(raster_file, "_WIDE", wide)
        words = ("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / name, *SMALL)
        assert run(*words, "--probabilities", "--confidence") == 0
    (classes, other), (shares, turned), _ = (
        [read(tmp_path / n / layer) for n in ("rows", "columns")] for layer in layers
    )
    assert ((classes == NODATA) == (other == NODATA)).all()
    assert np.abs(shares.astype(int) - turned).max() <= 1
    assert (classes != other).mean() < 1e-3
    with rasterio.open(tmp_path / "columns" / "a.tif") as dataset:
        assert (dataset.crs.to_epsg(), dataset.transform, dataset.shape) == (32632, UTM["transform"], (70, 300))


def test_only_the_same_run_is_resumed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif")
    words = ("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / "out", *SMALL, "--resume")
    assert run(*words) == 0
    assert run(*words) == 0
    assert "finished before" in capsys.readouterr().out
    before = read(tmp_path / "out" / "a.tif")
    assert run(*words, "-t", "lr") == 0
    assert "finished before" not in capsys.readouterr().out
    assert (read(tmp_path / "out" / "a.tif") != before).any()
    write_scene(tmp_path / "a.tif", 150, 211)
    assert run(*words, "-t", "lr") == 0
    assert read(tmp_path / "out" / "a.tif").shape == (1, 150, 211)


def test_folders_lists_and_shares(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcde":
        write_scene(tmp_path / "in" / f"{name}.tif", 40, 50)
    (tmp_path / "in" / "notes.pdf").write_text("no raster")
    for index in (1, 2, 3):
        assert run("-w", weights, "-i", tmp_path / "in", "-o", tmp_path / str(index), "--shard", f"{index}/3") == 0
    shares = [{name for name in files(tmp_path / str(index)) if name.endswith(".tif")} for index in (1, 2, 3)]
    assert shares == [{"a.tif", "d.tif"}, {"b.tif", "e.tif"}, {"c.tif"}]
    (tmp_path / "list.txt").write_text("in/b.tif\n\nin/e.tif\n")
    assert run("-w", weights, "-i", tmp_path / "list.txt", "-o", tmp_path / "listed") == 0
    assert {name for name in files(tmp_path / "listed") if name.endswith(".tif")} == {"b.tif", "e.tif"}


def test_tasks_of_a_slurm_array_take_shares() -> None:
    def tasks(first: int, step: int, count: int) -> list[tuple[int, int]]:
        common = {"SLURM_ARRAY_TASK_MIN": str(first), "SLURM_ARRAY_TASK_STEP": str(step)}
        common["SLURM_ARRAY_TASK_COUNT"] = str(count)
        return [slurm_shard({**common, "SLURM_ARRAY_TASK_ID": str(first + step * i)}) for i in range(count)]

    assert slurm_shard({}) == (1, 1)
    assert tasks(0, 1, 4) == tasks(5, 3, 4) == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_vrt_of_tiles_is_one_raster(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    pixels = write_scene(folder / "whole.tif", 100, 120)
    copy_raster(folder / "whole.tif", folder / "scene.vrt", driver="VRT")
    assert run("-w", weights, "-i", folder / "scene.vrt", "-o", tmp_path / "out") == 0
    assert read(tmp_path / "out" / "scene.tif").shape == (1, *pixels.shape[1:])


def test_other_bands_and_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four bands of 16 bits, stored in another order; NaN and nodata are nodata."""
    spec = d2ls.DatasetSpec(
        name="field", classes=("soil", "crop"), colours=((90, 60, 30), (0, 200, 0)), ignore_index=255,
        bands=("red", "green", "blue", "nir"), dtype="float32", mean=(120,) * 4, std=(60,) * 4, nodata=-1,
    )  # fmt: skip
    torch.manual_seed(1)
    net = DynamicDictionaryLearning(num_classes=2, in_channels=4, **MODEL).eval()
    torch.save(
        {"state_dict": {f"net.{n}": t for n, t in net.state_dict().items()}, KEY: describe(net, spec)},
        tmp_path / "w.ckpt",
    )
    pixels = write_scene(tmp_path / "a.tif", 70, 90, bands=6, kind="float32")
    pixels[:, 5:9, 5:9], pixels[:, 20:30, 50:60] = np.nan, -1
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        dataset.write(pixels)
    words = ("-w", tmp_path / "w.ckpt", "-i", tmp_path / "a.tif", "-o", tmp_path / "out")
    assert run(*words) == 2
    assert "--bands" in capsys.readouterr().err
    assert run(*words, "--bands", "4,3,2,6") == 0
    image = torch.from_numpy(pixels[[3, 2, 1, 5]])
    with torch.no_grad():
        expected = net(((image - 120) / 60).nan_to_num(0)[None]).argmax(dim=1)[0].numpy()
    found = read(tmp_path / "out" / "a.tif")[0]
    missing = np.isnan(pixels[0]) | (pixels[0] == -1)
    assert ((found == NODATA) == missing).all()
    assert np.mean(found[~missing] != expected[~missing]) < 1e-3


ABROAD = "<SourceFilename>/vsicurl/https://example.org/a.tif</SourceFilename>"
TEXTS = {
    "zero size": "", "text": "no raster", "vrt no XML": "<VRTDataset rasterXSize",
    "vrt on the network": f"<VRTDataset><VRTRasterBand><Source>{ABROAD}</Source></VRTRasterBand></VRTDataset>",
}  # fmt: skip
CUT = {"truncated": -9000, "half a header": 60}
SCENES: dict[str, dict[str, Any]] = {
    "two bands": {"bands": 2}, "16 bits": {"kind": "uint16"}, "float values": {"kind": "float32"},
}  # fmt: skip


def broken(folder: Path, kind: str) -> Path:
    """A raster that cannot be used."""
    path = folder / ("bad.vrt" if "vrt" in kind else "bad.tif")
    if kind in TEXTS:
        path.write_text(TEXTS[kind])
    elif kind in CUT or kind in SCENES:
        write_scene(path, **SCENES.get(kind, {}))
        path.write_bytes(path.read_bytes()[: CUT.get(kind)])
    elif kind == "pages":
        tifffile.imwrite(path, np.full((4, 50, 60, 3), 99, np.uint8), photometric="rgb")
    elif kind == "folder":
        path.mkdir()
    elif kind == "vrt outside":
        write_scene(folder.parent / "outside.tif")
        copy_raster(folder.parent / "outside.tif", path, driver="VRT")
    elif kind == "vrt incomplete":
        write_scene(folder / "gone.tif")
        copy_raster(folder / "gone.tif", path, driver="VRT")
        (folder / "gone.tif").unlink()
    return path


BROKEN = {
    "two bands": "2 band", "16 bits": "uint16", "zero size": "", "text": "", "truncated": "rows ",
    "missing": "no such file",
    "half a header": "", "pages": "4 pages", "vrt no XML": "not a VRT", "vrt on the network": "outside",
    "folder": "no rasters in it", "float values": "float32", "vrt outside": "outside.tif", "vrt incomplete": "gone.tif",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_used_is_told_and_leaves_nothing(
    kind: str, weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = broken(folder, kind)
    assert run("-w", weights, "-i", path, "-o", tmp_path / "out", *SMALL) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert BROKEN[kind] in error
    assert error.count("\n") == 1
    assert files(tmp_path / "out") == set()


def test_a_damaged_raster_does_not_stop_the_others(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    broken(tmp_path / "in", "truncated")
    write_scene(tmp_path / "in" / "good.tif", 40, 50)
    assert run("-w", weights, "-i", tmp_path / "in", "-o", tmp_path / "out") == 2
    assert {name for name in files(tmp_path / "out") if name.endswith(".tif")} == {"good.tif"}


def test_a_full_disk_is_told_at_the_start_and_later_loses_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif")
    words = ("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / "out", *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 40_000))
        assert run(*words) == 2
    assert "are free" in capsys.readouterr().err
    assert files(tmp_path / "out") == set()
    note = MapFiles._note

    def full(self: MapFiles) -> None:
        if self.finished > 50:
            raise OutputError("the disk is full")
        note(self)

    with monkeypatch.context() as patch:
        patch.setattr(MapFiles, "_note", full)
        assert run(*words) == 2
    assert {name for name in files(tmp_path / "out") if not name.startswith(".")} == set()
    assert run(*words, "--resume") == 0
    assert run(*words[:4], "-o", tmp_path / "clean", *SMALL) == 0
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "clean" / "a.tif").read_bytes()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-w", "no.ckpt"), "no.ckpt"), (("--overlap", "1"), "overlap"), (("--scale", "0"), "--scale"),
        (("--device", "warp"), "warp"), (("-i", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_in_one_line(
    words: tuple[str, ...], told: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif", 40, 50)
    assert run("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert files(tmp_path / "out") == set()


def test_a_map_never_replaces_its_input(weights: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", 40, 50)
    before = (tmp_path / "a.tif").read_bytes()
    assert run("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path) == 2
    assert (tmp_path / "a.tif").read_bytes() == before
    (tmp_path / "in").mkdir()
    for name in ("b.tif", "b.tiff"):
        write_scene(tmp_path / "in" / name, 40, 50)
    assert run("-w", weights, "-i", tmp_path / "in", "-o", tmp_path / "out") == 2  # two maps of one name


def test_two_processes_share_a_folder(weights: Path, tmp_path: Path) -> None:
    """The same command twice: every map is made once, by either process."""
    (tmp_path / "in").mkdir()
    for name in "abcdef":
        write_scene(tmp_path / "in" / f"{name}.tif", 100, 130)
    command = [
        sys.executable,
        str(ROOT / "predict.py"),
        "-w",
        str(weights),
        "-i",
        "in",
        "-o",
        "out",
        *SMALL,
        "--resume",
    ]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate() for process in both]
    assert [(process.returncode, error) for process, (_, error) in zip(both, told, strict=True)] == [(0, "")] * 2
    lines = "".join(printed for printed, _ in told).splitlines()
    assert sorted(line.split(":")[0] for line in lines if "megapixels/s" in line) == [f"out/{n}.tif" for n in "abcdef"]
    assert len(lines) == 12  # the others: finished before, or in work
    assert run("-w", weights, "-i", tmp_path / "in", "-o", tmp_path / "alone", *SMALL) == 0
    for name in "abcdef":
        assert (tmp_path / f"out/{name}.tif").read_bytes() == (tmp_path / f"alone/{name}.tif").read_bytes()
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_a_map_in_work_is_left_to_its_process(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path / "a.tif", 40, 50)
    words = ("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.a.lock"):
        assert run(*words) == 0
        assert "another process works on it" in capsys.readouterr().out
        assert files(tmp_path / "out") == {".a.lock"}
    assert run(*words) == 0
    assert "a.tif" in files(tmp_path / "out")


def test_a_plain_tiff_gives_a_png_and_no_warning(weights: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((50, 60, 3), 99, np.uint8), photometric="rgb")
    command = [sys.executable, str(ROOT / "predict.py"), "-w", str(weights), "-i", "a.tif", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.png" in files(tmp_path / "out")


def test_overviews_and_masks_are_no_pages(weights: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", 600, 520)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        mask = np.full((600, 520), 255, np.uint8)
        mask[:100] = 0
        dataset.write_mask(mask)
        dataset.build_overviews([2, 4])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) > 3
    assert run("-w", weights, "-i", tmp_path / "a.tif", "-o", tmp_path / "out") == 0
    assert ((read(tmp_path / "out/a.tif")[0] == NODATA) == (mask == 0)).all()


def test_degrees_are_no_hectares(weights: Path, tmp_path: Path) -> None:
    """A geographic or missing coordinate system: its own on the map, and no areas made of degrees."""
    degrees = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 9, 0, -1e-5, 48)}
    write_scene(tmp_path / "a.tif", 40, 50, **degrees)
    write_scene(tmp_path / "b.tif", 40, 50, crs=None)
    for name in "ab":
        assert run("-w", weights, "-i", tmp_path / f"{name}.tif", "-o", tmp_path / "out", "--polygons") == 0
        with rasterio.open(tmp_path / f"out/{name}.tif") as dataset:
            assert dataset.crs == (degrees["crs"] if name == "a" else None)
            assert dataset.transform == (degrees if name == "a" else UTM)["transform"]
        assert json.loads((tmp_path / f"out/{name}.json").read_text())["hectares"] is None
        meta, _, _, columns = pyogrio.raw.read(tmp_path / f"out/{name}.gpkg")
        assert np.isnan(dict(zip(meta["fields"], columns, strict=True))["area_m2"]).all()


def test_as_a_process(weights: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", 40, 50)
    command = [sys.executable, str(ROOT / "predict.py"), "-w", str(weights), "-i", "a.tif", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert re.search(r": [\d.]+ s, [\d.]+ megapixels/s; \w+ [\d.]+% \([\d.]+ ha\)", done.stdout)
    assert files(tmp_path / "out") == {"a.tif", "a.tif.aux.xml", "a.qml", "a.json"}
