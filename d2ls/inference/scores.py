"""Scores of a run from the pixel counts of its images: the table, its intervals, and the files beside the masks."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.inference.score_table import PER_CLASS, score_table
from d2ls.metrics import SegmentationMetrics, score_counts

Pixels = NDArray[np.uint8]
MEANS = {"mIoU": "mIoU", "F1": "mean F1", "OA": "OA"}
"""Scores of a run by their names in `metrics.json`, and what `score_counts` calls them."""
FILES = ("metrics.json", "metrics.csv")
RESAMPLES, SEED, COVERAGE = 1000, 0, 0.95


@dataclass(frozen=True)
class Scores:
    """What the images of a run scored.

    Attributes:
        spec: the classes, and which of them are scored.
        counts: pixel counts of each image, by its name.
    """

    spec: DatasetSpec
    counts: Mapping[str, torch.Tensor]

    @cached_property
    def total(self) -> dict[str, torch.Tensor]:
        """Scores of all images together, as `score_counts` gives them, and the counts as "confusion"."""
        confusion = torch.stack(list(self.counts.values())).sum(dim=0)
        return score_counts(confusion, self.spec.scored) | {"confusion": confusion}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the means: images drawn with replacement (percentile bootstrap, fixed seed).

        Empty where there is only one image to draw from.
        """
        number = len(self.counts)
        if number < 2:
            return {}
        draws = np.random.default_rng(SEED).multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
        images = torch.stack([counts.flatten() for counts in self.counts.values()]).double()
        classes = self.spec.num_classes
        resampled = (torch.from_numpy(draws).double() @ images).view(RESAMPLES, classes, classes)
        found = score_counts(resampled, self.spec.scored)
        edges = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
        result = {}
        for name, mean in MEANS.items():
            values = found[mean].numpy()
            if not np.isnan(values).all():
                low, high = np.nanquantile(values, edges).tolist()
                result[name] = (low, high)
        return result

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        """Everything as plain values; what cannot be scored is None."""
        total, intervals = self.total, self.intervals
        pixels = total["confusion"].sum(dim=1)
        return {
            **{name: _number(total[mean]) for name, mean in MEANS.items()},
            "intervals": {name: list(intervals[name]) if name in intervals else None for name in MEANS},
            "interval_method": f"percentile bootstrap over images, {COVERAGE:.0%}, {RESAMPLES} draws, seed {SEED}",
            "per_class": {
                name: {
                    **{score: _number(total[score][index]) for score in PER_CLASS},
                    "pixels": int(pixels[index]),
                    "scored": index in self.spec.scored,
                }
                for index, name in enumerate(self.spec.classes)
            },
            "confusion": total["confusion"].tolist(),
            "images": [self.image(name) for name in self.counts],
        }

    def image(self, name: str) -> dict[str, Any]:
        """Name, labelled pixels and means of one image as plain values; what cannot be scored is None."""
        counts = self.counts[name]
        found = score_counts(counts, self.spec.scored)
        return {
            "name": name,
            "pixels": int(counts.sum()),
            **{score: _number(found[mean]) for score, mean in MEANS.items()},
        }

    def print(self, console: Console) -> None:
        """Show the table of classes, the means and their intervals, in per cent."""
        title = f"{self.spec.name}: {len(self.counts)} images, per cent"
        intervals = {MEANS[name]: edges for name, edges in self.intervals.items()}
        console.print(score_table(self.total["confusion"], self.spec.classes, self.spec.scored, title, intervals))

    def write(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Write `metrics.json` and `metrics.csv`.

        Args:
            folder: where the masks are.
            run: what made them: checkpoint, config, views, command line.

        Raises:
            DataError: the folder cannot be written.
        """
        found = self.plain
        text = json.dumps({"run": run, **found}, indent=1, allow_nan=False)
        write_bytes(folder / "metrics.json", (text + "\n").encode())
        write_bytes(folder / "metrics.csv", self._csv(found, run).encode())

    def _csv(self, found: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """A row for each class, one for each mean, and what made them."""
        stream = io.StringIO()
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["kind", "name", *PER_CLASS, "pixels", "scored", "value", "low", "high"])
        for name, row in found["per_class"].items():
            values = [_text(row[score]) for score in PER_CLASS]
            rows.writerow(["class", name, *values, row["pixels"], int(row["scored"]), "", "", ""])
        for name in MEANS:
            interval = found["intervals"][name] or (None, None)
            rows.writerow(["mean", name, *[""] * 6, _text(found[name]), *map(_text, interval)])
        for name, value in run.items():
            rows.writerow(["run", name, *[""] * 6, value if isinstance(value, str) else json.dumps(value), "", ""])
        return stream.getvalue()


class Tally:
    """Pixel counts of images as they come.

    There is room for all of them from the start: a small piece of memory kept for each image would lie between the
    large ones that come and go, and the process would grow by an image's size with each.

    Args:
        spec: the classes.
        names: of all images.
    """

    def __init__(self, spec: DatasetSpec, names: Iterable[str]) -> None:
        self._spec = spec
        self._places = {name: place for place, name in enumerate(names)}
        self._counts = torch.zeros(len(self._places), spec.num_classes, spec.num_classes, dtype=torch.int64)
        self._counted = np.zeros(len(self._places), bool)
        self._metrics = SegmentationMetrics(spec.num_classes, spec.ignore_index, spec.scored)

    def add(self, name: str, prediction: Pixels, truth: Pixels) -> None:
        """Count an image.

        Args:
            name: one of the names.
            prediction: class indices, (H, W).
            truth: class indices or the ignore index, (H, W).

        Raises:
            DataError: sizes differ, or values are no classes.
        """
        if prediction.shape != truth.shape:
            (height, width), (rows, columns) = prediction.shape, truth.shape
            raise DataError(f"{name}: its mask has {width} x {height} pixels, its label {columns} x {rows}.")
        self._metrics.reset()
        self._metrics.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        self._counts[self._places[name]] = self._metrics.confmat
        self._counted[self._places[name]] = True

    def scores(self) -> Scores:
        """Scores of the images that were counted."""
        return Scores(
            self._spec, {name: self._counts[place] for name, place in self._places.items() if self._counted[place]}
        )


def _number(value: torch.Tensor) -> float | None:
    number = value.item()
    return None if math.isnan(number) else number


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)
