"""Checkpoints of the reference that do not fit say what is wrong; what is switched off is reported."""

import warnings

import pytest
import torch

from d2ls.errors import CheckpointError
from d2ls.models import DynamicDictionaryLearning, load_reference_weights
from tests.parity.test_networks import reference_state

STAGE = "decoder.interactor.layers.{}."


@pytest.fixture(scope="module")
def state():
    return reference_state()


def build(num_classes=6, **options):
    with torch.device("meta"):
        net = DynamicDictionaryLearning("convnext_tiny", num_classes=num_classes, **options)
    return net.to_empty(device="cpu")


def refuses(net, state, *words):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_reference_weights(net, state)
    for word in words:
        assert word in str(caught.value)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], equal_nan=True, rtol=0, atol=0)


def test_unknown_name(state):
    refuses(build(), state | {"decoder.surprise.weight": torch.zeros(1)}, "decoder.surprise.weight", "1 tensors")
    refuses(build(), state | {"backbone.9.weight": torch.zeros(1)}, "backbone.9.weight")


@pytest.mark.parametrize(
    "name", ["aggregator.weight", "backbone.0.1.0.layer_scale", "decoder.token.basic_queries.weight"]
)
def test_missing_tensor(state, name):
    refuses(build(), {n: t for n, t in state.items() if n != name}, "lacks 1 tensors")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("aggregator.weight", (256, 512, 1, 1)),
        ("aggregator.weight", (1024, 256, 1, 1)),  # as many numbers, in another order
        ("decoder.token.basic_queries.weight", (7, 256)),
        ("backbone.0.1.0.layer_scale", (48, 2, 1)),
    ],
)
def test_wrong_shape(state, name, shape):
    net = build()
    right = {"aggregator.weight": (256, 1024), "backbone.0.1.0.layer_scale": (96,)}.get(name, (6, 256))
    refuses(net, state | {name: torch.zeros(shape)}, name, str(shape), str(right))


def test_other_number_of_classes(state):
    refuses(build(num_classes=8), state, "(6, 256)", "(8, 256)")


def test_other_backbone(state):
    with torch.device("meta"):
        small = DynamicDictionaryLearning("convnext_small", num_classes=6)
        resnet = DynamicDictionaryLearning("resnet18", num_classes=6)
    with pytest.raises(CheckpointError, match=r"lacks .* tensors"):
        load_reference_weights(small, state)
    # Its projections have other shapes, and are looked at first.
    with pytest.raises(CheckpointError, match=r"linear_c\.\d.*shape"):
        load_reference_weights(resnet, state)


def test_deeper_backbone_is_not_loaded_in_part(state):
    """ConvNeXt-S has all tensors of ConvNeXt-T, with the same shapes, and 18 blocks more."""
    block = "backbone.0.5.0."
    more = {n.replace(block, "backbone.0.5.9."): t for n, t in state.items() if n.startswith(block)}
    assert more
    refuses(build(), state | more, "backbone.0.5.9.", "no place")


def test_fewer_stages_warn(state):
    net = build(stages=2)
    with pytest.warns(UserWarning, match=r"3 interaction stages and this network 2"):
        left_out = load_reference_weights(net, state)
    assert {n for n in state if n.startswith(STAGE.format(2))} <= set(left_out)
    assert not [n for n in left_out if n.startswith(STAGE.format(1) + "cross") and not n.endswith("k_proj.bias")]


def test_more_stages_are_missing(state):
    refuses(build(stages=4), state, "interaction.stages.3", "stages")


@pytest.mark.parametrize(
    ("options", "prefixes"),
    [
        ({"dictionary": "static"}, ("decoder.token.token_mlp.", "decoder.feature_modulator.")),
        ({"dictionary": "ones"}, ("decoder.token.", "decoder.feature_modulator.")),
        ({"dictionary": "zeros"}, ("decoder.token.", "decoder.feature_modulator.")),
        ({"interact": False}, ("decoder.interactor.", "pe_layer.")),
        ({"aggregate": False}, ("linear_c.0.", "linear_c.1.", "linear_c.2.", "aggregator.")),
    ],
)
def test_switched_off_parts_are_reported(state, options, prefixes):
    net = build(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left_out = load_reference_weights(net, state)
    always = set(load_reference_weights(build(), state))
    assert {n for n in state if n.startswith(prefixes)} | always == set(left_out)
    if options == {"aggregate": False}:
        torch.testing.assert_close(net.aggregation.embed[0].weight, state["linear_c.3.proj.weight"])


def test_lightning_checkpoint(state):
    checkpoint = {"state_dict": {f"net.{n}": t for n, t in state.items()}, "epoch": 3, "hyper_parameters": {}}
    ours, plain = build(), build()
    assert load_reference_weights(ours, checkpoint) == load_reference_weights(plain, state)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}])
def test_nothing_inside(content):
    with pytest.raises(CheckpointError, match="no tensors"):
        load_reference_weights(build(), content)


def test_reference_weights_replace_pending_ones(state):
    net = build()
    net.backbone.pending = "torchvision"
    load_reference_weights(net, state)
    assert not net.backbone.pending
