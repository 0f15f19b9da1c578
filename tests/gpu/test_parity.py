"""On the device the network and the losses give the reference's numbers, and those of the CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2ls.losses import D2LSLoss, contrastive_loss
from d2ls.models import DynamicDictionaryLearning
from tests.gpu.conftest import SMOKE
from tests.parity import cases
from tests.parity import test_networks as reference

pytestmark = pytest.mark.gpu

SHIPPED = json.loads((Path(__file__).parents[1] / "parity" / "losses.json").read_text())
WAYS = pytest.mark.parametrize("way", [False, True], ids=["plain", "chunks"])


@pytest.mark.parametrize("name", ["tiny_k6", "tiny_k7_contrastive"])
def test_networks(name: str, device: torch.device) -> None:
    case, arrays = reference.read(name)
    net = reference.build(case)[0].to(device)
    image, mask = (tensor.to(device) for tensor in reference.batch(case))
    stride = case["logits_stride"]
    with torch.no_grad():
        logits = net.eval()(image)[..., ::stride, ::stride]
    torch.testing.assert_close(logits.cpu(), arrays["eval_logits"], atol=1e-3, rtol=0)
    contrastive = bool(case["options"].get("has_contrastive_loss"))
    total = D2LSLoss(case["ignore_index"], contrastive_weight=float(contrastive))(net.train()(image), mask)["loss"]
    assert total.item() == pytest.approx(case["loss_total"], rel=1e-3)
    total.backward()
    reference.check_gradients(net, case)


@pytest.mark.parametrize("case", SHIPPED["segmentation"], ids=lambda case: case["name"])
def test_segmentation_losses(case: dict, device: torch.device) -> None:
    shape, ignore_index = tuple(case["logits_shape"]), case["ignore_index"]
    mask = cases.mask(case["mask_seed"], (shape[0], *shape[2:]), shape[1], ignore_index)
    removed = case["removed_class"]
    if removed is not None:
        mask[(mask == removed) | (removed == "all")] = ignore_index
    logits = torch.from_numpy(cases.image(case["logits_seed"], shape) * case["logits_scale"]).to(device)
    terms = D2LSLoss(ignore_index)(logits.requires_grad_(), torch.from_numpy(mask).to(device))
    terms["loss"].backward()
    assert logits.grad is not None
    found = {
        "soft_cross_entropy": terms["cross_entropy"].item(),
        "dice": terms["dice"].item(),
        "main": terms["loss"].item(),
        "main_gradient_norm": logits.grad.norm().item(),
    }
    assert found == pytest.approx({name: case[name] for name in found}, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", SHIPPED["contrastive"], ids=lambda case: f"batch{case['shape'][0]}")
def test_contrastive_loss(case: dict, device: torch.device) -> None:
    dictionary = torch.from_numpy(cases.image(case["seed"], tuple(case["shape"]))).to(device)
    assert contrastive_loss(dictionary).item() == pytest.approx(case["loss"], rel=1e-5, abs=1e-8)


def in_double(device: torch.device | str, way: bool) -> list[Tensor]:
    """Logits, losses and gradients of one step in float64, on the CPU at last."""
    torch.manual_seed(0)
    options = {"stages": 2, "width": 32, "drop_path_rate": 0.0, "memory_efficient": way}
    net = DynamicDictionaryLearning("test_convnext", 5, **options).double().to(device).train()
    side = 68 if SMOKE else 516  # several row chunks
    image = torch.from_numpy(cases.image(1, (2, 3, side, side - 8))).double().to(device)
    mask = torch.from_numpy(cases.mask(2, (2, side, side - 8), 5, 255)).to(device)
    output = net(image)
    terms = D2LSLoss(255)(output, mask)
    gradients = torch.autograd.grad(terms["loss"], list(net.parameters()))
    return [x.detach().cpu() for x in (output.logits, output.static_logits, *terms.values(), *gradients)]


@WAYS
def test_float64_is_that_of_the_cpu(way: bool, device: torch.device) -> None:
    for found, expected in zip(in_double(device, way), in_double("cpu", way), strict=True):
        assert (found - expected).abs().max() <= 1e-9 * max(1, expected.abs().max().item())


@WAYS
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_close_to_float32_at_1024_px(kind: torch.dtype, way: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    options = {"stages": 2, "width": 64, "memory_efficient": way}
    net = DynamicDictionaryLearning("test_convnext", 5, **options).to(device).eval()
    image = torch.from_numpy(cases.image(3, (1, 3, *(64 if SMOKE else 1024,) * 2))).to(device)
    with torch.no_grad():
        expected = net(image)
        with torch.autocast(device.type, kind):
            found = net(image).float()
    assert found.isfinite().all()
    assert (found - expected).abs().mean() < 0.02 * expected.abs().max()
