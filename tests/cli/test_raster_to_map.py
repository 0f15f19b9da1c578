"""From a raster to a checked map: statistics, training on the raster itself, prediction, against what was drawn."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
import torch
from rasterio.windows import Window

from d2ls.cli import band_statistics, predict, train
from d2ls.cli.common import run_main
from tests.scenes import CLASSES, CRS, TABLE, TRANSFORM, Scene

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/your_data.md").read_text(encoding="utf-8")
CONFIG = re.search(r'```python\n("""Fields in satellite images."""\n.*?)```', PAGE, re.DOTALL)[1]
TINY = {
    "backbone": "test_convnext", "pretrained": False, "width": 32, "stages": 1, "crop": 64, "scales": (1.0,),
    "use_aux_loss": False, "contrastive_weight": 0.0, "train_batch_size": 4, "num_workers": 0, "accelerator": "cpu",
    "lr": 1e-2,
}  # fmt: skip
PIXEL = 0.25  # square metres


Run = Callable[..., str]


def in_this_process(capsys: pytest.CaptureFixture[str]) -> Run:
    """Gives what a script prints."""

    def run(main: Callable[[list[str]], int], *words: str) -> str:
        capsys.readouterr()
        assert run_main(main, list(words)) == 0
        return capsys.readouterr().out

    return run


def in_processes(folder: Path, peaks: dict[str, float]) -> Run:
    """The same; notes seconds and peak memory in megabytes of each process."""

    def run(main: Callable[[list[str]], int], *words: str) -> str:
        command = [sys.executable, "-c", MEASURED, main.__module__, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        printed, _, peak = done.stdout.rpartition("peak ")
        name = main.__module__.rpartition(".")[2]
        peaks[name] = int(peak) / 1024
        print(f"{name}: {time.perf_counter() - begin:.0f} s, peak memory {peaks[name]:.0f} MB")
        return printed

    return run


MEASURED = """
import re, sys
from importlib import import_module
assert import_module(sys.argv[1]).main(sys.argv[2:]) == 0
# Not ru_maxrss: a new process has its parent's, from before its own program began.
print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def settings(**changes: object) -> list[str]:
    return [f"{name}={value!r}" if not isinstance(value, str) else f"{name}={value}" for name, value in changes.items()]


def follow_the_page(folder: Path, scene: Scene, run: Run, **small: object) -> None:
    """The steps of docs/your_data.md on a drawn scene."""
    for name in ("scenes", "labels", "config/fields"):
        (folder / name).mkdir(parents=True)
    for name in ("raster", "small.py", "paper.py"):
        (folder / "config" / name).symlink_to(ROOT / "config" / name)
    scene.write(folder / "scenes/north.tif")
    scene.write_polygons(folder / "labels/fields.gpkg")
    (folder / "labels/classes.csv").write_text(TABLE)
    words = settings(**{**TINY, **small})
    light = [word for word in words if word.partition("=")[0] in ("block", "gap", "backbone", "pretrained", "stages")]
    data = ("-c", "config/raster/d2ls.py", "data=scenes", "labels=labels/fields.gpkg")
    image = f"image = dict(\n{run(band_statistics.main, *data, *light)})\n"
    text = re.sub(r"^image = dict\(.*?^\)\n", lambda _: image, CONFIG, flags=re.DOTALL | re.MULTILINE)
    assert text.count("image = ") == 1
    (folder / "config/fields/d2ls.py").write_text(text)
    run(train.main, "-c", "config/fields/d2ls.py", *words)
    window = str({**TINY, **small}["crop"])  # what is learnt on small crops holds for small windows
    command = ("-w", "model_weights/scenes/d2ls/d2ls.ckpt", "-i", "scenes", "-o", "maps", "--polygons")
    print(run(predict.main, *command, "--device", "cpu", "--window", window, "-b", "8"))


def check_map(folder: Path, scene: Scene) -> float:
    """Compare map, polygons and summary with what was drawn; the mean IoU."""
    matrix = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    with rasterio.open(folder / "maps/north.tif") as file:
        assert (file.crs, file.transform, file.shape) == (CRS, TRANSFORM, (scene.height, scene.width))
        for top, bottom in scene.chunks():
            found = file.read(1, window=Window(0, top, scene.width, bottom - top))
            known, truth = scene.has_data(top, bottom), scene.truth(top, bottom)
            assert ((found != 255) == known).all()
            pairs = truth[known].astype(int) * len(CLASSES) + found[known]
            matrix += np.bincount(pairs, minlength=matrix.size).reshape(matrix.shape)
    summary = json.loads((folder / "maps/north.json").read_text())
    hectares = matrix.sum(axis=0) * PIXEL / 1e4
    assert summary["hectares"] == pytest.approx(dict(zip(CLASSES, hectares, strict=True)))
    meta, _, shapes, columns = pyogrio.raw.read(folder / "maps/north.gpkg")
    fields = dict(zip(meta["fields"], columns, strict=True))
    assert meta["crs"] == CRS
    areas = shapely.area(shapely.from_wkb(shapes))
    np.testing.assert_allclose(areas, fields["area_m2"])
    for name, expected in zip(CLASSES, hectares, strict=True):
        assert areas[fields["class"] == name].sum() / 1e4 == pytest.approx(expected)
    drawn, both = matrix.sum(axis=1), np.diag(matrix)
    assert hectares == pytest.approx(drawn * PIXEL / 1e4, rel=0.25)
    return float(np.mean(both / (drawn + matrix.sum(axis=0) - both)))


def test_a_small_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    scene = Scene(500, 700)
    steps = {"max_epoch": 12, "check_val_every_n_epoch": 12}
    with torch.random.fork_rng():
        follow_the_page(tmp_path, scene, in_this_process(capsys), block=80, gap=2, val_share=0.25, **steps)
    assert check_map(tmp_path, scene) > 0.8


@pytest.mark.slow
def test_a_scene_of_12000_by_9000_pixels(tmp_path: Path) -> None:
    """108 megapixels, 864 MB, on one core; run with -s for times and memory."""
    scene, peaks = Scene(9_000, 12_000), dict[str, float]()
    steps = {"max_epoch": 4, "check_val_every_n_epoch": 4}
    begin = time.perf_counter()
    follow_the_page(tmp_path, scene, in_processes(tmp_path, peaks), val_share=0.1, **steps)
    iou = check_map(tmp_path, scene)
    print(f"mIoU {iou:.3f}; {time.perf_counter() - begin:.0f} s in all")
    assert iou > 0.8
    assert max(peaks.values()) < 1500
