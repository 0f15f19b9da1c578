"""Small synthetic data sets."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.pairs import Pair
from d2ls.data.spec import DatasetSpec

SPEC = DatasetSpec(
    name="synthetic", classes=("a", "b", "c"), colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)), ignore_index=9
)


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Noise, (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(height: int, width: int, seed: int, classes: int = 3) -> NDArray[np.uint8]:
    """Blocks of 8 px of random classes, (H, W)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]


def write_pair(
    images: Path, masks: Path, name: str, *, size: tuple[int, int] = (64, 64), seed: int = 0, suffix: str = ".png"
) -> Pair:
    """An image of noise and an index mask of three classes."""
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    image, mask = images / f"{name}{suffix}", masks / f"{name}.png"
    (files.write_tiff if suffix == ".tif" else files.write_png)(image, picture(*size, seed))
    files.write_png(mask, labels(*size, seed))
    return Pair(image, mask, name)


def synthetic_dataset(
    root: Path, sizes: list[tuple[int, int]], augmentation: Augmentation | None, suffix: str = ".png"
) -> SegmentationDataset:
    """A data set of random images of these sizes."""
    pairs = [
        write_pair(root / "images", root / "masks", f"p{number}", size=size, seed=number, suffix=suffix)
        for number, size in enumerate(sizes)
    ]
    return SegmentationDataset(SPEC, pairs.copy, augmentation=augmentation)
