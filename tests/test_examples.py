"""The scripts of examples/ run as their first lines say, and give what PyTorch gives."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2ls.cli.common import run_main
from d2ls.cli.predict import main as predict_main
from d2ls.data.sets import vaihingen
from d2ls.export.facts import ModelFacts
from d2ls.export.folder import write_folder
from d2ls.export.graph import export_program
from d2ls.export.onnx_file import write_onnx
from tests.export import graphs
from tests.test_checkpoint import network

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A network, and a folder with its model folder `model` and `model.onnx`."""
    folder, net = tmp_path_factory.mktemp("examples"), network().eval()
    facts = ModelFacts(arguments=net.arguments, spec=vaihingen.SPEC)
    write_folder(net, facts, folder / "model")
    write_onnx(export_program(net, vaihingen.SPEC), facts, folder / "model.onnx")
    return net, folder


def run(script: str, *words: object) -> str:
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_onnx_with_numpy_alone(model: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    net, folder = model
    script = (ROOT / "examples" / "onnx_numpy.py").read_text()
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.M)) == {"json", "sys", "numpy", "onnxruntime"}
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    printed = run("onnx_numpy.py", folder / "model.onnx", tmp_path / "image.npy", tmp_path / "mask.ppm")
    probabilities = graphs.expected(net, vaihingen.SPEC, image.transpose(2, 0, 1)[None])[0]
    colours = np.array(vaihingen.SPEC.colours, np.uint8)[probabilities.argmax(0)]
    best_two = np.sort(probabilities, axis=0)[-2:]
    clear = best_two[1] - best_two[0] > 1e-4
    assert (np.asarray(Image.open(tmp_path / "mask.ppm")) == colours)[clear].all()
    assert all(name in printed for name in vaihingen.SPEC.classes)


def test_a_model_in_a_notebook(model: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    net, folder = model
    image = np.random.default_rng(1).integers(0, 256, (40, 33, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    printed = run("load_model.py", folder / "model", tmp_path / "photo.png", tmp_path / "mask.png")
    probabilities = graphs.expected(net, vaihingen.SPEC, image.transpose(2, 0, 1)[None])[0]
    best_two = np.sort(probabilities, axis=0)[-2:]
    clear = best_two[1] - best_two[0] > 1e-4
    colours = np.array(vaihingen.SPEC.colours, np.uint8)[probabilities.argmax(0)]
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == colours)[clear].all()
    assert f"best class: {probabilities.max(0).mean():.3f}" in printed


@pytest.mark.slow
def test_rasters_by_two_actors_of_ray(model: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """Real Ray on this machine: the maps of predict.py, a damaged raster told, each by one of at most two actors."""
    pytest.importorskip("ray")
    (tmp_path / "in").mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (60, 70 + number, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "bad.png").write_text("no picture")
    words = ("-w", model[1] / "model", "-i", tmp_path / "in", "--device", "cpu", "--window", "32")
    assert run_main(predict_main, [str(word) for word in (*words, "-o", tmp_path / "plain")]) == 2
    script = [sys.executable, str(ROOT / "examples" / "ray_predict.py"), "--actors", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [*script, *map(str, words), "-o", str(tmp_path / "ray")],
        capture_output=True, text=True, check=False, env=environment, timeout=400,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "4 of 5 rasters" in done.stdout
    assert done.stderr.count(f"error: {tmp_path / 'in' / 'bad.png'}: ") == 1
    actors = set(re.findall(r"\(MapWorker\(MapBatches\(Predictor\)\) pid=(\d+)\)", done.stderr + done.stdout))
    assert 1 <= len(actors) <= 2  # on a busy machine the first may have done all before the second has started
    names = {path.name for path in (tmp_path / "ray").iterdir()}
    assert names == {path.name for path in (tmp_path / "plain").iterdir()}
    for number in range(4):
        assert (tmp_path / "ray" / f"{number}.png").read_bytes() == (tmp_path / "plain" / f"{number}.png").read_bytes()
