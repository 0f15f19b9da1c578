"""Whole networks with the reference's weights give the reference's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from d2ls.errors import CheckpointError
from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning, load_reference_weights
from d2ls.models.reference import _ours
from tests.naive import NaiveD2LS
from tests.parity import cases

FOLDER = Path(__file__).parent
NO_KEY_BIAS = ".k_proj.bias"  # not built: without effect in exact arithmetic


def read(name):
    case = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as file:
        return case, {key: torch.from_numpy(file[key]) for key in file}


def shapes(state_file, *, entries, stages):
    """Names and shapes of the reference for other numbers of entries and stages than the file's (6, and its own)."""
    result = {}
    for name, shape in json.loads((FOLDER / state_file).read_text()).items():
        parts = name.split(".")
        if name.startswith("decoder.interactor.layers.") and int(parts[3]) >= stages:
            continue
        if name == "decoder.token.basic_queries.weight" or name.startswith("decoder.feature_modulator.mlp2.2."):
            shape[0] = shape[0] // 6 * entries
        result[name] = tuple(shape)
    return result


def reference_state(state_file="state_convnext_tiny.json", *, entries=6, stages=3):
    return {
        name: torch.as_tensor(cases.weights(name, shape))
        for name, shape in shapes(state_file, entries=entries, stages=stages).items()
    }


def build(case, **options):
    net = DynamicDictionaryLearning(
        case["backbone"], num_classes=case["classes"], stages=case["stages"], drop_path_rate=0, **options
    )
    state = reference_state(entries=case["classes"], stages=case["stages"])
    left_out = load_reference_weights(net, state)
    return net, state, left_out


def batch(case):
    shape = case["image_shape"]
    image = torch.from_numpy(cases.image(case["image_seed"], tuple(shape)))
    labels = cases.mask(case["mask_seed"], (shape[0], *shape[2:]), case["classes"], case["ignore_index"])
    return image, torch.from_numpy(labels)


def check_evaluation(net, case, arrays):
    with torch.no_grad():
        logits = net.eval()(batch(case)[0])
    stride = case["logits_stride"]
    torch.testing.assert_close(logits[..., ::stride, ::stride], arrays["eval_logits"], atol=1e-4, rtol=0)
    assert logits.abs().mean().item() == pytest.approx(case["eval_logits_mean_abs"], abs=1e-4)
    histogram = torch.bincount(logits.argmax(dim=1).flatten(), minlength=case["classes"])
    difference = (histogram - torch.tensor(case["eval_argmax_histogram"])).abs()
    assert difference.sum() <= 4, "a tie may fall either way, more may not"


@pytest.mark.parametrize("name", ["tiny_k6", "tiny_k7_contrastive"])
def test_dynamic_networks(name):
    case, arrays = read(name)
    net, _, left_out = build(case)
    check_evaluation(net, case, arrays)

    image, mask = batch(case)
    contrastive = bool(case["options"].get("has_contrastive_loss"))
    loss = D2LSLoss(case["ignore_index"], contrastive_weight=float(contrastive))
    output = net.train()(image)
    stride = case["logits_stride"]
    for ours, theirs in (("logits", "train_dynamic_logits"), ("static_logits", "train_static_logits")):
        found = getattr(output, ours)[..., ::stride, ::stride]
        torch.testing.assert_close(found, arrays[theirs], atol=1e-4, rtol=0)

    terms = loss(output, mask)
    assert terms["loss"].item() == pytest.approx(case["loss_total"], rel=1e-3)
    segmentation = sum(terms[key] for key in ("cross_entropy", "dice", "auxiliary"))
    assert segmentation.item() == pytest.approx(case["loss_segmentation"], rel=1e-3)
    assert ("contrastive" in terms) == contrastive
    if contrastive:
        assert terms["contrastive"].item() == pytest.approx(case["loss_contrastive"], rel=1e-3)

    terms["loss"].backward()
    check_gradients(net, case)
    assert {n for n in left_out if not n.endswith(NO_KEY_BIAS)} == {
        n for n in case["parameters_without_gradient"] if not n.endswith(NO_KEY_BIAS)
    }
    check_steps(net, loss, image, mask, case["adamw_losses"])


