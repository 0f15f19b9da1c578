"""What checkpoints carry, and networks that come back from them."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from d2ls.checkpoint import KEY, describe, load_weights, read_checkpoint
from d2ls.data.sets import vaihingen
from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError
from d2ls.models import DynamicDictionaryLearning, deferred_weights
from tests.parity.test_networks import reference_state


def network(**changes: Any) -> DynamicDictionaryLearning:
    options: dict[str, Any] = {"backbone": "test_convnext", "num_classes": 6, "stages": 1, "width": 32} | changes
    return DynamicDictionaryLearning(**options)


def save(path: Path, net: nn.Module, spec: DatasetSpec | None = vaihingen.SPEC, **further: Any) -> Path:
    """A checkpoint as a training run writes it."""
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    weights["loss.weight"] = torch.ones(6)  # a loss may have tensors of its own
    torch.save({"epoch": 4, "state_dict": weights, KEY: describe(net, spec), **further}, path)
    return path


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 3, 40, 50)


@pytest.mark.parametrize(
    "changes",
    [{}, {"dictionary": "static"}, {"num_entries": 9}, {"head": "conv"}, {"aggregate": False}, {"interact": False}],
)
def test_a_network_comes_back_without_its_config(tmp_path: Path, image: torch.Tensor, changes: dict[str, Any]) -> None:
    net = network(**changes).eval()
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", net))
    again = checkpoint.build()
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(image), net(image))


@pytest.mark.parametrize("size", [0, -3, 2.5, "256", True])
def test_a_damaged_size_of_the_training_samples(tmp_path: Path, size: object) -> None:
    net = network()
    torch.save({"state_dict": net.state_dict(), KEY: describe(net, None) | {"train_size": size}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=rf"a\.ckpt: train_size is {re.escape(repr(size))}"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_checkpoint_carries_what_the_data_set_means(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", network())
    carried = torch.load(path, weights_only=True)[KEY]
    assert carried["dataset"]["classes"] == list(vaihingen.SPEC.classes)
    assert [tuple(colour) for colour in carried["dataset"]["colours"]] == list(vaihingen.SPEC.colours)
    assert carried["dataset"]["scored"] == [0, 1, 2, 3, 4]
    assert carried["model"]["width"] == 32
    checkpoint = read_checkpoint(path)
    assert checkpoint.spec == vaihingen.SPEC
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not checkpoint.is_reference
    assert checkpoint.epochs is None, "no state of a run in it"
    assert read_checkpoint(save(path, network(), optimizer_states=[{}])).epochs == 5


def test_a_bare_state_dict_needs_a_config(tmp_path: Path, image: torch.Tensor) -> None:
    net = network().eval()
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    checkpoint = read_checkpoint(tmp_path / "bare.pth")
    assert checkpoint.spec is None
    with pytest.raises(CheckpointError, match=r"bare\.pth does not say how its network was built.*with -c"):
        checkpoint.build()
    other = network().eval()
    assert load_weights(other, checkpoint) == []
    with torch.no_grad():
        assert torch.equal(other(image), net(image))


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("backbone", "test_convnext", "test_resnet"),
        ("num_classes", 6, 5),
        ("stages", 1, 2),
        ("dictionary", "dynamic", "static"),
        ("width", 32, 48),
        ("interact", True, False),
    ],
)
def test_disagreement_with_the_config_shows_both(tmp_path: Path, name: str, theirs: object, ours: object) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", network(**{name: theirs})))
    message = f"a.ckpt was trained with {name}={theirs!r}, the config has {name}={ours!r}. Use the config of that run"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_weights(network(**{name: ours}), checkpoint)


def test_options_of_training_may_differ(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", network(drop_path_rate=0.2)))
    net = network(freeze_backbone=True)
    load_weights(net, checkpoint)
    assert torch.equal(net.state_dict()["dictionary.table"], checkpoint.weights["dictionary.table"])


def test_loaded_weights_stand_for_pretrained_ones(tmp_path: Path, image: torch.Tensor) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "a.ckpt", network()))
    with deferred_weights():
        net = network(pretrained="gone.pth").eval()
    with pytest.raises(CheckpointError, match=r"pretrained='gone\.pth'"):
        net(image)
    load_weights(net, checkpoint)
    assert net(image).shape == (1, 6, 40, 50)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    weights = network().state_dict()
    first = weights.pop("dictionary.table")
    weights["more"] = torch.zeros(1)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(first: dictionary\.table\), 1 are unknown"):
        load_weights(network(), read_checkpoint(tmp_path / "a.pth"))
    del weights["more"]
    weights["dictionary.table"] = first[:, :-1]
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"table has shape \(6, 31\), the network of the config needs \(6, 32\)"):
        load_weights(network(), read_checkpoint(tmp_path / "a.pth"))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weight file .*gone\.ckpt"):
        read_checkpoint(tmp_path / "gone.ckpt")
    (tmp_path / "text.ckpt").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.ckpt cannot be read as a weight file"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"list\.ckpt holds no tensors by name"):
        read_checkpoint(tmp_path / "list.ckpt")


class Call:
    """Code in a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "call": Call()}, "bad.ckpt")
    with pytest.raises(CheckpointError, match=r"bad\.ckpt cannot be read"):
        read_checkpoint("bad.ckpt")
    assert not Path("executed").exists()


def test_another_network_with_a_decoder_is_not_taken_for_the_reference(tmp_path: Path) -> None:
    net = smp.Unet("tu-test_resnet", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 16, 8), classes=6)
    checkpoint = read_checkpoint(save(tmp_path / "u.ckpt", net))
    assert any(name.startswith("decoder.") for name in checkpoint.weights)
    assert not checkpoint.is_reference
    assert load_weights(net, checkpoint) == []
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_weights(network(), checkpoint)


def test_reference_checkpoints(tmp_path: Path) -> None:
    state = reference_state()
    torch.save({"state_dict": {f"net.{name}": tensor for name, tensor in state.items()}}, tmp_path / "ref.ckpt")
    checkpoint = read_checkpoint(tmp_path / "ref.ckpt")
    assert checkpoint.is_reference
    assert checkpoint.spec is None
    net = network(backbone="convnext_tiny", stages=3, width=256)
    assert load_weights(net, checkpoint), "parts that the reference never runs are left out by name"
    assert torch.equal(net.state_dict()["dictionary.table"], state["decoder.token.basic_queries.weight"])
    with pytest.raises(CheckpointError, match=r"\(reference names\) has 3 interaction stages, the config has stages=2"):
        load_weights(network(backbone="convnext_tiny", stages=2, width=256), checkpoint)
