"""Position codes against their formula."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.models.position import PositionCode


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**16))
def test_equals_the_formula_cell_by_cell(height, width, seed):
    torch.manual_seed(seed)
    part = PositionCode(16)
    codes = part(height, width)
    assert codes.shape == (height * width, 16)
    matrix = part.gaussian.tolist()
    for row in (0, height // 2, height - 1):
        for column in (0, width - 1):
            x, y = 2 * (column + 0.5) / width - 1, 2 * (row + 0.5) / height - 1
            phases = [2 * math.pi * (x * matrix[0][i] + y * matrix[1][i]) for i in range(8)]
            expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
            torch.testing.assert_close(codes[row * width + column], torch.tensor(expected), rtol=0, atol=2e-5)


def test_matrix_is_saved_fixed_and_standard_normal():
    torch.manual_seed(0)
    part = PositionCode(4096)
    assert list(part.state_dict()) == ["gaussian"]
    assert not list(part.parameters())
    assert part.gaussian.shape == (2, 2048)
    assert abs(part.gaussian.mean()) < 0.06
    assert abs(part.gaussian.std() - 1) < 0.05


def test_precision():
    part = PositionCode(16)
    assert part(3, 5).dtype == torch.float32
    assert part.double()(3, 5).dtype == torch.float64
    assert part.half()(3, 5).dtype == torch.float32, "phases of many turns need at least float32"


def test_codes_follow_size_and_weights():
    part = PositionCode(16)
    assert part(3, 5).shape == part(5, 3).shape == (15, 16)
    part.load_state_dict({"gaussian": torch.zeros(2, 8)})
    assert part(5, 3)[:, :8].abs().max() == 0
