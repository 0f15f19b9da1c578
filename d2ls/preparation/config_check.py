"""Check of the data of any config: the headers of all its files, the labels of its training and validation masks."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from d2ls.config import Settings
from d2ls.data.check import MISSING_CAUSES, check_headers, count_labels, missing_classes
from d2ls.preparation.check import print_some, shares, shares_table


class SplitCheck(NamedTuple):
    """Outcome for one data set of a config; `pixels` by label, (256,), None where labels are not read."""

    split: str
    images: int
    pixels: NDArray[np.int64] | None
    problems: list[str]


@dataclass
class ConfigCheck:
    """Outcome for all data sets of a config; `problems` are those of no single file."""

    settings: Settings
    splits: list[SplitCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems and not any(split.problems for split in self.splits)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "config": str(self.settings.path),
            "ok": self.ok,
            "splits": [
                {
                    "split": split.split, "images": split.images, "problems": split.problems,
                    **({} if split.pixels is None else shares(split.pixels, self.settings)),
                }
                for split in self.splits
            ],
            "problems": self.problems,
        }  # fmt: skip

    def print(self, console: Console) -> None:
        """Print figures by split, and the problems."""
        rows = [(split.split, (split.images,), split.pixels) for split in self.splits]
        console.print(shares_table(str(self.settings.path), ("images",), rows, self.settings))
        for split in self.splits:
            print_some(f"problems of {split.split}_dataset", split.problems, console)
        print_some("problems of the whole", self.problems, console)
        if self.ok:
            console.print("No problems found.", style="green")


def check_config(settings: Settings, bar: Progress) -> ConfigCheck:
    """Read all headers of a config's data sets, and all masks of training and validation; nothing else is built.

    Raises:
        DataError: a folder cannot be listed.
    """
    result = ConfigCheck(settings)
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
                result.problems.append(f"{missing}. {MISSING_CAUSES}")
        result.splits.append(SplitCheck(name, len(dataset), pixels, problems))
    return result


def _outside(settings: Settings, pixels: NDArray[np.int64], split: str) -> list[str]:
    """Labels that are neither classes of the config nor its ignore index."""
    number, ignore = len(settings.classes), settings.ignore_index
    found = ", ".join(f"{at} ({n} pixels)" for at, n in enumerate(pixels) if n and at >= number and at != ignore)
    advice = "Set classes, num_classes and ignore_index as the data set gives them."
    expected = f"expected 0 to {number - 1} or ignore_index={ignore}. {advice}"
    return [f"{split}_dataset: labels {found}, {expected}"] if found else []
