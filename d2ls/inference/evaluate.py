"""The loop of a test run: images are read ahead, segmented, and their masks written and counted in the background."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import torch

from d2ls.data.dataset import SegmentationDataset
from d2ls.errors import D2LSError
from d2ls.inference.predictor import Classes, Segment
from d2ls.inference.results import Masks
from d2ls.inference.scores import Scores, Tally
from d2ls.inference.writer import Writer

Sample = dict[str, Any]


def predict(
    dataset: SegmentationDataset, segment: Segment, masks: Masks, *, batch: int = 1, workers: int = 2,
    resume: bool = False, progress: Callable[[int], None] = lambda _: None, share: tuple[int, int] = (0, 1),
    tally: Tally | None = None,
) -> Scores:  # fmt: skip
    """Segment every image of a data set, write its mask, and score it where it has labels.

    Masks of the same names are removed first, unless the run resumes, which scores them as they are. Up to `batch`
    images of one size, following each other, are segmented at once. Memory does not grow with their number: some are
    read ahead by `workers` threads, a few wait to be written. `progress` is told how many have been finished since.

    `share` is which share, from 0, of how many: the images are dealt in batches as one process would make them. The
    `tally` is that of all shares. Returned are its scores: of every image with labels that was counted by then.
    """
    number, shares = share
    pairs = {index: pair for index, pair in enumerate(dataset.pairs) if index // batch % shares == number}
    there = [index for index, pair in pairs.items() if resume and masks.path(pair.name).is_file()]
    wanted = sorted(set(pairs) - set(there))
    remove(masks, (pairs[index].name for index in wanted))
    tally = tally or Tally(dataset.spec, [pair.name for pair in dataset.pairs])

    def finish(result: tuple[Sample, Classes]) -> None:
        sample, classes = result
        with _named(sample["path"]):
            mask = classes.get().numpy()
        masks.write(sample["name"], mask)
        if "mask" in sample:
            tally.add(sample["name"], mask, sample["mask"])

    for pair in map(pairs.__getitem__, there):
        if (truth := dataset.read_mask(pair)) is not None:
            tally.add(pair.name, masks.read(pair.name), truth)
        progress(1)
    with closing(_read(dataset, wanted, workers, ahead=batch + workers - 1)) as samples, Writer(finish) as writer:
        for group in _batches(samples, batch):
            with _named(group[0]["path"]):
                found = segment(torch.stack([sample.pop("image") for sample in group]))
            for sample, classes in zip(group, found, strict=True):
                if "mask" in sample:
                    sample["mask"] = sample["mask"].to(torch.uint8).numpy()
                writer.put((sample, classes))
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
