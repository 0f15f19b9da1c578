"""The network against the plain transcription of the method, and what must hold for every option."""

import copy
import itertools
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.errors import ConfigError
from d2ls.models import DynamicDictionaryLearning, streaming
from tests.naive import NaiveD2LS

KINDS = ("dynamic", "static", "ones", "zeros")
OPTIONS = [
    {"dictionary": kind, "num_entries": entries, "aggregate": aggregate, "interact": interact}
    for kind, entries, aggregate, interact in itertools.product(KINDS, (None, 5), (True, False), (True, False))
] + [{"head": "conv", "aggregate": aggregate} for aggregate in (True, False)]


OPEN = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}  # height and width of exported graphs


def tiny(num_classes=3, **options):
    return DynamicDictionaryLearning("test_convnext", num_classes=num_classes, **{"stages": 1, "width": 32, **options})


def randomise(net):
    """Other values than the initial zeros and ones of norms and biases."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not name.startswith("backbone."):
                parameter.add_(0.2 * torch.randn_like(parameter))


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def compare(net, image):
    """Evaluation, every training output and every gradient, in float64."""
    naive = NaiveD2LS(net)
    with torch.no_grad():
        same(net.eval()(image), naive.eval()(image))
    gradients = []
    outputs = []
    for model in (net, naive):
        net.zero_grad()
        model.train()
        inputs = image.clone().requires_grad_()
        output = model(inputs)
        parts = [p for p in (output.logits, output.static_logits, output.dictionary) if p is not None]
        total = sum((p * torch.linspace(-1, 1, p.numel()).to(p).view_as(p)).sum() for p in parts)
        total.backward()
        outputs.append(parts)
        gradients.append({name: p.grad for name, p in net.named_parameters()} | {"image": inputs.grad})
    assert len(outputs[0]) == len(outputs[1])
    for found, expected in zip(*outputs, strict=True):
        same(found, expected)
    ours, theirs = gradients
    for name, expected in theirs.items():
        if expected is None:  # the loops never touch what they do not need
            assert ours[name] is None, name
            continue
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(
            ours[name], expected, rtol=1e-7, atol=1e-9 * scale, msg=lambda text, name=name: f"{name}: {text}"
        )
    return outputs[0]


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 75), st.integers(1, 75)),
    batch=st.integers(1, 2),
    classes=st.integers(1, 9),
    entries=st.none() | st.integers(1, 9),
    stages=st.integers(0, 3),
    width=st.sampled_from([16, 32, 64]),
    kind=st.sampled_from(KINDS),
    aggregate=st.booleans(),
    interact=st.booleans(),
    head=st.sampled_from(["dictionary", "dictionary", "conv"]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_plain_transcription(
    size, batch, classes, entries, stages, width, kind, aggregate, interact, head, seed
):
    torch.manual_seed(seed)
    net = tiny(
        classes,
        stages=stages,
        width=width,
        dictionary=kind,
        num_entries=entries,
        aggregate=aggregate,
        interact=interact,
        head=head,
    ).double()
    randomise(net)
    parts = compare(net, torch.randn(batch, 3, *size).double())
    assert parts[0].shape == (batch, classes, *size)
    assert len(parts) == (3 if kind == "dynamic" and head == "dictionary" else 1)


@pytest.mark.parametrize("way", ["plain", "chunks", "one chunk"])
@pytest.mark.parametrize(("width", "entries", "folded"), [(64, 4, True), (64, 5, False), (256, 16, True)])
def test_both_ways_of_attention_in_the_whole_network(width, entries, folded, way, monkeypatch):
    monkeypatch.setattr(streaming, "ELEMENTS", 2**20 if way == "one chunk" else 2**11)
    torch.manual_seed(0)
    net = tiny(3, stages=2, width=width, num_entries=entries, memory_efficient=way != "plain").double()
    assert net.interaction.final_attn.is_folded(entries) == folded
    randomise(net)
    compare(net, torch.randn(2, 3, 40, 49).double())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_other_backbones_equal_the_plain_transcription(backbone):
    """Batch norms in evaluation; in training each pass would move their statistics."""
    torch.manual_seed(0)
    net = DynamicDictionaryLearning(backbone, num_classes=3, stages=2, width=32, freeze_backbone=True).double()
    randomise(net)
    compare(net, torch.randn(2, 3, 66, 70).double())


def test_single_precision():
    torch.manual_seed(0)
    net = DynamicDictionaryLearning("test_convnext", num_classes=6).eval()
    image = torch.randn(1, 3, 66, 70)
    with torch.no_grad():
        torch.testing.assert_close(net(image), NaiveD2LS(net).eval()(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (66, 70), (33, 65), (32, 96), (31, 200)])
@pytest.mark.parametrize("in_channels", [1, 3, 4, 5])
def test_logits_have_the_size_of_the_image(size, in_channels):
    net = tiny(in_channels=in_channels)
    for batch in (1, 2):
        image = torch.randn(batch, in_channels, *size)
        output = net.train()(image)
        assert output.logits.shape == output.static_logits.shape == (batch, 3, *size)
        assert output.dictionary.shape == (batch, 3, 32)
        with torch.no_grad():
            logits = net.eval()(image)
        assert logits.shape == (batch, 3, *size)
        assert logits.isfinite().all()


def test_no_padding_where_none_is_needed():
    """Sizes that divide by 4 reach the backbone as they are; others with their border repeated up to that."""
    net = tiny().eval()
    seen = []
    net.backbone.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    image = torch.randn(1, 3, 36, 44)
    with torch.no_grad():
        net(image)
        net(image[..., :33, :43])
    assert seen[0] is image or torch.equal(seen[0], image)
    assert seen[1].shape == image.shape
    torch.testing.assert_close(seen[1][..., :33, :43], image[..., :33, :43])
    torch.testing.assert_close(seen[1][..., 33:, :43], image[..., 32:33, :43].expand(-1, -1, 3, -1))
    torch.testing.assert_close(seen[1][..., :33, 43], image[..., :33, 42])


def test_images_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    net = tiny(num_entries=2).double().eval()
    images = torch.randn(3, 3, 40, 36).double()
    with torch.no_grad():
        together = net(images)
        for image, expected in zip(images, together, strict=True):
            torch.testing.assert_close(net(image[None])[0], expected)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_every_parameter_has_a_gradient(options):
    torch.manual_seed(0)
    net = tiny(**options).train()
    output = net(torch.randn(2, 3, 40, 32))
    dynamic = options.get("dictionary") == "dynamic"
    assert (output.static_logits is not None) == (output.dictionary is not None) == dynamic
    total = output.logits.square().mean()
    if dynamic:
        total = total + output.static_logits.square().mean()
    total.backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]
    evaluated = net.eval()(torch.randn(2, 3, 40, 32))
    assert isinstance(evaluated, torch.Tensor)


def test_frozen_backbone():
    torch.manual_seed(0)
    net = DynamicDictionaryLearning("test_resnet", num_classes=3, width=32, stages=1, freeze_backbone=True)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    assert net.training
    assert not any(module.training for module in net.backbone.modules())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randn(2, 3, 40, 32)).logits.square().mean().backward()
    optimizer.step()
    assert all(p.grad is None for p in net.backbone.parameters())
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.")]
    net.eval().train()
    assert not net.backbone.training

    free = DynamicDictionaryLearning("test_resnet", num_classes=3, width=32, stages=1).train()
    name, statistic = next((n, t.clone()) for n, t in free.state_dict().items() if n.endswith("running_mean"))
    free(torch.randn(2, 3, 40, 32))
    assert not torch.equal(free.state_dict()[name], statistic), "an unfrozen backbone does move"


def test_sizes_of_the_paper():
    """94.03 M parameters in the reference with ConvNeXt-B, of which 3.95 M, and the key biases, are never used."""
    shapes = json.loads((Path(__file__).parents[1] / "parity" / "state_convnext_tiny.json").read_text())
    stage = "decoder.interactor.layers.0."
    unused = ("self_attn.", "norm1.", "mlp.", "norm3.")
    sizes = {n.removeprefix(stage): torch.Size(s).numel() for n, s in shapes.items() if n.startswith(stage)}
    never_run = 3 * sum(size for name, size in sizes.items() if name.startswith(unused))
    assert round(never_run / 1e6, 2) == 3.95
    key_biases = (3 * 2 + 1) * 128
    net = DynamicDictionaryLearning("convnext_base", num_classes=7, stages=3)
    total = sum(p.numel() for p in net.parameters())
    assert round((total + key_biases + never_run) / 1e6, 2) == 94.03


def test_initial_values():
    torch.manual_seed(0)
    net = tiny(num_classes=64, width=128)
    assert abs(net.dictionary.table.std() - 1) < 0.05
    for layer in (net.aggregation.embed[0], net.aggregation.merge, net.head.token_mlp[0], net.dictionary.candidates):
        bound = layer.in_features**-0.5  # PyTorch's default for linear layers and 1x1 convolutions
        assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert net.interaction.final_norm.weight.eq(1).all()


@pytest.mark.parametrize(
    "options", [{}, {"num_entries": 5}, {"head": "conv"}, {"dictionary": "ones", "in_channels": 4}]
)
def test_rebuilt_from_its_arguments(options):
    torch.manual_seed(0)
    net = tiny(**options).eval()
    arguments = json.loads(json.dumps(net.arguments))
    again = DynamicDictionaryLearning(**arguments).eval()
    again.load_state_dict(net.state_dict())
    assert again.arguments == net.arguments
    assert "pretrained" not in arguments
    image = torch.randn(1, options.get("in_channels", 3), 33, 40)
    with torch.no_grad():
        assert torch.equal(again(image), net(image))


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copies(clone):
    net = tiny().eval()
    again = clone(net)
    image = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        expected = net(image)
        assert torch.equal(again(image), expected)
        for parameter in net.parameters():
            parameter.zero_()
        assert torch.equal(again(image), expected)


@pytest.mark.parametrize("elements", [2**9, 2**20], ids=["chunks", "whole"])
def test_half_precision_autocast(elements, monkeypatch):
    """Outputs within bfloat16's eight bits or so, and gradients that point the same way."""
    monkeypatch.setattr(streaming, "ELEMENTS", elements)
    torch.manual_seed(0)
    net = tiny()
    image = torch.randn(2, 3, 36, 44)
    found = []
    for half in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = net.train()(image)
            total = output.logits.float().square().mean() + output.static_logits.float().square().mean()
        total.backward()
        gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None and p.grad.norm() > 1e-4}
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
        found.append((output.logits.float().detach(), torch.cat([g.flatten() for g in gradients.values()])))
    (expected, gradient), (logits, half_gradient) = found
    assert (logits - expected).abs().max() < 0.1 * max(1.0, expected.abs().max().item())
    assert torch.cosine_similarity(gradient, half_gradient, dim=0) > 0.98


