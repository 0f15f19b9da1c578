"""Downloaded archives to a scored network, by the commands of the README."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from d2ls.data.labels import index_to_colours
from d2ls.data.sets.vaihingen import SPEC, TEST_TILES
from d2ls.synthetic import draw_scene
from tests.preparation import fake_archives

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("backbone=test_convnext", "pretrained=False", "max_epoch=1", "train_batch_size=2", "val_batch_size=1",
         "crop=128", "stages=1")  # fmt: skip


def run(folder, script, *arguments):
    environment = {**os.environ, "D2LS_DATA": str(folder / "data"), "OMP_NUM_THREADS": "2"}
    finished = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, f"{script}: {finished.stdout[-2000:]}{finished.stderr[-2000:]}"
    return finished.stdout


def draw(number, scenes):
    """Image, mask and eroded mask of a tile, encoded; no two images are alike."""
    image, mask = scenes[number % len(scenes)]
    image = image ^ np.random.default_rng(number).integers(4, size=image.shape, dtype=np.uint8)
    colours = index_to_colours(mask, SPEC)
    eroded = np.where((np.indices(mask.shape) % 40 == 0).any(axis=0)[..., None], 0, colours).astype(np.uint8)
    return (
        fake_archives.encode(image, compression="tiff_lzw"),
        fake_archives.encode(colours),
        fake_archives.encode(eroded),
    )


@pytest.mark.slow
def test_from_archives_to_scores(tmp_path):
    scenes = [draw_scene((500, 430), seed) for seed in range(6)]
    fake_archives.write_vaihingen(tmp_path / "downloads", partial(draw, scenes=scenes))
    out = run(tmp_path, "tools/prepare_data.py", "vaihingen", "--from", "downloads")
    assert "vaihingen/train/masks_1024" in out
    report = json.loads(run(tmp_path, "tools/check_data.py", "vaihingen", "--json"))
    assert report["ok"]
    assert {split["split"]: split["images"] for split in report["splits"]}["test"] == len(TEST_TILES)
    config = ROOT / "config/vaihingen/d2ls.py"
    run(tmp_path, "train.py", "-c", config, *SMALL)
    assert list((tmp_path / "model_weights/vaihingen/d2ls").glob("*.ckpt"))
    run(tmp_path, "test_vaihingen.py", "-c", config, "-o", "fig_results", "--rgb", *SMALL)
    assert len(list((tmp_path / "fig_results").rglob("top_mosaic_09cm_area*_0_0.png"))) == len(TEST_TILES)
