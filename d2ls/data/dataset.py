"""The one Dataset class: pairs of files, listed when first needed, read whole or by a training augmentation."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from d2ls.data import io as files
from d2ls.data.augment import Augmentation, normalise, random_colours, random_rotate_flip
from d2ls.data.labels import read_index_mask
from d2ls.data.mosaic import Mosaic
from d2ls.data.pairs import Pair, check_sizes
from d2ls.data.spec import DatasetSpec

MaskReader = Callable[[Path, DatasetSpec], NDArray[np.uint8]]
Sample = dict[str, Tensor | str]


class SampleRequest(NamedTuple):
    """A training sample asked for: which image, and the seed of everything drawn for it."""

    index: int  # type: ignore[assignment]  # hides the method of tuples, which nobody needs here
    seed: int


class SegmentationDataset(Dataset[Sample]):
    """Images and masks of one split.

    `dataset[i]` is a dict of "image", float32 (3, H, W), ImageNet-normalised; "mask", int64 (H, W) of class indices and
    the ignore index, absent where the split has no masks; "name", unique in the split; "path", the image's file.
    Without an augmentation it is the whole image, always the same. With one, `dataset[SampleRequest(i, seed)]` depends
    on the files, i and the seed alone, and `dataset[i]` takes its seed from torch's generator.

    Args:
        spec: what the labels mean.
        listing: lists the pairs; called at first use, so that constructing a data set touches no disk. A function of a
            module or a `functools.partial` of one, so that it can be sent to worker processes.
        read_mask: reads a mask file as class indices.
        augmentation: random changes for training; None for evaluation.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        listing: Callable[[], list[Pair]],
        *,
        read_mask: MaskReader = read_index_mask,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.spec = spec
        self.augmentation = augmentation
        self._listing = listing
        self._read_mask = read_mask
        self._pairs: list[Pair] | None = None

    @property
    def pairs(self) -> list[Pair]:
        """The images and their masks, listed once.

        Raises:
            DataError: the folder is missing or empty, or a file has no partner.
        """
        if self._pairs is None:
            self._pairs = self._listing()
        return self._pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | SampleRequest) -> Sample:
        index = item.index if isinstance(item, SampleRequest) else int(item)
        pair = self.pairs[index]
        if self.augmentation is None:
            image, mask = files.read_image(pair.image), self.read_mask(pair)
        else:
            seed = item.seed if isinstance(item, SampleRequest) else int(torch.randint(2**62, ()))
            image, mask = self._draw(index, self.augmentation, np.random.default_rng(seed))
        sample: Sample = {"image": torch.from_numpy(normalise(image)), "name": pair.name, "path": str(pair.image)}
        if mask is not None:
            check_sizes(pair, image.shape, mask.shape)
            sample["mask"] = torch.from_numpy(mask.astype(np.int64))
        return sample

    def read_mask(self, pair: Pair) -> NDArray[np.uint8] | None:
        """Class indices and the ignore index of a pair, (H, W); None where it has no mask.

        Raises:
            DataError: unreadable, or labels outside the classes.
        """
        return None if pair.mask is None else self._read_mask(pair.mask, self.spec)

    def _draw(
        self, index: int, augmentation: Augmentation, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """One training sample: image (H, W, 3) and mask (H, W)."""
        canvas = Mosaic.drawn(self, index, augmentation, rng)
        image, mask = canvas.sample(augmentation, rng)
        image, mask = random_rotate_flip(image, mask, augmentation, rng)
        return random_colours(image, augmentation, rng), mask
