"""The augmentation in its plain order: whole images, step by step.

The oracle for the distribution of our own samples, and the plain side of benchmarks/loader.py: OpenCV reads, resizes
and counts, albumentations rotates, flips and normalises.
"""

from pathlib import Path

import albumentations
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from d2ls.data.augment import Augmentation
from d2ls.data.pairs import Pair

Pixels = NDArray[np.uint8]
SIZE = 1024  # of the images, unless told otherwise


class PlainAugmentation(Dataset[dict[str, Tensor]]):
    """Training samples of images of one size, at least that of the crop divided by the smallest scale.

    Args:
        pairs: images and index masks.
        augmentation: with a crop, scales and a smart crop.
        ignore_index: of the masks.
        size: side of the images, in pixels.
        pillow: resize with Pillow rather than OpenCV; it filters what it makes smaller.
    """

    def __init__(
        self,
        pairs: list[Pair],
        augmentation: Augmentation,
        ignore_index: int,
        *,
        size: int = SIZE,
        pillow: bool = False,
    ) -> None:
        self.pairs, self.augmentation, self.ignore_index = pairs, augmentation, ignore_index
        self.size, self.pillow = size, pillow
        self.rotate_flip = albumentations.Compose(
            [
                albumentations.RandomRotate90(p=augmentation.rot90),
                albumentations.HorizontalFlip(p=augmentation.flip),
                albumentations.VerticalFlip(p=augmentation.flip),
            ]
        )
        self.normal = albumentations.Normalize()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        if rng.random() < self.augmentation.mosaic:
            chosen = [index, *rng.integers(len(self.pairs), size=3)]
            image, mask = self.mosaic([self.read(self.pairs[at]) for at in chosen], rng)
        else:
            image, mask = self.read(self.pairs[index])
        image, mask = self.resize(image, mask, self.augmentation.scales[rng.integers(len(self.augmentation.scales))])
        image, mask = self.augment(*self.crop(image, mask, rng))
        return {"image": self.normalise(image), "mask": torch.from_numpy(mask.astype(np.int64))}

    def read(self, pair: Pair) -> tuple[Pixels, Pixels]:
        return self.read_image(pair.image), self.read_mask(pair.mask)

    def read_image(self, path: Path) -> Pixels:
        return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def read_mask(self, path: Path) -> Pixels:
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)

    def mosaic(self, parts: list[tuple[Pixels, Pixels]], rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        size = self.size
        row, column = rng.integers(size // 4, 3 * size // 4, size=2, endpoint=True)
        heights, widths = (row, row, size - row, size - row), (column, size - column, column, size - column)
        image, mask = np.empty((size, size, 3), np.uint8), np.empty((size, size), np.uint8)
        for number, (pixels, labels) in enumerate(parts):
            height, width = heights[number], widths[number]
            down, right = rng.integers(size - height + 1), rng.integers(size - width + 1)
            top, left = (row if number > 1 else 0), (column if number % 2 else 0)
            here, there = (
                np.s_[top : top + height, left : left + width],
                np.s_[down : down + height, right : right + width],
            )
            image[here], mask[here] = pixels[there], labels[there]
        return image, mask

    def resize(self, image: Pixels, mask: Pixels, scale: float) -> tuple[Pixels, Pixels]:
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        if self.pillow:
            nearest = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
            return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)), np.asarray(nearest)
        resized = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        return resized, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)

    def crop(self, image: Pixels, mask: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        side = self.augmentation.crop
        for _ in range(self.augmentation.tries):
            top, left = (int(rng.integers(length - side + 1)) for length in mask.shape)
            window = np.s_[top : top + side, left : left + side]
            values, counts = np.unique(mask[window], return_counts=True)
            counts = counts[values != self.ignore_index]
            if len(counts) > 1 and counts.max() / counts.sum() < self.augmentation.smart_crop:
                break
        return image[window], mask[window]

    def augment(self, image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
        changed = self.rotate_flip(image=image, mask=mask)
        return changed["image"], changed["mask"]

    def normalise(self, image: Pixels) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.normal(image=image)["image"].transpose(2, 0, 1)))
