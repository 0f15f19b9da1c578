"""The model folders that come with the project."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import d2ls
from d2ls.cli.common import run_main
from d2ls.cli.export import main as export_main
from d2ls.cli.predict import main as predict_main
from d2ls.data import io as files
from d2ls.export.onnx_model import OnnxModel
from d2ls.synthetic import draw_scene

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "models").glob("*/config.json"))


def test_there_are_some() -> None:
    assert [folder.name for folder in FOLDERS] == ["demo", "dubai"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_load_and_segment_small_and_say_what_they_scored(folder: Path) -> None:
    model = d2ls.load_model(folder)
    mask = d2ls.predict(model, np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8))
    assert mask.shape == (70, 90)
    assert mask.max() < len(model.classes)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    assert model.window == {"demo": 192, "dubai": 320}[folder.name]  # crops of their configs
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert 0.5 < json.loads(text)["scores"]["mIoU"] < 1


@pytest.mark.slow
def test_all_forms_of_the_demo_give_the_same_mask(tmp_path: Path) -> None:
    """Pixel by pixel, but for ties below 1e-4: PyTorch, ONNX, torch.export, another folder, and predict.py."""
    demo = next(folder for folder in FOLDERS if folder.name == "demo")
    image, truth = draw_scene((168, 192), 12345)  # one window: the network was trained on samples of 192 px
    files.write_png(tmp_path / "scene.png", image)
    onnx, program, folder = (str(tmp_path / name) for name in ("demo.onnx", "demo.pt2", "again"))
    assert run_main(export_main, [str(demo), "-o", folder, "--onnx", onnx, "--pt2", program]) == 0
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    expected = OnnxModel(Path(onnx))(batch)[0]
    best = np.partition(expected, -2, axis=0)[-2:]
    clear = best[1] - best[0] > 1e-4
    assert clear.mean() > 0.99
    assert (expected.argmax(0) == truth).mean() > 0.8
    masks = {
        "torch": d2ls.predict(d2ls.load_model(demo, "cpu"), image),
        "again": d2ls.predict(d2ls.load_model(folder, "cpu"), image),
        "pt2": torch.export.load(program).module()(torch.from_numpy(batch))[0].argmax(0).numpy(),
    }
    for at, weights in enumerate((str(demo), folder, onnx)):
        out = tmp_path / f"maps{at}"
        assert run_main(predict_main, ["-w", weights, "-i", str(tmp_path / "scene.png"), "-o", str(out)]) == 0
        masks[weights] = files.read_index(next(out.glob("*.png")))
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask[clear], expected.argmax(0)[clear], err_msg=name)
