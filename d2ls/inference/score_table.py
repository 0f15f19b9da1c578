"""The table of class scores that training and the test scripts show on the terminal."""

from collections.abc import Collection, Mapping, Sequence

from rich.table import Table
from torch import Tensor

from d2ls.metrics import score_counts

PER_CLASS = ("IoU", "F1", "precision", "recall")
"""Scores of a class, by the names that `score_counts` gives them, in the order in which tables show them."""


def score_table(
    confusion: Tensor,
    classes: Sequence[str],
    scored: Collection[int],
    title: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Table:
    """Scores in per cent, one row a class and the means below; classes outside the means are marked.

    Args:
        confusion: pixel counts, (K, K): one row for each true class, one column for each predicted one.
        classes: names of the K classes.
        scored: indices of the classes in the means.
        title: stands above the table.
        intervals: 95 % intervals of means, 0..1, by their names; shown below the table.
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
    miou, f1, oa = (percent(found[name].item()) for name in ("mIoU", "mean F1", "OA"))
    table.add_row("mean", miou, f1, "", f"OA {oa}", "")
    if intervals:
        lines = (f"{name:8} 95 % interval {' to '.join(map(percent, edges))}" for name, edges in intervals.items())
        table.caption, table.caption_justify = "\n".join(lines), "left"
    return table


def percent(share: float | None) -> str:
    """A share in per cent; "-" where there was nothing to score (None or NaN)."""
    return "-" if share is None or share != share else f"{100 * share:.2f}"  # noqa: PLR0124  (NaN is not itself)
