"""Loaders whose order and content depend on seed and epoch alone, whatever the number of workers."""

from collections.abc import Iterator, Sized
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Sampler

from d2ls.datasets.segmentation import Draw, Sample, SegmentationDataset
from d2ls.errors import DataError


class DrawSampler(Sampler[Draw]):
    """A fresh order each epoch, and a seed for each sample.

    Position p of an epoch is the same draw whatever the number of processes: rank r takes p = r, r + world, ..., so
    that the batches of all ranks together are those of one process with the joint batch. Positions that do not fill a
    batch on every rank are left out.

    Args:
        dataset: what is drawn from; its length is asked for at first use.
        batch_size: samples of a batch on one rank.
        seed: with the epoch, decides everything.
        rank: this process; None asks torch.distributed.
        world: number of processes; None asks torch.distributed.
    """

    def __init__(
        self, dataset: Sized, batch_size: int, *, seed: int = 42, rank: int | None = None, world: int | None = None
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._rank, self._world = rank, world

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        _, world = _place(self._rank, self._world)
        each = len(self.dataset) // world
        if each < self.batch_size:
            raise DataError(
                f"{len(self.dataset)} training images are too few for a batch of {self.batch_size} on each of {world} "
                f"process(es): no step in an epoch. Set train_batch_size to {max(each, 1)} or less, or add images."
            )
        return each - each % self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        number = len(self)
        rank, world = _place(self._rank, self._world)
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.dataset))
        seeds = rng.integers(2**62, size=len(order))
        for position in range(rank, number * world, world):
            yield Draw(int(order[position]), int(seeds[position]))


class ShareSampler(Sampler[int]):
    """Every image once, in order, dealt out to the processes; shares may differ in size by one.

    Args:
        dataset: what is dealt out; its length is asked for at first use.
        rank: this process; None asks torch.distributed.
        world: number of processes; None asks torch.distributed.
    """

    def __init__(self, dataset: Sized, *, rank: int | None = None, world: int | None = None) -> None:
        self.dataset = dataset
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return len(range(*self._range()))

    def __iter__(self) -> Iterator[int]:
        return iter(range(*self._range()))

    def _range(self) -> tuple[int, int, int]:
        rank, world = _place(self._rank, self._world)
        return rank, len(self.dataset), world


def training_loader(
    dataset: SegmentationDataset, batch_size: int, *, seed: int = 42, num_workers: int = 2, **options: Any
) -> DataLoader[Sample]:
    """Shuffled batches of one size; a last smaller one is dropped.

    Args:
        dataset: with a recipe.
        batch_size: samples of a batch, on each process.
        seed: with the epoch (`loader.sampler.set_epoch`), decides order and content.
        num_workers: reading processes; changes neither order nor content.
        options: further arguments of `DataLoader`.
    """
    sampler = DrawSampler(dataset, batch_size, seed=seed)
    return _loader(dataset, batch_size, sampler, num_workers, drop_last=True, **options)


def evaluation_loader(
    dataset: SegmentationDataset, batch_size: int = 1, *, num_workers: int = 2, **options: Any
) -> DataLoader[Sample]:
    """Every image once, in order, over all processes together.

    Args:
        dataset: without a recipe.
        batch_size: images of a batch; above 1 they must have one size.
        num_workers: reading processes.
        options: further arguments of `DataLoader`.
    """
    return _loader(dataset, batch_size, ShareSampler(dataset), num_workers, **options)


def collate(samples: list[Sample]) -> dict[str, Tensor | list[str]]:
    """A batch: images and masks stacked, names and paths listed.

    Raises:
        DataError: samples of different sizes, or only some with masks.
    """
    sizes = {tuple(sample["image"].shape[1:]): sample["path"] for sample in samples}  # type: ignore[union-attr]
    if len(sizes) > 1:
        found = " and ".join(f"{width} x {height} ({path})" for (height, width), path in list(sizes.items())[:2])
        raise DataError(f"images of one batch differ in size: {found}. Set a batch size of 1, or a crop for training.")
    masked = [sample for sample in samples if "mask" in sample]
    if masked and len(masked) < len(samples):
        bare = next(sample["path"] for sample in samples if "mask" not in sample)
        raise DataError(f"{bare}: no mask, but other images of its batch have one.")
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in ("name", "path")}
    for key in ("image", "mask") if masked else ("image",):
        batch[key] = torch.stack([sample[key] for sample in samples])  # type: ignore[misc]
    return batch


def _loader(
    dataset: SegmentationDataset, batch_size: int, sampler: Sampler[Any], num_workers: int, **options: Any
) -> DataLoader[Sample]:
    settings: dict[str, Any] = {
        "collate_fn": collate,
        "persistent_workers": num_workers > 0,
        "worker_init_fn": _start_worker,
    }
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=num_workers, **(settings | options))


def _start_worker(_: int) -> None:
    """Keep OpenCV's threads out of a worker: the workers share the cores already, and threads do not survive a fork."""
    cv2.setNumThreads(0)


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of processes: as given, else as torch.distributed has them, else one process."""
    running = distributed.is_available() and distributed.is_initialized()
    if rank is None:
        rank = distributed.get_rank() if running else 0
    if world is None:
        world = distributed.get_world_size() if running else 1
    return rank, world
