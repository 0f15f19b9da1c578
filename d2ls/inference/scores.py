"""Scores of a run from the confusion matrices of its images: the table, confidence intervals, and the files."""

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.metrics import PER_CLASS, SegmentationMetrics, percent, score_counts

Pixels = NDArray[np.uint8]
MEANS = {"mIoU": "mIoU", "F1": "mean F1", "OA": "OA"}
"""Scores of a run by their names in `metrics.json`, and their keys in `score_counts`."""
FILES = ("metrics.json", "metrics.csv")
RESAMPLES, SEED, COVERAGE = 1000, 0, 0.95


@dataclass(frozen=True)
class Scores:
    """Scores of the images of a run."""

    spec: DatasetSpec  # the classes, and which of them are scored
    counts: Mapping[str, Tensor]  # confusion matrix of each image, (K, K), by its name

    @cached_property
    def total(self) -> dict[str, Tensor]:
        """`score_counts` of all images together, and the counts as "confusion"."""
        confusion = torch.stack(list(self.counts.values())).sum(dim=0)
        return score_counts(confusion, self.spec.scored) | {"confusion": confusion}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the means: images sampled with replacement (percentile bootstrap, fixed seed).

        Empty with fewer than two images.
        """
        number, classes = len(self.counts), self.spec.num_classes
        if number < 2:
            return {}
        samples = np.random.default_rng(SEED).multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
        images = torch.stack([counts.flatten() for counts in self.counts.values()]).double()
        found = score_counts((torch.from_numpy(samples).double() @ images).view(-1, classes, classes), self.spec.scored)
        edges = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
        values = {name: found[mean].numpy() for name, mean in MEANS.items()}
        quantiles = {n: np.nanquantile(v, edges).tolist() for n, v in values.items() if not np.isnan(v).all()}
        return {name: (low, high) for name, (low, high) in quantiles.items()}

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        """Everything as plain values; None where there is nothing to score."""
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
        """Name, labelled pixels and means of one image as plain values; None where there is nothing to score."""
        counts = self.counts[name]
        found = score_counts(counts, self.spec.scored)
        means = {score: _number(found[mean]) for score, mean in MEANS.items()}
        return {"name": name, "pixels": int(counts.sum()), **means}

    def print(self, console: Console) -> None:
        """Show the table of classes, the means and their intervals, in per cent."""
        title = f"{self.spec.name}: {len(self.counts)} images, per cent"
        intervals = {MEANS[name]: edges for name, edges in self.intervals.items()}
        table = score_table(self.total["confusion"], self.spec.classes, self.spec.scored, title, intervals)
        console.print(table, soft_wrap=False)

    def write(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Write `metrics.json` and `metrics.csv` with the record of the run (see `describe_run`)."""
        text = json.dumps({"run": run, **self.plain}, indent=1, allow_nan=False) + "\n"
        for name, content in zip(FILES, (text, self._csv(run)), strict=True):
            write_bytes(folder / name, content.encode())

    def _csv(self, run: Mapping[str, Any]) -> str:
        """One row for each class, each mean and each entry of the record."""
        found, stream = self.plain, io.StringIO()
        fields = ["kind", "name", *PER_CLASS, "pixels", "scored", "value", "low", "high"]
        rows = csv.DictWriter(stream, fields, restval="", lineterminator="\n")
        rows.writeheader()
        for name, row in found["per_class"].items():
            rows.writerow({"kind": "class", "name": name, **row, "scored": int(row["scored"])})
        for name in MEANS:
            low, high = found["intervals"][name] or (None, None)
            rows.writerow({"kind": "mean", "name": name, "value": found[name], "low": low, "high": high})
        for name, value in run.items():
            text = value if isinstance(value, str) else json.dumps(value)
            rows.writerow({"kind": "run", "name": name, "value": text})
        return stream.getvalue()


class Tally:
    """Confusion matrices of images as they come.

    Room for all of them is allocated at the start: a small allocation for each image would lie between the large ones
    that come and go, and the process would grow by an image's size with each.
    """

    def __init__(self, spec: DatasetSpec, names: Iterable[str]) -> None:
        self._spec = spec
        self._rows = {name: row for row, name in enumerate(names)}
        self._counts = torch.zeros(len(self._rows), spec.num_classes, spec.num_classes, dtype=torch.int64)
        self._counted = torch.zeros(len(self._rows), dtype=torch.bool)
        self._metrics = SegmentationMetrics(spec.num_classes, spec.ignore_index, spec.scored)

    def share_memory(self) -> "Tally":
        """Lay the matrices into memory that the processes share which get this tally; returns it."""
        self._counts.share_memory_()
        self._counted.share_memory_()
        return self

    def add(self, name: str, prediction: Pixels, truth: Pixels) -> None:
        """Count an image: its class indices, (H, W), against the true ones, or the ignore index."""
        if prediction.shape != truth.shape:
            (height, width), (rows, columns) = prediction.shape, truth.shape
            raise DataError(f"{name}: its mask has {width} x {height} pixels, its label {columns} x {rows}.")
        self._metrics.reset()
        self._metrics.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        self._counts[self._rows[name]] = self._metrics.confmat
        self._counted[self._rows[name]] = True

    def scores(self) -> Scores:
        """Scores of the images that were counted."""
        return Scores(self._spec, {name: self._counts[row] for name, row in self._rows.items() if self._counted[row]})


def score_table(
    confusion: Tensor, classes: Sequence[str], scored: Collection[int], title: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Table:  # fmt: skip
    """Scores in per cent, one row for each class and the means below; classes that are not `scored` are marked.

    Of pixel counts, (K, K): rows are true classes, columns predicted ones. 95 % intervals of means stand below.
    """
    found, pixels = score_counts(confusion, sorted(scored)), confusion.sum(dim=1).tolist()
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for name in (*PER_CLASS, "pixels"):
        table.add_column(name, justify="right")
    for index, name in enumerate(classes):
        values = [percent(found[score][index].item()) for score in PER_CLASS]
        table.add_row(name if index in scored else f"{name} (not scored)", *values, f"{pixels[index]:,}")
    table.add_section()
    miou, f1, oa = (percent(found[mean].item()) for mean in MEANS.values())
    table.add_row("mean", miou, f1, "", f"OA {oa}", "")
    if intervals:
        lines = (f"{name:8} 95 % interval {' to '.join(map(percent, edges))}" for name, edges in intervals.items())
        table.caption, table.caption_justify = "\n".join(lines), "left"
    return table


def _number(value: Tensor) -> float | None:
    number = value.item()
    return None if math.isnan(number) else number
