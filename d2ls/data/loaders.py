"""Data loaders: order and content depend on seed and epoch alone, whatever the number of workers."""

import atexit
import os
import signal
import weakref
import zlib
from collections.abc import Iterator, Sized
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from d2ls import distributed
from d2ls.data.dataset import Sample, SampleRequest, SegmentationDataset
from d2ls.errors import DataError
from d2ls.memory import keep_freed_memory

MAX_WORKERS = 8
WORKER_MEMORY = 128 << 20  # bytes that a worker keeps after it has freed them
GRACE = 60  # seconds that a worker goes on after SIGTERM
Workers = int | Literal["auto"]
_OF_WORKERS = ("persistent_workers", "prefetch_factor", "timeout", "multiprocessing_context")


class SeededSampler(Sampler[SampleRequest]):
    """A new order for each epoch, and a seed for each sample; with weights, some images come more often than others.

    Position p of an epoch is the same request whatever the number of processes: rank r takes p = r, r + world, ..., so
    that the batches of all ranks together are those of one process with the joint batch. Positions that do not fill a
    batch on every rank are left out.

    Args:
        dataset: the images; its length is asked for at first use.
        batch_size: samples of a batch on one rank.
        seed: with the epoch, decides everything.
        rank: this process; None asks torch.distributed.
        world: number of processes; None asks torch.distributed.
    """

    def __init__(
        self, dataset: Sized, batch_size: int, *, seed: int = 42, rank: int | None = None, world: int | None = None
    ) -> None:
        self.dataset, self.batch_size, self.seed, self.epoch = dataset, batch_size, seed, 0
        self._begun = (0, 0)
        self._weights: NDArray[np.float64] | None = None
        self._place = partial(_place, rank, world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls it."""
        self.epoch = epoch

    def set_weights(self, weights: NDArray[np.float64]) -> None:
        """Take images in proportion to weights of at least 0, one for each, not all 0; an epoch keeps its length.

        An image with the share s of all weights comes n s times among n samples, rounded up or down by chance.
        """
        self._weights = weights

    def begin_at(self, epoch: int, batches: int) -> None:
        """Leave out the first batches of an epoch, which an interrupted run has done; `len` stays the same."""
        self.epoch, self._begun = epoch, (epoch, batches)

    def order(self) -> dict[str, int]:
        """Everything besides the epoch on which its order and its batches depend."""
        _, world = self._place()
        known = {"seed": self.seed, "images": len(self.dataset), "batch_size": self.batch_size, "processes": world}
        return known if self._weights is None else known | {"weights": zlib.crc32(self._weights.tobytes())}

    def __len__(self) -> int:
        _, world = self._place()
        each = len(self.dataset) // world
        if each < self.batch_size:
            raise DataError(
                f"{len(self.dataset)} training images are too few for a batch of {self.batch_size} on each of {world} "
                f"process(es): no step in an epoch. Set train_batch_size to {max(each, 1)} or less, or add images."
            )
        return each - each % self.batch_size

    def __iter__(self) -> Iterator[SampleRequest]:
        number = len(self)
        rank, world = self._place()
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.dataset) if self._weights is None else _systematic(self._weights, rng))
        seeds = rng.integers(2**62, size=len(order))
        epoch, batches = self._begun
        done = batches * self.batch_size if epoch == self.epoch else 0
        for position in range(rank + done * world, number * world, world):
            yield SampleRequest(int(order[position]), int(seeds[position]))


class DistributedEvalSampler(Sampler[int]):
    """Every image once, in order, divided among the processes; shares may differ in size by one.

    A process beyond the number of images reads the last one again, to keep step with the others (see `is_padding`).

    Args:
        dataset: the images; its length is asked for at first use.
        rank: this process; None asks torch.distributed.
        world: number of processes; None asks torch.distributed.
    """

    def __init__(self, dataset: Sized, *, rank: int | None = None, world: int | None = None) -> None:
        self.dataset = dataset
        self._place = partial(_place, rank, world)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[int]:
        rank, world = self._place()
        images = len(self.dataset)
        return iter(range(max(min(rank, images - 1), 0), images, world))

    @property
    def is_padding(self) -> bool:
        """Whether this process repeats an image of another one, which must not be counted."""
        return self._place()[0] >= len(self.dataset)


def training_loader(
    dataset: SegmentationDataset, batch_size: int, *, seed: int = 42, num_workers: Workers = "auto", **options: Any
) -> DataLoader[Sample]:
    """Make a loader of shuffled batches of one size; a last smaller batch is dropped.

    Args:
        dataset: with an augmentation.
        batch_size: samples of a batch, on each process.
        seed: with the epoch (`loader.sampler.set_epoch`), decides order and content.
        num_workers: reading processes, which change neither order nor content; "auto" is one for each CPU core that
            this process may use, shared by the training processes of the machine, at most 8.
        options: further arguments of `DataLoader`. By default workers live on between epochs (`persistent_workers`),
            memory is pinned where there is a GPU (`pin_memory`), and each worker prepares two batches ahead
            (`prefetch_factor`).
    """
    sampler = SeededSampler(dataset, batch_size, seed=seed)
    return _loader(dataset, batch_size, sampler, num_workers, drop_last=True, **options)


def evaluation_loader(
    dataset: SegmentationDataset, batch_size: int = 1, *, num_workers: Workers = "auto", **options: Any
) -> DataLoader[Sample]:
    """Make a loader of every image once, in order, over all processes together.

    Args:
        dataset: without an augmentation.
        batch_size: images of a batch; above 1 they must have one size.
        num_workers: reading processes, as in `training_loader`.
        options: further arguments of `DataLoader`, as in `training_loader`.
    """
    return _loader(dataset, batch_size, DistributedEvalSampler(dataset), num_workers, **options)


def available_workers() -> int:
    """Reading processes that suit this machine: its usable CPU cores over its training processes, 1 to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, min(MAX_WORKERS, cores // max(1, int(processes) if processes.isdecimal() else 1)))


def begins_anywhere(loader: Any) -> bool:
    """Whether a loader can begin inside an epoch; those of `training_loader` can."""
    return hasattr(getattr(loader, "sampler", None), "begin_at")


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
        unmasked = next(sample["path"] for sample in samples if "mask" not in sample)
        raise DataError(f"{unmasked}: no mask, but other images of its batch have one.")
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in ("name", "path")}
    for key in ("image", "mask") if masked else ("image",):
        batch[key] = default_collate([sample[key] for sample in samples])  # a worker stacks into shared memory
    return batch


def _loader(
    dataset: SegmentationDataset, batch_size: int, sampler: Sampler[Any], num_workers: Workers, **options: Any
) -> DataLoader[Sample]:
    workers = available_workers() if num_workers == "auto" else num_workers
    settings = {"pin_memory": torch.cuda.is_available(), "persistent_workers": True, **options}
    if workers == 0:  # DataLoader refuses what only workers can do
        settings = {key: value for key, value in settings.items() if key not in _OF_WORKERS}
    settings = {"collate_fn": collate, "worker_init_fn": _start_worker, **settings}
    loader: DataLoader[Sample] = DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, **settings)
    atexit.register(_stop_workers, weakref.ref(loader))
    return loader


def _stop_workers(reference: "weakref.ref[DataLoader[Sample]]") -> None:
    """End the workers of a loader at the interpreter's exit, which would send them SIGTERM and wait for `GRACE`."""
    iterator = getattr(reference(), "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()


def _start_worker(_: int) -> None:
    """Prepare a worker: no threads of OpenCV, freed memory kept, SIGTERM put off.

    A cluster sends SIGTERM to every process at once: the main one may need a few batches more until it has saved.
    """
    cv2.setNumThreads(0)  # the workers share the cores already, and threads do not survive a fork
    # A sample needs some 8 MB in large pieces: their pages took a third of an uncompressed sample's time.
    keep_freed_memory(WORKER_MEMORY)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def _systematic(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of as many images as there are weights, at equal steps along their cumulative sum."""
    bounds, number = np.cumsum(weights), len(weights)
    # From above 0 to the sum, so that an image of weight 0 is never met.
    return np.searchsorted(bounds, (np.arange(number) + 1 - rng.random()) / number * bounds[-1])


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and number of processes: as given, else as they are now."""
    return distributed.rank() if rank is None else rank, distributed.world_size() if world is None else world