def test_a_network_wholly_in_half_precision():
    """Without autocast, as Lightning's bf16-true has it."""
    torch.manual_seed(0)
    net = tiny()
    image = torch.randn(2, 3, 36, 44)
    expected = net.train()(image).logits
    net.bfloat16()
    output = net(image.bfloat16())
    (output.logits.square().mean() + output.static_logits.square().mean()).backward()
    assert output.logits.dtype == torch.bfloat16
    assert (output.logits.float() - expected).abs().max() < 0.1 * max(1.0, expected.abs().max().item())
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"num_entries": 9}, {"head": "conv"}])
def test_compiles_as_one_graph(options):
    torch.manual_seed(0)
    net = tiny(**options).eval()
    image = torch.randn(1, 3, 36, 44)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True)
        torch.testing.assert_close(compiled(image), net(image), rtol=1e-3, atol=1e-4)
    gradients = []
    for model in (net, compiled):
        net.train().zero_grad()
        model(image).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-4)


def test_exports():
    net = tiny().eval()
    image = torch.randn(1, 3, 36, 44)
    with torch.no_grad():
        exported = torch.export.export(net, (image,)).module()
        torch.testing.assert_close(exported(image), net(image))


@pytest.mark.parametrize("example", [(64, 64), (70, 101)])
def test_traced_for_any_size(example):
    """The padding is part of the graph, whatever size it was recorded with."""
    net = tiny().eval()
    images = [torch.randn(1, 3, *size) for size in (example, (70, 101), (72, 104), (33, 65))]
    with torch.no_grad():
        traced = torch.jit.trace(net, images[0], check_trace=False)
        for image in images:
            torch.testing.assert_close(traced(image), net(image))


