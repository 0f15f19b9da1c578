"""Feature pyramids of many families: four NCHW maps at the right strides, everything trained, everything stated."""

import copy

import pytest
import timm
import torch
from timm.layers import DropPath

from d2ls.errors import ConfigError
from d2ls.models import Backbone, DynamicDictionaryLearning

QUICK = [
    "test_convnext",
    "test_resnet",
    "test_efficientnet",
    "mobilenetv3_small_100",
    "tf_efficientnet_lite0",
    "resnet18",
    "dla34",  # timm counts its maps from stride 1
]
WINDOWED = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"]  # channels last, fixed window sizes
MORE = [
    "maxvit_tiny_tf_224",
    "convnext_tiny",
    "resnet101",
    "densenet121",
    "hrnet_w18_small",
    "davit_tiny",
    "mvitv2_tiny",
    "regnetx_002",
]


def families(quick, slow=()):
    return [*quick, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


@pytest.mark.parametrize("name", families([*QUICK, *WINDOWED], MORE))
def test_four_maps(name):
    backbone = Backbone(name).eval()
    assert len(backbone.channels) == 4
    for height, width in ((64, 96), (128, 64)) if backbone.step <= 32 else ((224, 448),):
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, height, width))
        assert [tuple(m.shape) for m in maps] == [
            (1, channels, height // stride, width // stride)
            for channels, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
        ]


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_efficientnet", "resnet18"])
def test_maps_are_the_raw_stage_outputs(name):
    """timm's classifier network, asked for its intermediate maps without norm, agrees."""
    torch.manual_seed(0)
    backbone = Backbone(name).eval()
    full = timm.create_model(name).eval()
    renamed = {}
    ours = {key.replace(".", "_"): tensor for key, tensor in backbone.body.state_dict().items()}
    for key, tensor in full.state_dict().items():
        renamed[key] = ours.get(key.replace(".", "_"), tensor)
    full.load_state_dict(renamed)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = full.forward_intermediates(image, norm=False, intermediates_only=True)
        by_size = {m.shape[-1]: m for m in expected}  # the last map of each size
        for found in backbone(image):
            torch.testing.assert_close(found, by_size[found.shape[-1]])


@pytest.mark.parametrize("name", families([*QUICK, WINDOWED[0]], WINDOWED[1:]))
def test_every_parameter_is_used(name):
    torch.manual_seed(0)
    net = DynamicDictionaryLearning(name, num_classes=3, stages=1, width=32).train()
    output = net(torch.randn(2, 3, 64, 72))
    (output.logits.square().mean() + output.static_logits.square().mean()).backward()
    assert not [key for key, parameter in net.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", families([*QUICK, WINDOWED[0]], [*WINDOWED[1:], *MORE]))
def test_any_image_size(name):
    net = DynamicDictionaryLearning(name, num_classes=3, stages=1, width=32).eval()
    for size in ((1, 1), (5, 7), (66, 70), (33, 65)):
        with torch.no_grad():
            logits = net(torch.randn(1, 3, *size))
        assert logits.shape == (1, 3, *size)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", [*QUICK, *WINDOWED])
@pytest.mark.parametrize("in_channels", [1, 5])
def test_any_number_of_channels(name, in_channels):
    backbone = Backbone(name, in_channels=in_channels).eval()
    with torch.no_grad():
        assert len(backbone(torch.randn(1, in_channels, 64, 64))) == 4


@pytest.mark.parametrize("name", ["test_vit_relpos"])
def test_transformers_of_one_size_are_refused(name):
    with pytest.raises(ConfigError) as caught:
        Backbone(name)
    text = str(caught.value)
    assert name in text
    assert "[16, 16, 16]" in text
    assert "[4, 8, 16, 32]" in text
    assert "vision transformer" in text
    assert "convnext_tiny" in text


def test_unknown_names_are_refused_with_similar_ones():
    with pytest.raises(ConfigError, match=r"convnext_tinny.*similar.*convnext_.*list_models"):
        Backbone("convnext_tinny")
    with pytest.raises(ConfigError, match=r"resnet18\.nope.*tags.*resnet18\.tv_in1k"):
        Backbone("resnet18.nope")


@pytest.mark.parametrize(
    ("name", "step", "smallest"),
    [
        ("test_convnext", 4, 32),
        ("resnet18", 4, 4),
        ("tf_efficientnet_lite0", 4, 4),
        ("dla34", 32, 32),
        pytest.param("hrnet_w18_small", 32, 32, marks=pytest.mark.slow),
        pytest.param("maxvit_tiny_tf_224", 224, 224, marks=pytest.mark.slow),
    ],
)
def test_sizes_that_a_network_takes(name, step, smallest):
    """ConvNeXt and ResNet, the reference's, see an image as it is wherever the reference takes it."""
    backbone = Backbone(name)
    assert backbone.training
    assert (backbone.step, backbone.smallest) == (step, smallest)


def test_networks_of_one_image_size_are_refused():
    with pytest.raises(ConfigError, match=r"coat_tiny.*224 x 224.*any size, such as convnext_tiny"):
        Backbone("coat_tiny")


def test_building_and_trying_sizes_leaves_no_trace():
    torch.manual_seed(0)
    backbone = Backbone("test_resnet")
    statistics = {k: t for k, t in backbone.state_dict().items() if "running" in k or "num_batches" in k}
    for key, tensor in statistics.items():
        assert tensor.eq(1 if key.endswith("running_var") else 0).all()
    assert all(module.training for module in backbone.modules())


def rates(module):
    """Rates of the stochastic depth of each block, 0 where timm builds none."""
    blocks = [block for stage in module.body.children() for block in getattr(stage, "blocks", [])]
    return [block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0 for block in blocks]


@pytest.mark.parametrize(
    ("name", "final", "blocks"),
    [("convnext_tiny", 0.1, 18), ("convnext_small", 0.4, 36), ("convnext_base", 0.5, 36), ("test_convnext", 0.0, 9)],
)
def test_stochastic_depth_follows_the_linear_rule(name, final, blocks):
    with torch.device("meta"):
        by_default = Backbone(name)
        chosen = Backbone(timm.list_pretrained(name)[0], drop_path_rate=0.3 if final else None)
    for module, rate in ((by_default, final), (chosen, 0.3 if final else 0.0)):
        assert len(rates(module)) == blocks
        assert rates(module) == pytest.approx(torch.linspace(0, rate, blocks).tolist(), abs=1e-6)


def test_stochastic_depth_by_tag_and_switched_off():
    with torch.device("meta"):
        assert max(rates(Backbone("convnext_tiny.fb_in22k"))) == pytest.approx(0.1)
        assert not any(rates(Backbone("convnext_tiny", drop_path_rate=0)))


def test_stochastic_depth_acts_in_training_alone():
    torch.manual_seed(0)
    backbone = Backbone("test_convnext", drop_path_rate=0.9)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone.eval()(image)[-1], backbone(image)[-1])
    backbone.train()
    assert not all(torch.equal(backbone(image)[-1], backbone(image)[-1]) for _ in range(5))


def test_frozen():
    backbone = Backbone("test_resnet", frozen=True, drop_path_rate=0.9).train()
    assert not [p for p in backbone.parameters() if p.requires_grad]
    assert not [module for module in backbone.modules() if module.training]
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone(image)[-1], backbone(image)[-1])


