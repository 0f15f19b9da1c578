"""The table of a comparison: terminal, Markdown, CSV, LaTeX (booktabs) and a page."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from d2ls.compare.statistics import CONFIDENCE, RESAMPLES, Counts, Difference, Spread, differences, spreads
from d2ls.data.io import write_bytes
from d2ls.errors import DataError
from d2ls.inference.scores import MEANS

FILES = ("comparison.md", "comparison.csv", "comparison.tex", "comparison.html")


@dataclass(frozen=True)
class Row:
    """A variant's figures.

    Attributes:
        name: of the variant.
        seeds: how many runs.
        means: Spread of "mIoU", "F1" and "OA".
        per_class: Spread of the IoU of each class.
        single: mIoU of each seed.
        difference: mIoU less the first variant's.
        cost: parameters, multiply_adds, seconds_per_step, peak_memory_mb: medians over seeds.
    """

    name: str
    seeds: int
    means: dict[str, Spread]
    per_class: list[Spread]
    single: list[float]
    difference: Difference
    cost: dict[str, float]


def rows_of(results: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """The rows of a table from the results of all runs, by variant and seed.

    Raises:
        DataError: two runs were tested on different images.
    """
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
        single = [spreads(counts[name][place : place + 1], first["scored"])["mIoU"].mean for place in range(len(runs))]
        keys = ("parameters", "multiply_adds", "seconds_per_step", "peak_memory_mb")
        cost = {key: float(np.median([one[key] for one in runs])) for key in keys}
        means = {mean: found[mean] for mean in MEANS}
        rows.append(Row(name, len(runs), means, found["IoU"], single, compared[name], cost))
    return rows


def notes_on(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Sentences below the table: its statistics, and what a reader must know."""
    first = next(iter(results.values()))[0]
    notes = [
        "Mean and sample standard deviation over seeds. Against the first variant: difference of mIoU with the "
        f"{CONFIDENCE:.0%} interval of a paired bootstrap over the {len(first['images'])} test images ({RESAMPLES} "
        "samples), and the share of the samples in which the variant is better. Seconds of a training step and memory "
        f"of the whole run on {first['device']}; multiply-adds of one image of {first['flop_size']} px."
    ]
    if any(one["chosen_on_test_images"] for runs in results.values() for one in runs):
        notes.append(
            "The checkpoints were chosen on the test images themselves, so the scores are optimistic: "
            "test_weights_name=last tests the last checkpoint, which nobody has chosen."
        )
    return notes


def terminal(rows: Sequence[Row], title: str) -> Table:
    """The table for a terminal."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(HEADER):
        table.add_column(name, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*_cells(row, "±"))
    return table


def write(folder: Path, rows: Sequence[Row], classes: Sequence[str], notes: Sequence[str]) -> list[Path]:
    """Write the table as Markdown, CSV, LaTeX and a page; each whole or not at all."""
    texts = (_markdown(rows, classes, notes), _csv(rows, classes), _latex(rows), _page(rows, classes, notes))
    paths = [folder / name for name in FILES]
    for path, text in zip(paths, texts, strict=True):
        write_bytes(path, text.encode())
    return paths


HEADER = (
    "variant", "seeds", "mIoU", "against the first", "better in", "mean F1", "OA", "parameters, M", "multiply-adds, G",
    "s a step", "memory, MB",
)  # fmt: skip


def _cells(row: Row, sign: str, dash: str = "-") -> list[str]:
    value, low, high = (100 * number for number in row.difference[:3])
    is_first = value == low == high == 0
    against = f"{value:+.2f} [{_number(low, 2, dash)}, {_number(high, 2, dash)}]"
    better = row.difference.better
    return [
        row.name,
        str(row.seeds),
        _spread(row.means["mIoU"], sign),
        dash if is_first else against,
        dash if is_first or math.isnan(better) else f"{better:.0%}",
        _spread(row.means["F1"], sign),
        _spread(row.means["OA"], sign),
        f"{row.cost['parameters'] / 1e6:.2f}",
        f"{row.cost['multiply_adds'] / 1e9:.2f}",
        f"{row.cost['seconds_per_step']:.3f}",
        _number(row.cost["peak_memory_mb"], 0, dash),
    ]


def _spread(value: Spread, sign: str) -> str:
    """Per cent, with the deviation over seeds where there are several."""
    if math.isnan(value.mean):
        return "-"
    return f"{100 * value.mean:.2f}" + ("" if math.isnan(value.deviation) else f" {sign} {100 * value.deviation:.2f}")


def _number(value: float, digits: int, dash: str) -> str:
    return dash if math.isnan(value) else f"{value:.{digits}f}"


def _markdown(rows: Sequence[Row], classes: Sequence[str], notes: Sequence[str]) -> str:
    lines = [_line(HEADER), _line("---" for _ in HEADER), *(_line(_cells(row, "±")) for row in rows), ""]
    names = ("IoU", *classes)
    lines += [_line(names), _line("---" for _ in names)]
    lines += [_line([row.name, *(_spread(value, "±") for value in row.per_class)]) for row in rows]
    return "\n".join([*lines, "", *notes, ""])


def _line(cells: Any) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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


def _latex(rows: Sequence[Row]) -> str:
    head = ("Variant", "mIoU", "Difference", "Better", "Mean F1", "OA", "Parameters (M)")
    picked = (0, 2, 3, 4, 5, 6, 7)
    body = [[_escape(_cells(row, r"$\pm$", "--")[place]) for place in picked] for row in rows]
    lines = [" & ".join(cells) + r" \\" for cells in (head, *body)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    rules = [begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join(rules) + "\n"


def _escape(text: str) -> str:
    for sign in "&%#_":
        text = text.replace(sign, f"\\{sign}")
    return text


def _page(rows: Sequence[Row], classes: Sequence[str], notes: Sequence[str]) -> str:
    loader = PackageLoader("d2ls.compare")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    values = [value for row in rows for value in row.single]
    low, high = min(values), max(values)
    margin = max(high - low, 0.01) * 0.1
    positions = {row.name: [_place(value, low - margin, high + margin) for value in row.single] for row in rows}
    means = {row.name: _place(row.means["mIoU"].mean, low - margin, high + margin) for row in rows}
    return environment.get_template("comparison.html").render(
        header=HEADER, cells=[_cells(row, "±") for row in rows], rows=rows, classes=classes, notes=notes,
        per_class=[[_spread(value, "±") for value in row.per_class] for row in rows],
        positions=positions, means=means, low=f"{100 * (low - margin):.1f}", high=f"{100 * (high + margin):.1f}",
    )  # fmt: skip


def _place(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, 0..100."""
    return round(100 * (value - low) / (high - low), 2)
