"""The dictionary against loops over entries and candidates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models.dictionary import CANDIDATES, Dictionary


@settings(max_examples=15, deadline=None)
@given(
    entries=st.integers(1, 9),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**16),
)
def test_dynamic_entry_by_entry(entries, batch, size, seed):
    torch.manual_seed(seed)
    part = Dictionary("dynamic", entries, channels=5, width=16).double()
    deepest = torch.randn(batch, 5, *size).double()
    found = part.dynamic(deepest)
    weights = part.modulator(deepest)
    assert weights.shape == (batch, entries, CANDIDATES)
    torch.testing.assert_close(weights.sum(-1), torch.ones(batch, entries).double())
    assert (weights > 0).all()
    for b in range(batch):
        for n in range(entries):
            expected = torch.zeros(16).double()
            for r in range(CANDIDATES):
                block = slice(r * 16, (r + 1) * 16)
                candidate = part.candidates.weight[block] @ part.table[n] + part.candidates.bias[block]
                expected = expected + weights[b, n, r] * candidate
            torch.testing.assert_close(found[b, n], expected)


def test_modulator_pools_half_by_maximum_and_half_by_mean():
    torch.manual_seed(0)
    part = Dictionary("dynamic", 3, channels=5, width=16).modulator
    deepest = torch.randn(1, 5, 4, 3)
    pixels = deepest[0].flatten(1).T  # (12, 5)
    embedded = pixels @ part.embed.weight.T + part.embed.bias
    strongest = part.max_branch(torch.stack([max(column) for column in embedded[:, :8].T]))
    average = part.mean_branch(torch.stack([sum(column) / 12 for column in embedded[:, 8:].T]))
    hidden = (part.mix[0].weight @ torch.cat([strongest, average]) + part.mix[0].bias).clamp(min=0)
    scores = part.mix[2].weight @ hidden + part.mix[2].bias
    expected = torch.stack([scores[4 * n : 4 * n + 4].exp() / scores[4 * n : 4 * n + 4].exp().sum() for n in range(3)])
    torch.testing.assert_close(part(deepest)[0], expected)


@pytest.mark.parametrize(("kind", "value"), [("ones", 1.0), ("zeros", 0.0)])
def test_constants(kind, value):
    part = Dictionary(kind, 4, channels=5, width=16)
    assert not part.state_dict()
    assert (part.static(torch.zeros(3, 5, 2, 2)) == value).all()
    assert part.static(torch.zeros(3, 5, 2, 2)).shape == (3, 4, 16)


def test_static_table_is_standard_normal_and_shared_by_the_batch():
    torch.manual_seed(0)
    part = Dictionary("static", 50, channels=5, width=64)
    assert list(part.state_dict()) == ["table"]
    assert abs(part.table.mean()) < 0.05
    assert abs(part.table.std() - 1) < 0.05
    entries = part.static(torch.zeros(2, 5, 2, 2))
    torch.testing.assert_close(entries[0], entries[1])
    torch.testing.assert_close(entries[0], part.table)
