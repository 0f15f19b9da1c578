"""Regions of large rasters: blocks of a grid, and the windows in which the training crops around them lie."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2ls.data.decode import Window
from d2ls.data.pairs import Pair
from d2ls.errors import ConfigError

Blocks = NDArray[np.bool_]  # which blocks of a grid are meant, (rows, columns)


@dataclass(frozen=True)
class Region(Pair):
    """A part of a raster with its labels, which stands for an image and its mask."""

    window: Window  # the part
    reach: Window  # window of its training crops: the part and half of each neighbour that has the same split


@dataclass(frozen=True)
class Grid:
    """Blocks of nearly equal size that fill a raster."""

    rows: tuple[int, ...]  # first pixel row of each row of blocks, and the raster's height
    columns: tuple[int, ...]  # first pixel column of each column of blocks, and the raster's width

    @classmethod
    def of(cls, height: int, width: int, block: int) -> "Grid":
        """A grid of blocks of about `block` pixels a side (raises ConfigError: blocks smaller than a pixel)."""
        if block < 1:
            raise ConfigError(f"block is {block}; expected pixels, 1 or more.")
        edges = []
        for side in (height, width):
            number = max(1, round(side / block))
            edges.append(tuple(side * at // number for at in range(number + 1)))
        return cls(*edges)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return len(self.rows) - 1, len(self.columns) - 1

    def windows(self, members: Blocks, gap: int = 0) -> Iterator[tuple[Window, Window]]:
        """Window and reach of each member, row by row; windows are `gap` pixels narrower on all sides."""
        for row, column in np.argwhere(members).tolist():
            top, bottom = self.rows[row] + gap, self.rows[row + 1] - gap
            left, right = self.columns[column] + gap, self.columns[column + 1] - gap
            if gap < 0 or top >= bottom or left >= right:
                raise ConfigError(f"gap is {gap}; expected 0 or more, and less than half a block's side in pixels.")
            yield (top, left, bottom - top, right - left), self._reach(members, row, column)

    def _reach(self, members: Blocks, row: int, column: int) -> Window:
        """A block and half of those beside it, as far as the rectangle holds members alone."""
        rows, columns = self.shape
        top = row - bool(row > 0 and members[row - 1, column])
        bottom = row + 1 + bool(row + 1 < rows and members[row + 1, column])
        left = column - bool(column > 0 and members[top:bottom, column - 1].all())
        right = column + 1 + bool(column + 1 < columns and members[top:bottom, column + 1].all())
        first, last = _half(self.rows, row, top, bottom)
        begin, end = _half(self.columns, column, left, right)
        return first, begin, last - first, end - begin


def choose_blocks(number: int, share: float, seed: int) -> Blocks:
    """Which of a number of blocks validate, (number,): the share given, at least one, not all (else ConfigError)."""
    if not 0 < share < 1:
        raise ConfigError(f"val_share is {share}; expected a share between 0 and 1.")
    if number < 2:
        raise ConfigError(f"{number} block(s) with labels; expected 2 or more. Set a smaller block, or give splits.")
    chosen = np.zeros(number, bool)
    chosen[np.random.default_rng(seed).permutation(number)[: min(max(1, round(share * number)), number - 1)]] = True
    return chosen


def _half(edges: tuple[int, ...], own: int, first: int, last: int) -> tuple[int, int]:
    """Pixels from half of the block before `own` (if first < own) to half of the one behind it (if last > own + 1)."""
    begin = edges[own] if first == own else (edges[own - 1] + edges[own]) // 2
    end = edges[own + 1] if last == own + 1 else (edges[own + 1] + edges[own + 2] + 1) // 2
    return begin, end
