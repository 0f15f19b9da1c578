"""The table of a comparison: terminal, Markdown, CSV, LaTeX (booktabs) and a page."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape as rich_escape
from rich.table import Table

from d2ls.compare.statistics import CONFIDENCE, RESAMPLES, Counts, Difference, Spread, differences, mean_iou, spreads
from d2ls.data.io import write_bytes
from d2ls.errors import DataError
from d2ls.inference.scores import MEANS
from d2ls.report import page

FILES = ("comparison.md", "comparison.csv", "comparison.tex", "comparison.html")


@dataclass(frozen=True)
class Row:
    """A variant's figures."""

    name: str
    seeds: int  # number of runs
    means: dict[str, Spread]  # of "mIoU", "F1" and "OA"
    per_class: list[Spread]  # of the IoU of each class
    single: list[float]  # mIoU of each seed
    difference: Difference  # mIoU less the first variant's
    cost: dict[str, float]  # medians over the seeds


def rows_of(results: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """The rows of a table from the results of all runs, by variant and seed (raises DataError: other test images)."""
    first = next(iter(results.values()))[0]
    for name, runs in results.items():
        for one in runs:
            if (one["images"], one["images_sha256"]) != (first["images"], first["images_sha256"]):
                raise DataError(
                    f"{name}: tested on other images than the first run ({len(one['images'])} and "
                    f"{len(first['images'])} images, or other contents). Compare runs of one test set; remove the "
                    "results of the other."
                )
    counts: dict[str, Counts] = {name: np.array([one["counts"] for one in runs]) for name, runs in results.items()}
    compared = differences(counts, first["scored"])
    rows = []
    for name, runs in results.items():
        found = spreads(counts[name], first["scored"])
        single = [mean_iou(one) for one in runs]
        keys = ("parameters", "multiply_adds", "seconds_per_step", "peak_memory_mb")
        cost = {key: float(np.median([one[key] for one in runs])) for key in keys}
        means = {mean: found[mean] for mean in MEANS}
        rows.append(Row(name, len(runs), means, found["IoU"], single, compared[name], cost))
    return rows


def notes_on(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Sentences below the table: its statistics, and what a reader must know."""
    first = next(iter(results.values()))[0]
    devices = " and ".join(sorted({one["device"] for runs in results.values() for one in runs}))
    notes = [
        f"Mean and sample standard deviation over the seeds ({len(next(iter(results.values())))}), per cent. Against "
        f"the first variant: difference of mIoU with the {CONFIDENCE:.0%} interval of a paired bootstrap over the "
        f"{len(first['images'])} test images ({RESAMPLES} samples), and the share of the samples in which the variant "
        f"is better. All runs were tested on the same images (SHA-256 {first['images_sha256'][:12]}). Seconds of a "
        f"training step and memory of the whole run on {devices}; multiply-adds of one image of {first['flop_size']} "
        "px."
    ]
    if any(one["chosen_on_test_images"] for runs in results.values() for one in runs):
        notes.append(
            "The checkpoints were chosen on the test images themselves, so the scores are optimistic: "
            "test_weights_name=last tests the last checkpoint, which nobody has chosen."
        )
    if sides := sorted({one.get("test_window") or 0 for runs in results.values() for one in runs} - {0}):
        notes.append(f"Test images were segmented in windows of {' or '.join(map(str, sides))} px (test_window).")
    return notes


def terminal(rows: Sequence[Row], classes: Sequence[str], title: str) -> Group:
    """The tables for a terminal of 80 columns: difference, further scores, cost."""
    cells, by_class = _sheets(rows, classes)
    scores = [[HEADER[at], *(line[at] for line in cells)] for at in (4, 5)]
    scores += [[f"IoU {name}", *(line[at] for line in by_class)] for at, name in enumerate(classes, 1)]
    return Group(
        title,
        _for_terminal(HEADER[:4], [line[:4] for line in cells]),
        _for_terminal(("score", *(row.name for row in rows)), scores),
        _for_terminal((HEADER[0], *HEADER[6:]), [[line[0], *line[6:]] for line in cells]),
    )


def _for_terminal(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(rich_escape, line))
    return table


def write(folder: Path, rows: Sequence[Row], classes: Sequence[str], notes: Sequence[str]) -> list[Path]:
    """Write the table as Markdown, CSV, LaTeX and a page; each whole or not at all."""
    cells, by_class = _sheets(rows, classes)
    values = [value for row in rows for value in row.single]
    margin = max(max(values) - min(values), 0.01) * 0.1
    content = {
        "sheets": ((HEADER, cells), (("IoU", *classes), by_class)), "rows": rows, "classes": classes, "notes": notes,
        "low": min(values) - margin, "high": max(values) + margin,
    }  # fmt: skip
    markdown, latex = (page.render_text(content, name) for name in ("comparison.md", "comparison.tex"))
    texts = markdown, _csv(rows, classes), latex, page.render(content, "comparison.html", None)
    paths = [folder / name for name in FILES]
    for path, text in zip(paths, texts, strict=True):
        write_bytes(path, text.encode())
    return paths


HEADER = (
    "variant", "mIoU", "against the first", "better in", "mean F1", "OA", "parameters, M", "multiply-adds, G",
    "s a step", "memory, MB",
)  # fmt: skip


def _sheets(rows: Sequence[Row], classes: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Texts of the table below HEADER, and of the IoU of each class, a line for each variant."""
    return [_cells(row) for row in rows], [[row.name, *map(_spread, row.per_class)] for row in rows]


def _cells(row: Row) -> list[str]:
    value, low, high = (100 * number for number in row.difference[:3])
    is_first, better = value == low == high == 0, row.difference.better
    return [
        row.name,
        _spread(row.means["mIoU"]),
        "-" if is_first else f"{value:+.2f} [{_number(low, 2)}, {_number(high, 2)}]",
        "-" if is_first or math.isnan(better) else f"{better:.0%}",
        _spread(row.means["F1"]),
        _spread(row.means["OA"]),
        f"{row.cost['parameters'] / 1e6:.2f}",
        f"{row.cost['multiply_adds'] / 1e9:.2f}",
        f"{row.cost['seconds_per_step']:.3f}",
        _number(row.cost["peak_memory_mb"], 0),
    ]


def _spread(value: Spread) -> str:
    """Per cent, with the deviation over seeds where there are several."""
    deviation = "" if math.isnan(value.deviation) else f" ± {100 * value.deviation:.2f}"
    return _number(100 * value.mean, 2) + deviation


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _csv(rows: Sequence[Row], classes: Sequence[str]) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    means = [f"{name} {kind}" for name in (*MEANS, *(f"IoU {name}" for name in classes)) for kind in ("mean", "std")]
    table.writerow(["variant", "seeds", *means, "mIoU difference", "low", "high", "better", *rows[0].cost])
    for row in rows:
        values = [number for value in (*row.means.values(), *row.per_class) for number in value]
        numbers = [*values, *row.difference, *row.cost.values()]
        table.writerow([row.name, row.seeds, *("" if math.isnan(number) else repr(number) for number in numbers)])
    return stream.getvalue()
