"""Blocks of rasters: they fill the grid, and training never reaches validation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2ls.data.regions import Grid, choose_blocks
from d2ls.errors import ConfigError

SIDES = st.integers(1, 90)


def painted(grid: Grid, windows: list[tuple[int, int, int, int]]) -> np.ndarray:
    """How many of the windows hold each pixel."""
    counts = np.zeros((grid.rows[-1], grid.columns[-1]), int)
    for top, left, height, width in windows:
        assert min(top, left) >= 0
        assert min(height, width) > 0
        counts[top : top + height, left : left + width] += 1
        assert counts[top : top + height, left : left + width].size == height * width  # inside the raster
    return counts


@given(SIDES, SIDES, st.integers(1, 40))
def test_blocks_fill_the_raster_once_and_are_of_about_the_size_asked_for(height: int, width: int, block: int) -> None:
    grid = Grid.of(height, width, block)
    windows = [window for window, _ in grid.windows(np.ones(grid.shape, bool))]
    assert (painted(grid, windows) == 1).all()
    for sides in (np.diff(grid.rows), np.diff(grid.columns)):
        assert np.ptp(sides) <= 1
        assert sides.max() <= max(1.5 * block + 1, 1)


@given(SIDES, SIDES, st.integers(4, 40), st.integers(0, 99), st.floats(0.05, 0.95), st.data())
def test_no_crop_of_training_reads_a_pixel_of_validation(
    height: int, width: int, block: int, seed: int, share: float, data: st.DataObject
) -> None:
    grid = Grid.of(height, width, block)
    if np.prod(grid.shape) < 2:
        return
    validates = choose_blocks(int(np.prod(grid.shape)), share, seed).reshape(grid.shape)
    narrowest = int(min(np.diff(grid.rows).min(), np.diff(grid.columns).min()))
    gap = data.draw(st.integers(0, (narrowest - 1) // 2))
    trains = painted(grid, [reach for _, reach in grid.windows(~validates)])
    held_out = painted(grid, [window for window, _ in grid.windows(validates, gap)])
    assert held_out.max() == 1
    assert not (trains.astype(bool) & held_out.astype(bool)).any()
    near = np.pad(trains > 0, gap)
    if gap:  # no training pixel is nearer than the gap
        views = np.lib.stride_tricks.sliding_window_view(near, (2 * gap + 1, 2 * gap + 1))
        assert not (views.any(axis=(2, 3)) & (held_out > 0)).any()
    blocks = painted(grid, [window for window, _ in grid.windows(~validates)])
    assert (trains[blocks > 0] > 0).all()  # every training pixel can be in a crop
    assert (blocks[trains > 0] == 1).all()  # and no other


def test_crops_reach_half_of_a_neighbour_that_trains_too() -> None:
    grid = Grid.of(30, 30, 10)
    trains = np.ones((3, 3), bool)
    (_, reach), *_ = list(grid.windows(trains))[4:]
    assert reach == (5, 5, 20, 20)
    trains[1, 2] = False
    (_, reach), *_ = list(grid.windows(trains))[4:]
    assert reach == (5, 5, 20, 15)


@given(st.integers(2, 200), st.floats(0.001, 0.999), st.integers(0, 99))
def test_a_share_of_the_blocks_validates(number: int, share: float, seed: int) -> None:
    chosen = choose_blocks(number, share, seed)
    assert 1 <= chosen.sum() <= number - 1
    assert abs(chosen.sum() - share * number) <= 1
    np.testing.assert_array_equal(chosen, choose_blocks(number, share, seed))


def test_shares_and_gaps_that_mean_nothing() -> None:
    for share in (0, 1, -0.1):
        with pytest.raises(ConfigError, match="val_share"):
            choose_blocks(9, share, 0)
    with pytest.raises(ConfigError, match=r"1 block\(s\) with labels"):
        choose_blocks(1, 0.5, 0)
    with pytest.raises(ConfigError, match="block is 0"):
        Grid.of(9, 9, 0)
    grid = Grid.of(20, 20, 10)
    for gap in (-1, 5):
        with pytest.raises(ConfigError, match="gap is"):
            list(grid.windows(np.ones(grid.shape, bool), gap))
