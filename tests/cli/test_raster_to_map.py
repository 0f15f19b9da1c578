"""From a raster to a checked map: statistics, training on the raster itself, prediction, against what was drawn."""

import json
import re
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
