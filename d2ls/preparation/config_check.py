"""Check of the data of any config: the headers of all its files, the labels of its training and validation masks."""

from collections import Counter
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from d2ls.config import Settings
from d2ls.data.check import MISSING_CAUSES, check_headers, count_labels, missing_classes
from d2ls.preparation.check import Split


def check_config(settings: Settings, bar: Progress) -> tuple[dict[str, Split], dict[str, list[str]], list[str]]:
    """Read all headers of a config's data sets, and all masks of training and validation; nothing else is built.

    Gives the figures of each split, the problems of its files, and those of no single file.
    """
    splits: dict[str, Split] = {}
    of_files: dict[str, list[str]] = {}
    others = []
    for name in ("train", "val", "test"):
        dataset = getattr(settings, f"{name}_dataset")
        if dataset is None:
            continue
        step = partial(bar.advance, bar.add_task(f"{name}: headers", total=len(dataset)))
        problems = check_headers(dataset, step)
        pixels = None
        if name != "test":
            step = partial(bar.advance, bar.add_task(f"{name}: labels", total=len(dataset)))
            counts = count_labels(dataset, step)
            pixels = counts.pixels
            problems = list(dict.fromkeys([*problems, *counts.problems, *_outside(settings, pixels, name)]))
            missing = missing_classes(settings.classes, pixels, settings.ignore_index)
            if missing and name == "train" and not settings.allow_missing_classes:
                others.append(f"{missing}. {MISSING_CAUSES}")
        splits[name], of_files[name] = Split(Counter(images=len(dataset)), pixels), problems
    return splits, of_files, others


def _outside(settings: Settings, pixels: NDArray[np.int64], split: str) -> list[str]:
    """Labels that are neither classes of the config nor its ignore index."""
    number, ignore = len(settings.classes), settings.ignore_index
    found = ", ".join(f"{at} ({n} pixels)" for at, n in enumerate(pixels) if n and at >= number and at != ignore)
    advice = "Set classes, num_classes and ignore_index as the data set gives them."
    expected = f"expected 0 to {number - 1} or ignore_index={ignore}. {advice}"
    return [f"{split}_dataset: labels {found}, {expected}"] if found else []
