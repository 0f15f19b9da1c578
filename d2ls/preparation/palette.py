"""The two official Potsdam tiles whose label colours are not the published ones."""

import numpy as np
from numpy.typing import NDArray

from d2ls.data.spec import DatasetSpec
from d2ls.preparation.originals import Original

OFF_PALETTE = {
    "top_potsdam_4_12": "a lossy re-encoding with thousands of colours",
    "top_potsdam_6_7": "most cars are (252, 255, 0)",
}
_BLOCK = 512  # rows at a time


def flat_colours(original: Original, rgb: NDArray[np.uint8], spec: DatasetSpec) -> str | None:
    """Threshold each channel at 128, in place, where a tile's official labels are known to be off their palette.

    Args:
        original: the tile.
        rgb: its colour mask, (H, W, 3).
        spec: the data set's colours.

    Returns:
        What was done, for the user; None for every other tile.
    """
    reason = OFF_PALETTE.get(original.stem) if spec.name == "potsdam" else None
    if reason is None:
        return None
    changed = unknown = 0
    for top in range(0, len(rgb), _BLOCK):
        rows = rgb[top : top + _BLOCK]
        flat = (rows >= 128) * np.uint8(255)
        changed += int(np.any(rows != flat, axis=2).sum())
        black = ~flat.any(axis=2) & rows.any(axis=2)
        mixed = flat[..., 0] & flat[..., 2] & ~flat[..., 1]
        unknown += int(black.sum() + (mixed > 0).sum())
        rows[...] = flat
    return (
        f"{original.mask.name}: official labels off their palette ({reason}); colours read by threshold, {changed} "
        f"pixels changed, {unknown} of no class read as ignore"
    )
