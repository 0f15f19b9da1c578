"""Checkpoints with the tensor names of the first versions still load, wherever they are read."""

import re

import pytest
import torch

from d2ls.checkpoint import load_weights, read_checkpoint
from d2ls.models import DynamicDictionaryLearning

# All parts of the interaction of a network with two stages, as the first versions named them.
OLD_NAMES = [
    *(
        f"interaction.stages.{stage}.{part}"
        for stage in range(2)
        for part in (
            "tokens_read.query.weight", "tokens_read.query.bias", "tokens_read.key.weight",
            "tokens_read.value.weight", "tokens_read.value.bias", "tokens_read.output.weight",
            "tokens_read.output.bias", "token_norm.weight", "token_norm.bias",
            "pixels_read.query.weight", "pixels_read.query.bias", "pixels_read.key.weight",
            "pixels_read.value.weight", "pixels_read.value.bias", "pixels_read.output.weight",
            "pixels_read.output.bias", "pixels_read.norm.weight", "pixels_read.norm.bias",
        )
    ),
    "interaction.last_read.query.weight", "interaction.last_read.query.bias", "interaction.last_read.key.weight",
    "interaction.last_read.value.weight", "interaction.last_read.value.bias", "interaction.last_read.output.weight",
    "interaction.last_read.output.bias", "interaction.last_norm.weight", "interaction.last_norm.bias",
]  # fmt: skip


def network():
    return DynamicDictionaryLearning("test_convnext", 3, stages=2, width=32).eval()


def old_state(net):
    """The network's state with the interaction's tensors under their old names; these stand in the same order."""
    state = net.state_dict()
    names = [name for name in state if name.startswith("interaction.")]
    old = dict(zip(names, OLD_NAMES, strict=True))
    return {old.get(name, name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_state_dict_of_the_first_versions(prefix):
    torch.manual_seed(0)
    trained, fresh = network(), network()
    state = {prefix + name: tensor for name, tensor in old_state(trained).items()}
    module = torch.nn.ModuleDict({"net": fresh}) if prefix else fresh  # as inside a LightningModule
    module.load_state_dict(state)
    image = torch.randn(1, 3, 40, 36)
    with torch.no_grad():
        assert torch.equal(fresh(image), trained(image))
    assert not [name for name in fresh.state_dict() if re.search("read|last", name)]


def test_a_checkpoint_file_of_the_first_versions(tmp_path):
    torch.manual_seed(0)
    trained, fresh = network(), network()
    state = {f"net.{name}": tensor for name, tensor in old_state(trained).items()}
    torch.save({"state_dict": state, "d2ls": {"model": trained.arguments}}, tmp_path / "old.ckpt")
    checkpoint = read_checkpoint(tmp_path / "old.ckpt")
    load_weights(fresh, checkpoint)
    for net in (fresh, checkpoint.build()):
        for name, tensor in trained.state_dict().items():
            assert torch.equal(net.state_dict()[name], tensor), name
