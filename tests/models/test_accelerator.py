"""What an accelerator's step needs, shown without one: on the meta device, and in half precision on a CPU."""

from collections import Counter

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2ls.losses import D2LSLoss
from d2ls.models import DynamicDictionaryLearning, streaming
from d2ls.models.two_way_attention import TwoWayAttention, average_pixels
from tests.naive import NaiveD2LS, naive_loss

WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "bincount", "unique", "masked_select", "equal"}


class Recorder(TorchDispatchMode):
    """Counts operations that start kernels; fails where the host would wait or a tensor is made on the CPU."""

    def __init__(self, strict):
        super().__init__()
        self.strict = strict
        self.kernels = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        assert not (self.strict and name in WAITS), f"the host waits: {name}"
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        elsewhere = [x for x in tensors if x.device.type != "meta"]
        assert not (self.strict and elsewhere), f"{name} makes a tensor on the CPU"
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not (view or "empty" in name or name in ("detach", "alias", "_unsafe_view", "promote_types")):
            self.kernels[name] += 1
        return result


def kernels(backbone, *, network, training, batch=8, size=512):
    """Kernels of an evaluation, or of a training step with its losses, of the network or of the transcription."""
    torch.manual_seed(0)
    net = DynamicDictionaryLearning(backbone, 7, drop_path_rate=0.0).to("meta")
    module, loss = (net, D2LSLoss(255)) if network else (NaiveD2LS(net), None)
    image = torch.empty(batch, 3, size, size, device="meta")
    mask = torch.empty(batch, size, size, dtype=torch.long, device="meta")
    module.train(training)
    with Recorder(strict=network) as recorder, torch.set_grad_enabled(training):
        output = module(image)
        if training:
            total = loss(output, mask)["loss"] if network else naive_loss(output, mask, 255)
            total.backward()
    return sum(recorder.kernels.values())


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_no_wait_and_no_more_kernels_than_the_transcription(training):
    ours, naive = (kernels("test_convnext", network=network, training=training) for network in (True, False))
    assert ours <= naive


@pytest.mark.parametrize("spread", [1.0, 0.02], ids=["peaked", "flat"])
def test_averages_in_float16_stay_finite(spread):
    """65,536 pixels (a map of 1024 px) whose channels have a mean of 2: sums up to 131,072, beyond float16."""
    torch.manual_seed(0)
    pixels, code = torch.randn(1, 256 * 256, 64) + 2, torch.randn(256 * 256, 64) * 0.7
    queries = torch.randn(1, 56, 64) * spread
    results = []
    for half in (False, True):
        inputs = [x.clone().requires_grad_() for x in (queries, pixels)]
        with torch.autocast("cpu", torch.float16, enabled=half):
            p = inputs[1].half() if half else inputs[1]
            average = average_pixels(inputs[0], p + code.to(p.dtype), p)
        results.append((average, *torch.autograd.grad((16 * average).sum(), inputs)))
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.isfinite().all()
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def two_way(part, tokens, pixels, code, *, chunks):
    inputs = [x.clone().requires_grad_() for x in (tokens, pixels)]
    p = inputs[1].to(code.dtype)
    if chunks:
        t, parts = streaming.interact(part, inputs[0], p.split(4096, dim=1), code)
        p = torch.cat(list(parts), dim=1)
    else:
        t, p = part(inputs[0], p, code)
    weight = torch.linspace(-4, 4, 64)  # of another direction than the norm takes out
    total = (t.float() * weight).sum() + (p.float() * weight).sum() / 256
    gradients = torch.autograd.grad(total, [*inputs, *part.parameters()])
    return t.float(), p.float(), *gradients


