"""Weights as safetensors: the same network back, without a config."""

import importlib.util
import json
from pathlib import Path

import pytest
import safetensors
import torch

from d2ls.checkpoint import read_checkpoint
from d2ls.cli.common import run_main
from d2ls.data.sets import vaihingen
from d2ls.errors import CheckpointError, ConfigError
from d2ls.export.weights import export_weights
from d2ls.models.weight_files import load_file
from tests.test_checkpoint import network, save
from tests.tiny import write_config

ROOT = Path(__file__).parents[2]


def run(*words: object) -> int:
    spec = importlib.util.spec_from_file_location("export_tool", ROOT / "tools" / "export_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return run_main(module.main, [str(word) for word in words])


def test_the_same_network_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, image = network().eval(), torch.randn(1, 3, 40, 50)
    save(tmp_path / "a.ckpt", net)
    assert run(tmp_path / "a.ckpt", tmp_path / "a.safetensors") == 0
    assert "-w" in capsys.readouterr().out
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.spec == vaihingen.SPEC
    assert checkpoint.epochs is None
    with torch.no_grad():
        assert torch.equal(checkpoint.build()(image), net(image))


def test_others_can_read_it(tmp_path: Path) -> None:
    net = network()
    export_weights(net, None, tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(net.state_dict())
        carried = json.loads(file.metadata()["d2ls"])
    assert carried["model"] == net.arguments
    assert carried["dataset"] is None


def test_a_bare_checkpoint_with_its_config(tmp_path: Path) -> None:
    net = network()
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    path = write_config(tmp_path)
    assert run(tmp_path / "bare.pth", tmp_path / "a.safetensors") == 2
    assert run(tmp_path / "bare.pth", tmp_path / "a.safetensors", "-c", path) == 0
    assert read_checkpoint(tmp_path / "a.safetensors").arguments["width"] == 32


@pytest.mark.parametrize("place", [0.3, 0.5, 0.999])
def test_a_bit_that_flips_is_found(place: float, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    export_weights(network(), vaihingen.SPEC, path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 8
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read as a weight file .*checksum"):
        load_file(path)


def test_another_ending(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.ckpt: expected a name that ends in \.safetensors"):
        export_weights(network(), None, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())
