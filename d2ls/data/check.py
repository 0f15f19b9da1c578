"""Checks of the files of a data set: all headers in one pass, all labels in another."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.bands import is_picture, read_size
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.image_header import RGB_KINDS
from d2ls.data.labels import count_values
from d2ls.data.pairs import Pair, check_sizes
from d2ls.data.regions import Region
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError

THREADS = 4
MISSING_CAUSES = (
    "Usual causes: masks of 0 and 255 (declare DatasetSpec(values={0: .., 255: ..})); labels counted from 1, or 0 for "
    "unlabelled pixels (values={0: 'ignore', 1: ..}). Where a class is really absent, set allow_missing_classes=True."
)
Progress = Callable[[], object]
Job = TypeVar("Job")
Result = TypeVar("Result")


class LabelCounts(NamedTuple):
    """Labels of a data set."""

    by_image: NDArray[np.int64]  # pixels of each image by class index or ignore index, (images, 256)
    problems: list[str]  # one line for each mask that is not counted: unreadable, or with other values

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Number of pixels by label, (256,)."""
        return self.by_image.sum(axis=0)


def check_headers(dataset: Any, progress: Progress | None = None) -> list[str]:
    """Read the header of every image and mask of a `SegmentationDataset`, about a millisecond a file; decode nothing.

    Gives one line for each unreadable file, each image of another kind than the network takes, and each mask of another
    size than its image, in the order of the pairs. Other data sets do not name their files, and are passed over.
    """
    if not isinstance(dataset, SegmentationDataset):
        return []
    pairs = [*{(pair.image, *_mask_file(pair)): pair for pair in dataset.pairs}.values()]
    found = _run(partial(_header_problems, spec=dataset.spec), pairs, progress)
    return [problem for problems in found for problem in problems]


def count_labels(dataset: Any, progress: Progress | None = None, indices: Sequence[int] | None = None) -> LabelCounts:
    """Read every mask, or those of `indices`, and count its labels; another data set has samples with a "mask"."""
    threads = THREADS if isinstance(dataset, SegmentationDataset) else 1
    chosen = range(len(dataset)) if indices is None else indices
    counts = LabelCounts(np.zeros((len(chosen), 256), np.int64), [])
    with torch.random.fork_rng(devices=[]):  # a data set of the user's own may draw random numbers
        for place, pixels in enumerate(_run(partial(_labels_of, dataset), chosen, progress, threads)):
            if isinstance(pixels, str):
                counts.problems.append(pixels)
            else:
                counts.by_image[place] = pixels
    return counts


def missing_classes(classes: Sequence[str], pixels: NDArray[np.int64], ignore_index: int) -> str:
    """Sentence on classes without a pixel in the training masks (by label, (256,)); empty where none is missing."""
    missing = [name for name, count in zip(classes, pixels, strict=False) if not count]
    if not missing:
        return ""
    found = [
        f"{value} ({100 * pixels[value] / pixels.sum():.1f} %)" + " = ignore_index" * (value == ignore_index)
        for value in np.flatnonzero(pixels).tolist()
    ]
    return (
        f"no training mask holds the class{'es' * (len(missing) > 1)} {', '.join(missing)}; the masks hold "
        f"{', '.join(found) or 'no labels'}; {len(missing)} of {len(classes)} classes are missing"
    )


def _header_problems(pair: Pair, spec: DatasetSpec) -> list[str]:
    problems, sizes = [], []
    for path in (pair.image, *_mask_file(pair)):
        try:
            if path == pair.image and not is_picture(path, spec):
                sizes.append(read_size(path, spec))
                continue
            header = files.read_kind(path)
            sizes.append((header.height, header.width))
            if path == pair.image and (header.bits > 8 or header.kind not in RGB_KINDS):
                problems.append(f"{path}: {header.bits}-bit {header.kind} pixels, expected 8-bit RGB.")
            if len(sizes) == 2:
                check_sizes(pair, *sizes)
        except DataError as problem:
            problems.append(str(problem))
    return problems


def _mask_file(pair: Pair) -> tuple[Path, ...]:
    """The mask of an image; none of a region of a raster, whose labels are compared with it as it is listed."""
    return () if pair.mask is None or isinstance(pair, Region) else (pair.mask,)


def _labels_of(dataset: Any, index: int) -> NDArray[np.int64] | str:
    """Number of pixels by label of one mask, or the reason why it has none."""
    try:
        if isinstance(dataset, SegmentationDataset):
            mask: Any = dataset.read_mask(dataset.pairs[index])
        else:
            mask = dataset[index].get("mask")
    except DataError as problem:
        return str(problem)
    if mask is None:
        return np.zeros(256, np.int64)
    labels = np.asarray(mask)
    if labels.size and (labels.min() < 0 or labels.max() > 255):
        return f"image {index}: labels from {labels.min()} to {labels.max()}, expected 0 to 255."
    return count_values(labels.astype(np.uint8))


def _run(
    function: Callable[[Job], Result], jobs: Sequence[Job], progress: Progress | None, threads: int = THREADS
) -> Iterator[Result]:
    """Results in the order of the jobs, from a few threads: reading and decoding release Python's lock."""
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(function, jobs):
            if progress:
                progress()
            yield result