@pytest.mark.parametrize("chunks", [True, False], ids=["chunks", "plain"])
def test_two_way_attention_in_float16(chunks):
    """Values and gradients of a map of 1024 px with channels of mean 2, against float32."""
    torch.manual_seed(0)
    part = TwoWayAttention(64, 1)
    tokens, pixels, code = torch.randn(1, 3, 64), torch.randn(1, 256 * 256, 64) + 2, torch.randn(256 * 256, 64) * 0.7
    expected = two_way(part, tokens, pixels, code, chunks=chunks)
    with torch.autocast("cpu", torch.float16):
        found = two_way(part, tokens, pixels, code.half(), chunks=chunks)
    for half, single in zip(found, expected, strict=True):
        assert half.isfinite().all()
        assert (half - single).abs().max() < 0.05 * max(1e-2, single.abs().max().item())


@pytest.mark.parametrize("way", [True, False], ids=["chunks", "plain"])
def test_a_gradient_scaler_steps_and_skips(way):
    """float16 under autocast: a step with finite gradients, and one that overflows and is left out."""
    torch.manual_seed(0)
    net = DynamicDictionaryLearning("test_convnext", 3, stages=1, width=32, memory_efficient=way).train()
    loss, optimizer = D2LSLoss(255), torch.optim.SGD(net.parameters(), lr=0.1)
    image, mask = torch.randn(2, 3, 40, 36), torch.randint(0, 3, (2, 40, 36))
    for scale, moves in ((2.0**10, True), (2.0**60, False)):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        before = [parameter.detach().clone() for parameter in net.parameters()]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            total = loss(net(image), mask)["loss"]
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        assert total.dtype == torch.float32
        moved = any(not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
        assert moved == moves
        assert all(parameter.isfinite().all() for parameter in net.parameters())
        assert (scaler.get_scale() < scale) != moves


@pytest.mark.parametrize("way", [True, False], ids=["chunks", "plain"])
def test_losses_in_bfloat16_are_those_of_float32(way):
    torch.manual_seed(0)
    net = DynamicDictionaryLearning("test_convnext", 3, stages=2, width=32, memory_efficient=way).train()
    image, mask = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    terms = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            terms.append(D2LSLoss(255)(net(image), mask))
    for name, expected in terms[0].items():
        assert terms[1][name].dtype == torch.float32
        torch.testing.assert_close(terms[1][name], expected, rtol=0.03, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_network_and_loss_compile_without_a_break(autocast):
    torch.manual_seed(0)
    net = DynamicDictionaryLearning("test_convnext", 3, stages=1, width=32).train()
    loss = D2LSLoss(255)
    image, mask = torch.randn(2, 3, 40, 36), torch.randint(0, 3, (2, 40, 36))

    def step(image, mask):
        return loss(net(image), mask)["loss"]

    totals = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total = function(image, mask)
        total.backward()
        totals.append([total.detach(), torch.stack([p.grad.norm() for p in net.parameters()]).norm()])
    torch.testing.assert_close(*totals, rtol=0.05 if autocast else 1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "autocast"),
    [(False, False), (False, True), (True, False)],
    ids=["evaluation-float32", "evaluation-bfloat16", "training-float32"],
)
def test_images_of_many_sizes_compile_at_most_three_times(training, autocast):
    """One graph for the first size, and at most two for all others, whether they are padded or not."""
    torch.manual_seed(0)
    torch.compiler.reset()
    net = DynamicDictionaryLearning("test_convnext", 3, stages=1, width=32, drop_path_rate=0.0).train(training)
    loss, graphs = D2LSLoss(255), CompileCounterWithBackend("aot_eager")

    def step(image, mask):
        output = net(image)
        return loss(output, mask)["loss"] if training else output

    compiled = torch.compile(step, fullgraph=True, backend=graphs)
    for height, width in ((64, 64), (96, 128), (65, 97), (131, 68)):
        batch = torch.randn(2, 3, height, width), torch.randint(0, 3, (2, height, width))
        results = []
        for function in (step, compiled):
            net.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(training):
                value = function(*batch)
            if training:
                value.backward()
                value = torch.stack([value.detach(), *(p.grad.norm() for p in net.parameters())])
            results.append(value.float())
        tolerance = 0.1 if autocast else 1e-3
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    assert graphs.frame_count <= 3
