"""From a folder of downloads to a folder that trains."""

import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.table import Table

from d2ls.errors import DataError
from d2ls.preparation.layouts import PLANS, WANTED, Plan
from d2ls.preparation.placing import Placement, compare, place
from d2ls.preparation.sources import Sources
from d2ls.preparation.steps import Journal, Step, steps

_FOLDERS = {"loveda": "LoveDA"}  # where the folder is not called as the data set
_PARTNERS = (("images_png", "masks_png"), ("Images", "Labels"), ("img_dir", "ann_dir"), ("images", "masks"))
_MOST = 40  # names listed


@dataclass
class Outcome:
    """What preparing came to: problems that are left, and notes."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(name: str, downloads: Path, root: Path, *, dry_run: bool, workers: int, console: Console) -> Outcome:
    """Put the originals of a data set in place and make from them what training reads.

    Run again, it does only what is missing. It deletes and overwrites nothing that it has not written itself.

    Args:
        name: the data set.
        downloads: folder with archives, or with what they were unpacked to.
        root: the data root.
        dry_run: only tell what would be done.
        workers: processes.
        console: where progress is told.

    Raises:
        DataError: nothing of the data set is there, an archive is damaged or not to be trusted, or a file that is
            there already has another content.
    """
    outcome = Outcome()
    with Sources(downloads, _existing(root)) as sources:
        plan = PLANS[name](sources.entries())
        if not plan.files and not any((root / target).exists() for target in plan.expected):
            more = f" Not opened: {', '.join(sources.not_opened[:5])}; unpack them." if sources.not_opened else ""
            raise DataError(
                f"{downloads}: nothing of {name} found. Expected {WANTED[name]}, as archives or unpacked.{more}"
            )
        placement = compare(plan.files, root)
        _tell(placement, root, console)
        outcome.notes += plan.notes
        if not dry_run:
            place(placement, root, console)
    outcome.problems += _missing(plan, root)
    journal = Journal(root / _FOLDERS.get(name, name))
    coming = {folder for target in placement.new for folder in (root / target).parents}
    for step in steps(name, root):
        _run(step, journal, outcome, coming, dry_run=dry_run, workers=workers, console=console)
    return outcome


def _run(
    step: Step, journal: Journal, outcome: Outcome, coming: set[Path], *, dry_run: bool, workers: int, console: Console
) -> None:
    """One step, unless it is done; what is wrong with its input is a problem, not the end."""
    if dry_run:
        ready = all(folder.is_dir() or folder in coming for folder in step.inputs)
        coming.update(step.outputs if ready else ())
        done = "done before" if step.ready and journal.has(step) else "would be made" if ready else "no input"
        console.print(f"{step.name}: {done}", highlight=False)
        return
    if not step.ready:
        missing = [str(folder) for folder in step.inputs if not folder.is_dir()]
        outcome.notes.append(f"{step.name}: not made, there is no {missing[0]}")
    elif journal.has(step):
        console.print(f"{step.name}: done before", highlight=False)
    else:
        begin = time.perf_counter()
        try:
            journal.begin(step)
            report = step.run(workers)
        except DataError as problem:
            outcome.problems.append(f"{step.name}: {problem}")
            return
        journal.add(step)
        seconds = time.perf_counter() - begin
        console.print(f"{step.name}: {len(report.written)} files in {seconds:.1f} s", highlight=False)
        outcome.notes += report.notes


def _existing(folder: Path) -> Path:
    """The folder, or the deepest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def _missing(plan: Plan, root: Path) -> list[str]:
    """Expected files that are neither there nor coming, and images or masks without a partner."""
    coming = set(plan.files)
    lost = [target for target in plan.expected if target not in coming and not (root / target).exists()]
    problems = [f"missing: {target}" for target in lost]
    return problems + _alone(coming)


def _alone(targets: set[PurePosixPath]) -> list[str]:
    """Images without a mask and the other way round, in folders where both are due."""
    stems = {target.with_suffix("") for target in targets}
    problems = []
    for target in sorted(targets):
        for image, mask in _PARTNERS:
            for here, there in ((image, mask), (mask, image)):
                if here not in target.parts or {"Test", "uavid_test"} & set(target.parts):
                    continue
                partner = PurePosixPath(*(there if part == here else part for part in target.parts)).with_suffix("")
                if partner not in stems:
                    problems.append(f"{target}: no partner {partner}.*")
    return problems


def _tell(placement: Placement, root: Path, console: Console) -> None:
    table = Table(title=f"Originals in {root}")
    table.add_column("folder")
    for column in ("new", "already there"):
        table.add_column(column, justify="right")
    for folder, new, present in placement.folders():
        table.add_row(folder, str(new), str(present))
    console.print(table)


def tell_outcome(outcome: Outcome, console: Console) -> None:
    """Print what is left to be known; long lists are cut."""
    for title, lines in (("note", outcome.notes), ("problem", outcome.problems)):
        for line in lines[:_MOST]:
            console.print(f"{title}: {line}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > _MOST:
            console.print(f"{title}: and {len(lines) - _MOST} more")
