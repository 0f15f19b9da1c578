"""The decoder in row chunks against the plain one; a project without the file that holds it."""

import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.errors import ConfigError
from d2ls.models import DynamicDictionaryLearning, streaming


def outputs_and_gradients(net, image, memory_efficient):
    net.memory_efficient = memory_efficient
    net.train().zero_grad()
    inputs = image.clone().requires_grad_()
    output = net(inputs)
    parts = [part for part in (output.logits, output.static_logits, output.dictionary) if part is not None]
    sum((x * torch.linspace(-1, 1, x.numel()).to(x).view_as(x)).sum() for x in parts).backward()
    net.eval()
    with torch.no_grad():
        evaluated = net(image)
    return [evaluated, *parts, inputs.grad], {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 60), width=st.integers(1, 60), batch=st.integers(1, 3), elements=st.integers(1, 2**13),
    entries=st.integers(1, 5), stages=st.integers(0, 3), interact=st.booleans(),
    kind=st.sampled_from(["dynamic", "static", "ones"]), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_both_ways_agree(height, width, batch, elements, entries, stages, interact, kind, seed):
    """Values and gradients, in float64, to 1e-9; of more entries than are folded, too (5 of width 64)."""
    streaming.ELEMENTS = elements
    torch.manual_seed(seed)
    net = DynamicDictionaryLearning(
        "test_convnext", 3, stages=stages, width=64, num_entries=entries, dictionary=kind, interact=interact
    ).double()
    for parameter in net.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    image = torch.randn(batch, 3, height, width).double()
    found, expected = (outputs_and_gradients(net, image, way) for way in (True, False))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    scale = max(1.0, *(gradient.abs().max().item() for gradient in expected[1].values()))
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-9 * scale)


def test_auto_takes_chunks_on_a_cpu_alone(monkeypatch):
    taken = []
    decode = streaming.decode
    monkeypatch.setattr(streaming, "decode", lambda *inputs: taken.append(inputs) or decode(*inputs))
    net = DynamicDictionaryLearning("test_convnext", 3, stages=1, width=32).eval()
    image = torch.randn(1, 3, 32, 32)
    for way, on_cpu, elsewhere in (("auto", True, False), (True, True, True), (False, False, False)):
        net.memory_efficient = way
        assert net._saves_memory(torch.device("cuda")) == elsewhere
        taken.clear()
        with torch.no_grad():
            net(image)
        assert len(taken) == on_cpu, way


def test_the_project_works_without_it():
    """A fresh process in which the module cannot be imported."""
    program = """
        import sys
        sys.modules["d2ls.models.streaming"] = None
        import torch
        from d2ls.losses import D2LSLoss
        from d2ls.models import DynamicDictionaryLearning
        net = DynamicDictionaryLearning("test_convnext", 3, stages=1, width=32, memory_efficient=False).train()
        output = net(torch.randn(2, 3, 40, 36))
        D2LSLoss(255)(output, torch.zeros(2, 40, 36, dtype=torch.long))["loss"].backward()
        assert net.eval()(torch.randn(1, 3, 40, 36)).shape == (1, 3, 40, 36)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


@pytest.mark.parametrize("elements", [2**6, 2**20], ids=["chunks", "whole"])
def test_large_scores_stay_finite(elements):
    """Scores of some 10^6, largest in the first chunk for some entries and in the last for others."""
    streaming.ELEMENTS = elements
    torch.manual_seed(0)
    net = DynamicDictionaryLearning("test_convnext", 3, stages=2, width=32).double()
    for parameter in net.interaction.parameters():
        parameter.data.mul_(100)
    image = torch.randn(1, 3, 40, 36).double()
    found, expected = (outputs_and_gradients(net, image, way) for way in (True, False))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_little_is_kept_for_the_backward_pass():
    """Maps between the stages and attention, less than half of what autograd keeps of the plain decoder."""
    net = DynamicDictionaryLearning("test_convnext", 3, stages=3, width=64).train()
    streaming.ELEMENTS = 2**12
    sizes = {}
    for way in (True, False):
        net.memory_efficient = way
        pixels = torch.randn(1, 64, 64, 64, requires_grad=True)
        saved = {}
        keep = partial(_keep, saved)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net._decode(torch.randn(1, 3, 64), pixels, torch.randn(64 * 64, 64))
        sizes[way] = sum(tensor.numel() for tensor in saved.values())
    assert sizes[True] < sizes[False] / 2


def _keep(saved, tensor):
    saved[id(tensor)] = tensor
    return tensor


def test_the_setting_reaches_the_network():
    net = DynamicDictionaryLearning("test_convnext", 3, stages=1, width=32, memory_efficient=False)
    net.set_memory_efficient(True)
    assert net.memory_efficient is True
    with pytest.raises(ConfigError, match=r"memory_efficient='never'.*'auto'"):
        net.set_memory_efficient("never")