def check_gradients(net, case):
    parameters = dict(net.named_parameters())
    seen = set()
    for name, norm in case["gradient_norms"].items():
        if name.endswith(NO_KEY_BIAS):
            continue
        ours = _ours(name, net)
        seen.add(ours)
        found = parameters[ours].grad.norm().item()
        assert abs(found - norm) <= max(1e-6, 1e-3 * norm), f"{name}: {found}, expected {norm}"
    assert seen == {name for name in parameters if not name.startswith("backbone.")}
    backbone = torch.stack([p.grad.norm() for p in net.backbone.parameters()]).norm().item()
    assert backbone == pytest.approx(case["gradient_norm_backbone"], rel=1e-3)


def check_steps(net, loss, image, mask, expected):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01)
    found = []
    for _ in expected:
        optimizer.zero_grad()
        total = loss(net(image), mask)["loss"]
        total.backward()
        optimizer.step()
        found.append(total.item())
    assert found == pytest.approx(expected, rel=1e-3)


def test_static_network():
    case, arrays = read("tiny_k6_only_static")
    assert case["options"] == {"only_static": True}
    net, state, left_out = build(case, dictionary="static")
    check_evaluation(net, case, arrays)
    switched_off = {n for n in state if n.startswith(("decoder.token.token_mlp.", "decoder.feature_modulator."))}
    assert switched_off < set(left_out)


@pytest.mark.parametrize("head", ["conv", "linear"])
def test_output_heads_of_the_ablations(head):
    """No numbers of these are shipped: their tensors arrive, and the network computes what the transcription does."""
    classes, entries = 4, 6
    state = reference_state(entries=entries)
    shape = (classes, 16, 1, 1) if head == "conv" else (classes, entries)
    output = {"weight": shape, "bias": (classes,)}
    state |= {
        f"decoder.output_head.{name}": torch.as_tensor(cases.weights(f"decoder.output_head.{name}", size))
        for name, size in output.items()
    }
    options = {"num_entries": entries}
    if head == "conv":
        options = {"head": "conv"}
        state = {name: tensor for name, tensor in state.items() if "output_hypernetwork_mlps" not in name}
    net = DynamicDictionaryLearning("convnext_tiny", classes, drop_path_rate=0, **options)
    left_out = load_reference_weights(net, state)
    assert not [name for name in left_out if name.startswith(("decoder.output_head.", "backbone.", "aggregator"))]
    part = net.head.classify if head == "conv" else net.head.entries_to_classes
    assert torch.equal(part.weight, state["decoder.output_head.weight"].reshape(part.weight.shape))
    assert torch.equal(part.bias, state["decoder.output_head.bias"])
    image = torch.from_numpy(cases.image(3, (1, 3, 64, 96)))
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), NaiveD2LS(net).eval()(image), rtol=1e-4, atol=1e-4)


def test_an_output_head_that_has_no_counterpart_is_refused():
    state = reference_state() | {"decoder.output_head.weight": torch.zeros(4, 6)}
    net = DynamicDictionaryLearning("convnext_tiny", 6, drop_path_rate=0)
    with pytest.raises(CheckpointError, match=r"decoder\.output_head\.weight.*num_entries"):
        load_reference_weights(net, state)


def test_nothing_lost_and_nothing_counted_twice():
    """Every tensor of the reference is loaded or reported, and our parameters are exactly its used ones."""
    case, _ = read("tiny_k6")
    net, state, left_out = build(case)
    assert len(set(left_out)) == len(left_out) == 48 + 7
    used = sum(tensor.numel() for name, tensor in state.items() if name not in left_out)
    assert used == sum(p.numel() for p in net.state_dict().values())


def test_resnet101():
    state = reference_state("state_resnet.json", stages=2)
    net = DynamicDictionaryLearning("resnet101", num_classes=6, stages=2)
    left_out = load_reference_weights(net, state)
    assert not [name for name in left_out if name.startswith("backbone.")]
    assert len(left_out) == 2 * 16 + 5  # never run, and key biases

    theirs = torchvision.models.resnet101()
    children = dict(zip("01234567", dict(theirs.named_children()), strict=False))
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("backbone."):
            child, _, inner = name.removeprefix("backbone.").partition(".")
            renamed[f"{children[child]}.{inner}"] = tensor
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert not unexpected
    image = torch.from_numpy(cases.image(5, (1, 3, 64, 96)))
    theirs.eval()
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for stage, ours in zip(
            (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), net.eval().backbone(image), strict=True
        ):
            x = stage(x)
            torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4 * x.abs().max().item())
