"""The Dataset class of all data sets: pairs of files, read whole or as augmented training samples."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from d2ls.data.augment import Augmentation, Transforms, normalise, random_colours, random_rotate_flip
from d2ls.data.bands import fill_missing, read_pixels, read_size
from d2ls.data.labels import read_index_mask
from d2ls.data.mosaic import Mosaic
from d2ls.data.pairs import Pair, check_sizes
from d2ls.data.spec import DatasetSpec

Pixels = NDArray[Any]
Mask = NDArray[np.uint8]
MaskReader = Callable[[Path, DatasetSpec], Mask]
Sample = dict[str, Tensor | str]


class SampleRequest(NamedTuple):
    """Which image a training sample is made of, and the seed of everything random in it."""

    index: int  # type: ignore[assignment]  # hides the method of tuples, which nobody needs here
    seed: int


class SegmentationDataset(Dataset[Sample]):
    """Images and masks of one split.

    `dataset[i]` is a dict of "image", float32 (bands, H, W), normalised; "mask", int64 (H, W) of class indices and the
    ignore index, absent where the split has no masks; "name", unique in the split; "path", the image's file. Without an
    augmentation it is the whole image, always the same. With one, `dataset[SampleRequest(i, seed)]` depends on the
    files, i and the seed alone, and `dataset[i]` takes its seed from torch's generator.

    Args:
        spec: classes and bands.
        listing: lists the pairs; called at first use, so that constructing a data set touches no disk.
        read_mask: reads a mask file as class indices.
        augmentation: random changes for training; None for evaluation.
        normalise: False gives samples for `d2ls.data.augment.normalise_batch`, a quarter of the bytes: "image" as it
            is in the file where that is of an integer type, and "mask" as uint8.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        listing: Callable[[], list[Pair]],
        *,
        read_mask: MaskReader = read_index_mask,
        augmentation: Augmentation | None = None,
        normalise: bool = True,
    ) -> None:
        self.spec = spec
        self.augmentation = augmentation
        self.normalise = normalise
        self._listing = listing
        self._read_mask = read_mask
        self._pairs: list[Pair] | None = None
        given = None if augmentation is None else augmentation.augment
        self._transforms = None if given is None else Transforms(given, spec)

    @property
    def pairs(self) -> list[Pair]:
        """The images and their masks, listed once.

        Raises:
            DataError: the folder is missing or empty, or a file has no partner.
        """
        if self._pairs is None:
            self._pairs = self._listing()
        return self._pairs

    @property
    def crop_source(self) -> "SegmentationDataset":
        """The images that training crops are cut from, pair by pair: these."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Send functions and classes of a config file to worker processes by value: these cannot import them."""
        return _restore, (cloudpickle.dumps((type(self), self.__dict__)),)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int | SampleRequest) -> Sample:
        index = item.index if isinstance(item, SampleRequest) else int(item)
        pair = self.pairs[index]
        if self.augmentation is None:
            image, mask = self.read_pixels(pair), self.read_mask(pair)
            if mask is not None:
                check_sizes(pair, image.shape, mask.shape)
            image, mask = fill_missing(image, mask, self.spec)
        else:
            seed = item.seed if isinstance(item, SampleRequest) else int(torch.randint(2**62, ()))
            image, mask = self._augmented(index, self.augmentation, np.random.default_rng(seed))
        raw = not self.normalise and image.dtype != np.float32
        values = np.ascontiguousarray(image.transpose(2, 0, 1)) if raw else normalise(image, self.spec)
        sample: Sample = {"image": torch.from_numpy(values), "name": pair.name, "path": str(pair.image)}
        if mask is not None:
            sample["mask"] = torch.from_numpy(mask.astype(np.int64 if self.normalise else np.uint8))
        return sample

    def read_size(self, pair: Pair) -> tuple[int, int]:
        """Height and width of a pair's image, as `d2ls.data.bands.read_size`."""
        return read_size(pair.image, self.spec)

    def read_pixels(self, pair: Pair, window: tuple[int, int, int, int] | None = None) -> Pixels:
        """Pixels of a pair's image, as `d2ls.data.bands.read_pixels`."""
        return read_pixels(pair.image, self.spec, window)

    def read_mask(self, pair: Pair) -> Mask | None:
        """Class indices and the ignore index of a pair, (H, W); None where it has no mask.

        Raises:
            DataError: unreadable, or labels outside the classes.
        """
        return None if pair.mask is None else self._read_mask(pair.mask, self.spec)

    def _augmented(self, index: int, augmentation: Augmentation, rng: np.random.Generator) -> tuple[Pixels, Mask]:
        """One training sample: image (H, W, bands) and mask (H, W)."""
        image, mask = Mosaic.random(self.crop_source, index, augmentation, rng).sample(augmentation, rng)
        image, mask = fill_missing(image, mask, self.spec)
        image, mask = random_rotate_flip(image, mask, augmentation, rng)
        image = random_colours(image, augmentation, rng, self.spec)
        if self._transforms is not None:
            image, mask = self._transforms(image, mask, rng, self.pairs[index].image)
        return image, mask


def _restore(pickled: bytes) -> SegmentationDataset:
    kind, state = pickle.loads(pickled)
    dataset: SegmentationDataset = kind.__new__(kind)
    dataset.__dict__.update(state)
    return dataset
