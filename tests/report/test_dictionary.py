"""What is read from a dictionary is what the network uses."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import nn

from d2ls.models import DynamicDictionaryLearning
from d2ls.models.two_way_attention import HEADS, TokenToImageAttention
from d2ls.report.dictionary import cosines, head_attention, read_dictionary

IMAGE = torch.randn(3, 70, 45, generator=torch.Generator().manual_seed(0))


def network(**options: object) -> DynamicDictionaryLearning:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        settings = {"stages": 2, "width": 64, "drop_path_rate": 0.0} | options
        return DynamicDictionaryLearning("test_convnext", 5, **settings).eval()


def test_the_attention_gathers_what_the_definition_gathers() -> None:
    generator = torch.Generator().manual_seed(2)
    read = TokenToImageAttention(64)
    query, key, pixels = (torch.randn(2, number, 64, generator=generator) for number in (3, 77, 77))
    values = read.value(pixels).unflatten(-1, (HEADS, -1))
    heads = list(head_attention(read, query, key))
    gathered = torch.cat([attention @ values[:, :, head] for head, attention in enumerate(heads)], dim=-1)
    assert heads[0].shape == (2, 3, 77)
    torch.testing.assert_close(read.output(gathered), read(query, key, pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entries", [3, 40])
def test_attention_is_noted_whichever_way_the_network_goes(entries: int) -> None:
    """Few entries meet the pixels folded, many by the definition; the report reads each stage once."""
    net = network(num_entries=entries)
    assert net.interaction.final_attn.is_folded(entries) == (entries == 3)
    assert [attention.shape[0] for attention in read_dictionary(net, IMAGE).attention] == [entries] * 3


def test_weights_and_entries_are_those_of_the_network() -> None:
    net = network()
    before = net(IMAGE[None])
    reading = read_dictionary(net, IMAGE)
    assert reading is not None
    assert reading.named
    assert reading.kind == "dynamic"
    torch.testing.assert_close(reading.dynamic, net.train()(IMAGE[None]).dictionary[0].detach())
    torch.testing.assert_close(reading.static, net.state_dict()["dictionary.table"])
    candidates = net.dictionary.candidates(net.dictionary.table).detach().reshape(5, 4, 64)
    mixed = [sum(w * c for w, c in zip(*pair, strict=True)) for pair in zip(reading.weights, candidates, strict=True)]
    torch.testing.assert_close(reading.dynamic, torch.stack(mixed))
    assert [tuple(attention.shape) for attention in reading.attention] == [(5, 18, 12)] * 3  # 70 and 45 padded by 4
    for attention in reading.attention:
        torch.testing.assert_close(attention.sum(dim=(1, 2)), torch.ones(5))
    torch.testing.assert_close(net.eval()(IMAGE[None]), before)
    assert not any(module._forward_hooks for module in net.modules())


def test_the_readings_see_the_dynamic_entries() -> None:
    """The last reading of a network without stages, by its definition on the entries that were mixed for the image."""
    net = network(stages=0)
    found = {}
    net.interaction.register_forward_pre_hook(lambda _, inputs: found.update(inputs=inputs))
    reading = read_dictionary(net, IMAGE)
    entries, pixels, code = found["inputs"]
    torch.testing.assert_close(entries[0], reading.dynamic)
    heads = head_attention(net.interaction.final_attn, 2 * reading.dynamic[None], pixels + code)
    expected = torch.stack([attention[0] for attention in heads]).mean(dim=0).detach()
    torch.testing.assert_close(reading.attention[0].flatten(1), expected)


def test_attention_looks_where_the_network_is_told_to() -> None:
    """With keys that follow the position code alone, the last reading is a function of the place."""
    net = network(stages=0)
    read = net.interaction.final_attn
    with torch.no_grad():
        read.key.weight.zero_()
    (attention,) = read_dictionary(net, IMAGE).attention
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / attention[0].numel()))


def test_a_compiled_network_is_read_uncompiled() -> None:
    net = network()
    net._compiled_call_impl = pytest.fail  # what nn.Module.compile sets
    assert len(read_dictionary(net, IMAGE).attention) == 3


def test_ablations_have_no_mixtures() -> None:
    for kind in ("static", "ones", "zeros"):
        reading = read_dictionary(network(dictionary=kind), IMAGE)
        assert (reading.kind, reading.weights, reading.dynamic) == (kind, None, None)
        assert reading.static.shape == (5, 64)
        assert len(reading.attention) == 3
    assert read_dictionary(network(interact=False), IMAGE).attention == []
    assert not read_dictionary(network(num_entries=9), IMAGE).named
    assert read_dictionary(network(head="conv"), IMAGE) is None
    assert read_dictionary(nn.Conv2d(3, 5, 1), IMAGE) is None


def test_cosines_are_scikit_learns_and_none_of_a_zero_entry() -> None:
    entries = torch.randn(6, 16, generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(cosines(entries).numpy(), cosine_similarity(entries.double().numpy()), atol=1e-12)
    entries[2] = 0
    found = cosines(entries)
    assert found[2].isnan().all()
    assert found[[0, 1, 3, 4, 5]][:, [0, 1, 3, 4, 5]].isfinite().all()
