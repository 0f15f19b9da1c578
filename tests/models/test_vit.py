"""Plain vision transformers as feature pyramids: timm's own features, any size, any precision of freezing."""

import logging

import pytest
import timm
import torch

from d2ls.errors import ConfigError
from d2ls.models import Backbone, DynamicDictionaryLearning, deferred_weights, pretrained
from d2ls.optim import adamw_lookahead
from tests.test_checkpoint import save

TINY = ["test_vit", "test_vit3", "vit_tiny_patch16_dinov3_qkvb", "eva02_tiny_patch14_224"]


@pytest.mark.parametrize("name", [*TINY, pytest.param("vit_small_patch14_dinov2", marks=pytest.mark.slow)])
def test_the_transformer_gives_timms_features(name: str) -> None:
    """At timm's own image size, and at another with timm's resampled position embeddings."""
    backbone = Backbone(name).eval()
    patch = backbone.body.patch
    for size in ((64, 96), (128, 64)):
        sides = [side // 16 * patch for side in size]
        theirs = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
        theirs.load_state_dict(backbone.trunk.state_dict())
        image = torch.randn(1, 3, *size)
        seen = torch.nn.functional.interpolate(image, sides, mode="bilinear", antialias=True)
        with torch.no_grad():
            tokens = theirs.forward_features(seen if patch != 16 else image)[:, theirs.num_prefix_tokens :]
            found = backbone.body.last_map(image)
        torch.testing.assert_close(found.flatten(2).mT, tokens)


@pytest.mark.parametrize("name", TINY)
def test_four_maps_and_any_image_size(name: str) -> None:
    net = DynamicDictionaryLearning(name, num_classes=3, stages=1, width=32, in_channels=4).eval()
    assert (net.backbone.step, net.backbone.smallest) == (32, 32)
    with torch.no_grad():
        maps = net.backbone(torch.randn(2, 4, 64, 96))
        assert [tuple(m.shape) for m in maps] == [
            (2, channels, 64 // stride, 96 // stride)
            for channels, stride in zip(net.backbone.channels, (4, 8, 16, 32), strict=True)
        ]
        for size in ((1, 1), (33, 70)):
            assert net(torch.randn(1, 4, *size)).shape == (1, 3, *size)


def test_every_parameter_is_trained() -> None:
    net = DynamicDictionaryLearning("test_vit", num_classes=3, stages=1, width=32, drop_path_rate=0.1).train()
    net.backbone.checkpoint_gradients()
    output = net(torch.randn(2, 3, 64, 72))
    (output.logits.square().mean() + output.static_logits.square().mean()).backward()
    assert not [key for key, parameter in net.named_parameters() if parameter.grad is None]


def test_only_the_transformer_is_frozen() -> None:
    backbone = Backbone("test_vit", frozen=True).train()
    assert not backbone.trunk.training
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("body.to_stride_") for name in trained)


def test_pretrained_weights_are_for_the_transformer(tmp_path, monkeypatch) -> None:
    theirs = timm.create_model("test_vit")
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    backbone = Backbone("test_vit", pretrained=str(tmp_path / "vit.pth"))
    for name, tensor in backbone.trunk.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])


def test_a_checkpoint_brings_it_back(tmp_path) -> None:
    from d2ls.checkpoint import read_checkpoint  # noqa: PLC0415

    net, image = DynamicDictionaryLearning("test_vit", 6, stages=1, width=32).eval(), torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        assert torch.equal(read_checkpoint(save(tmp_path / "a.ckpt", net)).build()(image), net(image))


def test_dinov3_by_name_with_its_licence(monkeypatch, caplog) -> None:
    with deferred_weights():
        backbone = Backbone("convnext_tiny.dinov3_lvd1689m", pretrained=True)
    assert backbone.channels == (96, 192, 384, 768)
    state = timm.create_model("convnext_tiny").state_dict()
    monkeypatch.setattr(pretrained, "_from_timm", lambda name: state)
    with caplog.at_level(logging.WARNING):
        backbone.load_pretrained()
    assert "DINOv3 licence" in caplog.text
    assert torch.equal(backbone.body.state_dict()["stem_0.weight"], state["stem.0.weight"])


def test_layer_decay() -> None:
    net = DynamicDictionaryLearning("test_vit", num_classes=3, stages=1, width=32)
    optimizer = adamw_lookahead(net, 1e-3, 0.01, 1e-4, 0.05, layer_decay=0.5)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(groups) == len(list(net.parameters()))
    trunk = net.backbone.trunk
    rate = {name: groups[id(parameter)]["lr"] for name, parameter in trunk.named_parameters()}
    assert rate["norm.weight"] == pytest.approx(1e-4)
    depth = len(trunk.blocks)
    for block in range(depth):
        assert rate[f"blocks.{block}.attn.qkv.weight"] == pytest.approx(1e-4 * 0.5 ** (depth - 1 - block))
    assert rate["patch_embed.proj.weight"] == pytest.approx(1e-4 * 0.5**depth)
    assert groups[id(net.backbone.body.to_stride_8.weight)]["lr"] == 1e-4
    assert groups[id(net.dictionary.table)]["lr"] == 1e-3
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01, 0.05}
    names = [group["name"] for group in optimizer.param_groups]
    assert len(set(names)) == len(names)


def test_layer_decay_is_checked() -> None:
    net = DynamicDictionaryLearning("test_convnext", num_classes=3, stages=1, width=32)
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5: the backbone .* no plain vision transformer"):
        adamw_lookahead(net, 1e-3, layer_decay=0.5)
    with pytest.raises(ConfigError, match=r"layer_decay=1\.5: expected"):
        adamw_lookahead(net, 1e-3, layer_decay=1.5)
