"""A check's report for the terminal."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from d2ls.data.spec import DatasetSpec
from d2ls.preparation.check import KINDS, Check, shares

_MOST = 5  # files listed of each kind of problem


def tell(report: Check, spec: DatasetSpec, seconds: float, console: Console) -> None:
    """Print figures by split, and the problems by kind."""
    table = Table(title=f"{spec.name}: {len(report.jobs)} images read in {seconds:.1f} s")
    table.add_column("split")
    for name in ("images", "with masks", *spec.classes, "ignored"):
        table.add_column(name, justify="right")
    for name, split in report.splits.items():
        part = shares(split, spec)
        figures = [*part["shares"].values(), part["ignored"]]
        cells = [f"{100 * share:.1f} %" for share in figures] if split.masks else [""] * len(figures)
        table.add_row(name, str(split.images), str(split.masks), *cells)
    console.print(table)
    counts = Counter(problem.kind for problem in report.problems)
    for kind, meaning in KINDS.items():
        if not counts[kind]:
            continue
        console.print(f"{counts[kind]} {meaning}:", style="bold red", highlight=False)
        for problem in [problem for problem in report.problems if problem.kind == kind][:_MOST]:
            console.print(f"  {problem.path}: {problem.detail}", markup=False, highlight=False, soft_wrap=True)
        if counts[kind] > _MOST:
            console.print(f"  and {counts[kind] - _MOST} more (--json lists all)", markup=False)
    if not report.problems:
        console.print("No problems found.", style="green")
