"""The scripts of examples/ run as their first lines say, and give what PyTorch gives."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
