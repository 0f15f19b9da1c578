"""Networks of segmentation_models.pytorch under our recipe, and back from their checkpoints."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import d2ls
from d2ls.checkpoint import KEY, describe, load_weights, read_checkpoint
from d2ls.cli import export, predict, train
from d2ls.cli.common import run_main
from d2ls.config import load_config
from d2ls.data import io as files
from d2ls.data.sets import vaihingen
from d2ls.errors import CheckpointError, ConfigError
from d2ls.export.onnx_model import OnnxModel
from d2ls.models import DynamicDictionaryLearning
from d2ls.models.peers import SMPNetwork
from tests.tiny import CONFIG, write_config

NET = CONFIG[CONFIG.index("net = ") : CONFIG.index("use_aux_loss")]
PEER = 'from d2ls.models.peers import SMPNetwork\nnet = SMPNetwork("Unet", "test_resnet", num_classes)\n\n'
OPTIONS = {
    "Unet": {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 16)},
    "FPN": {"in_channels": 5},
    "Segformer": {},
}
smp = pytest.importorskip("segmentation_models_pytorch")


@pytest.mark.parametrize("decoder", ["Unet", "FPN", "Segformer", "UPerNet", "DeepLabV3Plus"])
def test_any_size_in_and_out_with_the_librarys_own_logits(decoder: str) -> None:
    torch.manual_seed(0)
    net = SMPNetwork(decoder, "test_resnet", 5).eval()
    own = getattr(smp, decoder)("tu-test_resnet", encoder_weights=None, classes=5).eval()
    own.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert net(torch.randn(2, 3, 70, 45)).shape == (2, 5, 70, 45)
        image = torch.randn(1, 3, 64, 96)
        torch.testing.assert_close(net(image), own(image))


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"Unets.*DeepLabV3Plus.*Unet"):
        SMPNetwork("Unets", "test_resnet", 5)
    with pytest.raises(ConfigError, match="no_such_net"):
        SMPNetwork("Unet", "no_such_net", 5)


def save(path: Path, net: nn.Module) -> Path:
    torch.save({"state_dict": net.state_dict(), KEY: describe(net, vaihingen.SPEC)}, path)
    return path


@pytest.mark.parametrize("decoder", OPTIONS)
def test_a_checkpoint_builds_its_network(decoder: str, tmp_path: Path) -> None:
    options: dict[str, Any] = OPTIONS[decoder]
    net = SMPNetwork(decoder, "test_resnet", 6, **options).eval()
    image = torch.randn(1, options.get("in_channels", 3), 50, 40)
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", net))
    with torch.no_grad():
        assert torch.equal(checkpoint.build()(image), net(image))
    load_weights(SMPNetwork(decoder, "test_resnet", 6, **options), checkpoint)


def test_checkpoints_of_other_networks_are_told_apart(tmp_path: Path) -> None:
    unet, ours = SMPNetwork("Unet", "test_resnet", 6), DynamicDictionaryLearning("test_resnet", 6, stages=1, width=32)
    of_unet, of_ours = (
        read_checkpoint(save(tmp_path / f"{n}.ckpt", net)) for n, net in (("unet", unet), ("ours", ours))
    )
    with pytest.raises(CheckpointError, match=r"ours\.ckpt was trained with network='Dyn.*network='SMPNetwork'"):
        load_weights(unet, of_ours)
    with pytest.raises(CheckpointError, match=r"unet\.ckpt was trained with network='SMPN.*network='DynamicDict"):
        load_weights(ours, of_unet)
    with pytest.raises(CheckpointError, match=r"decoder='Unet'.*decoder='FPN'"):
        load_weights(SMPNetwork("FPN", "test_resnet", 6), of_unet)
    foreign = {"network": "os.system", "command": "true"}
    torch.save({"state_dict": unet.state_dict(), KEY: describe(unet, None) | {"model": foreign}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x\.ckpt: its network is a os\.system, this version knows.*SMPNet"):
        read_checkpoint(tmp_path / "x.ckpt").build()


def test_one_that_was_written_before_needs_its_config(tmp_path: Path) -> None:
    net = SMPNetwork("Unet", "test_resnet", 6)
    torch.save(
        {"state_dict": net.state_dict(), KEY: describe(net, vaihingen.SPEC) | {"model": None}}, tmp_path / "a.ckpt"
    )
    with pytest.raises(CheckpointError, match=r"a\.ckpt does not say how its network was built.*-c"):
        d2ls.load_model(tmp_path / "a.ckpt")
    load_weights(net, read_checkpoint(tmp_path / "a.ckpt"))
    odd = SMPNetwork("Unet", "test_resnet", 6, activation=nn.Identity)  # no plain value
    assert odd.arguments is None


def test_trained_it_needs_no_config(run_folder: Path) -> None:
    """One step, and the masks of test script, library, predict.py and model folder agree."""
    config, weights = write_config(run_folder, (NET, PEER)), Path("model_weights/vaihingen/tiny/tiny.ckpt")
    assert run_main(train.main, ["-c", str(config), "max_epoch=1"]) == 0
    script = importlib.import_module("test_vaihingen").main
    for out, words in {"with": ["-c", str(config)], "without": ["-w", str(weights)]}.items():
        assert run_main(script, [*words, "-o", out]) == 0
    masks = [{path.name: files.read_index(path) for path in Path(out).glob("*.png")} for out in ("with", "without")]
    assert masks[0].keys() == masks[1].keys()
    assert all((masks[1][name] == mask).all() for name, mask in masks[0].items())
    assert run_main(export.main, [str(weights), "-o", "folder"]) == 0
    assert "Unet (test_resnet)" in Path("folder/README.md").read_text()
    image = next(iter(vaihingen.test().pairs)).image
    for out, model in {"map": weights, "again": Path("folder")}.items():
        words = ["-w", str(model), "-i", str(image), "-o", out, "--window", "1024"]
        assert run_main(predict.main, words) == 0
        found = files.read_index(next(Path(out).glob("*.png"), None) or next(Path(out).glob("*.tif")))
        expected = d2ls.predict(d2ls.load_model(model, "cpu"), files.read_image(image), window=1024)
        assert (found != expected).mean() < 1e-3
        assert (masks[0][f"{image.stem}.png"] != expected).mean() < 1e-3


@pytest.mark.slow
def test_its_onnx_file_gives_its_probabilities(tmp_path: Path) -> None:
    net = SMPNetwork("Unet", "test_resnet", 6).eval()
    assert run_main(export.main, [str(save(tmp_path / "a.ckpt", net)), "--onnx", str(tmp_path / "a.onnx")]) == 0
    model, rng = OnnxModel(tmp_path / "a.onnx"), np.random.default_rng(0)
    for size in ((70, 45), (64, 96), (1, 1)):
        pixels = rng.integers(0, 256, (1, 3, *size), dtype=np.uint8)
        factor, summand = (torch.from_numpy(values)[:, None, None] for values in vaihingen.SPEC.scale_and_offset())
        with torch.no_grad():
            expected = net(torch.from_numpy(pixels).float() * factor + summand).softmax(1).numpy()
        np.testing.assert_allclose(model(pixels), expected, atol=1e-4)


def test_a_foreign_network_is_refused_by_the_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, (NET, "from torch import nn\nnet = nn.Conv2d(3, num_classes, 1)\n\n"))
    torch.save(load_config(config).net.state_dict(), tmp_path / "a.pth")
    assert run_main(export.main, [str(tmp_path / "a.pth"), "-c", str(config), "-o", str(tmp_path / "x")]) == 2
    assert "a Conv2d, does not say how it was built" in capsys.readouterr().err