def test_stochastic_depth_where_there_is_none():
    with pytest.raises(ConfigError, match=r"vgg11.*stochastic depth.*drop_path_rate=0"):
        Backbone("vgg11", drop_path_rate=0.2)


@pytest.mark.parametrize("name", families(["test_convnext", "test_resnet", "test_efficientnet"], WINDOWED))
def test_checkpointing_changes_no_gradient(name):
    """With batch norm in evaluation, as its statistics are taken in both passes of the forward."""
    torch.manual_seed(0)
    plain = Backbone(name).double().eval()
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpoint_gradients()
    image = torch.randn(1, 3, 64, 64).double()
    found = [torch.stack([m.square().mean() for m in net(image)]).sum() for net in (plain, checkpointed)]
    assert found[0].equal(found[1])
    gradients = [
        torch.autograd.grad(total, net.parameters()) for total, net in zip(found, (plain, checkpointed), strict=True)
    ]
    torch.testing.assert_close(*gradients)


def test_checkpointing_calls_the_blocks_again():
    backbone = Backbone("test_convnext")
    calls = []
    backbone.body.stages_1.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for expected in (1, 3):
        backbone(torch.randn(1, 3, 64, 64))[-1].sum().backward()
        assert len(calls) == expected
        backbone.checkpoint_gradients()


def test_checkpointing_where_timm_has_none():
    backbone = Backbone("test_resnet")
    backbone.body = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"test_resnet.*checkpoint_backbone=False"):
        backbone.checkpoint_gradients()