def test_exported_for_any_size():
    """torch.export, and ONNX in its runtime."""
    net = tiny().eval()
    images = [torch.randn(1, 3, *size) for size in ((70, 101), (72, 104), (96, 67))]
    with torch.no_grad():
        exported = torch.export.export(net, (images[0],), dynamic_shapes=(OPEN,))
        for image in images:
            torch.testing.assert_close(exported.module()(image), net(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_of_any_size(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = tiny().eval()
    images = [torch.randn(1, 3, *size) for size in ((70, 101), (72, 104), (96, 67))]
    torch.onnx.export(net, (images[0],), tmp_path / "net.onnx", dynamo=True, dynamic_shapes=(OPEN,))
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    for image in images:
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), net(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_efficient": "yes"}, ["memory_efficient='yes'", "'auto'"]),
        ({"width": 24}, ["width=24", "16"]),
        ({"width": 0}, ["width=0", "16"]),
        ({"num_classes": 0}, ["num_classes=0", "at least 1"]),
        ({"num_entries": 0}, ["num_entries=0", "at least 1"]),
        ({"stages": -1}, ["stages=-1", "at least 0"]),
        ({"in_channels": 0}, ["in_channels=0", "at least 1"]),
        ({"dictionary": "dynamc"}, ["dictionary='dynamc'", "'dynamic'", "'static'", "'ones'", "'zeros'"]),
        ({"head": "plain"}, ["head='plain'", "'dictionary'", "'conv'"]),
    ],
)
def test_wrong_options_name_the_right_ones(options, words):
    with pytest.raises(ConfigError) as caught:
        tiny(**options)
    for word in words:
        assert word in str(caught.value)
