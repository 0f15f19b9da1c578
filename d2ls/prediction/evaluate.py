"""The loop of a test run: images are read ahead, segmented, and their masks written and counted in the background."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2ls.datasets.segmentation import SegmentationDataset
from d2ls.errors import D2LSError, DataError
from d2ls.prediction.masks import Masks
from d2ls.prediction.network import Segment
from d2ls.prediction.scores import Scores, count
from d2ls.prediction.writer import Writer

Sample = dict[str, Any]


class Segmented(NamedTuple):
    """An image's result on its way to the disk."""

    name: str
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


def predict(
    dataset: SegmentationDataset,
    segment: Segment,
    masks: Masks,
    *,
    batch: int = 1,
    workers: int = 2,
    resume: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Segment every image of a data set, write its mask, and score it where it has labels.

    Masks of the same names are removed first, unless the run resumes: an interrupted run leaves none but its own.
    Memory does not grow with the number of images: a few are read ahead, a few wait to be written.

    Args:
        dataset: read for evaluation.
        segment: class indices of images.
        masks: where they are written.
        batch: images of one size, following each other, that are segmented at once.
        workers: threads that read images.
        resume: masks that are there already stay, and are scored as they are.
        progress: told the number of images that have been finished since it was last told.

    Returns:
        Pixel counts of every image with labels.

    Raises:
        D2LSError: an image or mask cannot be used, or a mask cannot be written.
    """
    there = {pair.name for pair in dataset.pairs if resume and masks.path(pair.name).is_file()}
    counts: dict[str, Tensor] = {}
    for pair in dataset.pairs:
        if pair.name not in there:
            masks.path(pair.name).unlink(missing_ok=True)
        else:
            _count(counts, dataset, Segmented(pair.name, masks.read(pair.name), dataset.read_mask(pair)))
            progress(1)
    wanted = [index for index, pair in enumerate(dataset.pairs) if pair.name not in there]

    def finish(result: Segmented) -> None:
        masks.write(result.name, result.mask)
        _count(counts, dataset, result)

    with closing(_read(dataset, wanted, workers, ahead=batch + workers - 1)) as samples, Writer(finish) as writer:
        for group in _batches(samples, batch):
            for sample, mask in zip(group, _segment(segment, group), strict=True):
                truth = sample["mask"].to(torch.uint8).numpy() if "mask" in sample else None
                writer.put(Segmented(sample["name"], mask.numpy(), truth))
            progress(len(group))
    return Scores(dataset.spec, {pair.name: counts[pair.name] for pair in dataset.pairs if pair.name in counts})


def _count(counts: dict[str, Tensor], dataset: SegmentationDataset, result: Segmented) -> None:
    """Count an image's pixels where it has labels."""
    if result.truth is None:
        return
    if result.truth.shape != result.mask.shape:
        (height, width), (rows, columns) = result.mask.shape, result.truth.shape
        raise DataError(f"{result.name}: its mask has {width} x {height} pixels, its label {columns} x {rows}.")
    counts[result.name] = count(result.mask, result.truth, dataset.spec)


def _segment(segment: Segment, group: list[Sample]) -> Tensor:
    """Class indices of some images, (B, H, W); an error names the first of them."""
    try:
        return segment(torch.stack([sample["image"] for sample in group]))
    except D2LSError as problem:
        raise type(problem)(f"{group[0]['path']}: {problem}") from problem


def _read(dataset: SegmentationDataset, indices: Iterable[int], workers: int, ahead: int) -> Generator[Sample]:
    """Samples in order, read by threads: decoding leaves Python's lock to the network."""
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="d2ls-reader") as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(dataset.__getitem__, index))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Successive samples of one size, `size` at most."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) == size or sample["image"].shape != group[0]["image"].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group
