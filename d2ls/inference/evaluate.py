"""The loop of a test run: images are read ahead, segmented, and their masks written and counted in the background."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from d2ls.data.dataset import SegmentationDataset
from d2ls.errors import D2LSError
from d2ls.inference.predictor import Classes, Segment
from d2ls.inference.results import Masks
from d2ls.inference.scores import Scores, Tally
from d2ls.inference.writer import Writer

Sample = dict[str, Any]


class Segmented(NamedTuple):
    """An image's result on its way to the disk."""

    name: str
    path: str
    classes: Classes
    truth: NDArray[np.uint8] | None

    @classmethod
    def of(cls, sample: Sample, classes: Classes) -> "Segmented":
        """The result of a sample."""
        truth = sample["mask"].to(torch.uint8).numpy() if "mask" in sample else None
        return cls(sample["name"], sample["path"], classes, truth)


def predict(
    dataset: SegmentationDataset,
    segment: Segment,
    masks: Masks,
    *,
    batch: int = 1,
    workers: int = 2,
    resume: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    share: tuple[int, int] = (0, 1),
    tally: Tally | None = None,
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
        share: which share, from 0, of how many: the images are dealt in batches as one process would make them.
        tally: of all images, which other shares are counted in, too; None: a new one.

    Returns:
        Pixel counts of every image with labels that the tally has by then.

    Raises:
        D2LSError: an image or mask cannot be used, or a mask cannot be written.
    """
    number, shares = share
    pairs = {index: pair for index, pair in enumerate(dataset.pairs) if index // batch % shares == number}
    there = [index for index, pair in pairs.items() if resume and masks.path(pair.name).is_file()]
    wanted = sorted(set(pairs) - set(there))
    remove(masks, (pairs[index].name for index in wanted))
    tally = tally or Tally(dataset.spec, [pair.name for pair in dataset.pairs])

    def finish(result: Segmented) -> None:
        with _named(result.path):
            mask = result.classes.get().numpy()
        masks.write(result.name, mask)
        if result.truth is not None:
            tally.add(result.name, mask, result.truth)

    for pair in map(pairs.__getitem__, there):
        if (truth := dataset.read_mask(pair)) is not None:
            tally.add(pair.name, masks.read(pair.name), truth)
        progress(1)
    with closing(_read(dataset, wanted, workers, ahead=batch + workers - 1)) as samples, Writer(finish) as writer:
        for group in _batches(samples, batch):
            with _named(group[0]["path"]):
                found = segment(torch.stack([sample["image"] for sample in group]))
            for sample, classes in zip(group, found, strict=True):
                writer.put(Segmented.of(sample, classes))
            progress(len(group))
    return tally.scores()


def remove(masks: Masks, names: Iterable[str]) -> None:
    """Remove the masks of images, where there are any."""
    for name in names:
        masks.path(name).unlink(missing_ok=True)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Put an image's path before the message of an error."""
    try:
        yield
    except D2LSError as problem:
        raise type(problem)(f"{path}: {problem}") from problem


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
