"""All tiles of a folder to patches: folders, processes, what is left over from before, and the summary."""

import re
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from d2ls.data.pairs import SUFFIXES
from d2ls.data.sets import potsdam
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.preparation import pool
from d2ls.preparation.originals import Original
from d2ls.preparation.patches import ORIGINALS, Cutting, Report, split

_PATCH = re.compile(r"(?P<stem>.+?)_\d+_\d+(_\d+)?")


def split_all(originals: Sequence[Original], cutting: Cutting, workers: int, *, label: str = "Tiles") -> Report:
    """Cut all tiles, in parallel; a run that was interrupted is completed by running it again.

    Returns:
        The figures of all tiles; its notes name patches of these tiles that this run has not written.

    Raises:
        DataError: a tile cannot be read, or a patch not be written; what has been written by then is whole.
    """
    begin = time.time()
    for folder in (cutting.images, cutting.masks):
        for original in originals:
            if folder.resolve() in (original.image.parent.resolve(), original.mask.parent.resolve()):
                raise DataError(f"{folder}: the originals lie here ({original.stem}); patches need their own folder.")
    for folder in (cutting.images, cutting.masks, *([cutting.masks / ORIGINALS] if cutting.colours else [])):
        make_folder(folder)
    total = Report()
    for report in pool.run(partial(split, cutting=cutting), list(originals), workers, label):
        total.add(report)
    stems = {original.stem for original in originals}
    for folder in (cutting.images, cutting.masks, cutting.masks / ORIGINALS):
        clear_parts(folder, stems, begin)
    for folder in (cutting.images, cutting.masks):
        if strange := foreign_patches(folder, stems, set(total.written)):
            total.notes.append(
                f"{folder}: {len(strange)} patches of these tiles are not of this run (first: {strange[0]}): made with "
                "other settings? Training would read them too; delete the folder and split again to be rid of them"
            )
    total.notes += faulty_tiles(originals, cutting.spec)
    total.written.sort()
    total.notes.sort()
    return total


def faulty_tiles(originals: Sequence[Original], spec: DatasetSpec) -> list[str]:
    """Notes on tiles whose official labels are known to be wrong."""
    faulty = f"top_potsdam_{potsdam.LEFT_OUT_TILE}"
    return [
        f"{original.mask}: the official labels of this tile are faulty, and it is in no split; training would read its "
        "patches: move the tile away and delete them"
        for original in originals
        if spec.name == potsdam.SPEC.name and original.stem == faulty
    ]


def foreign_patches(folder: Path, stems: set[str], written: set[str]) -> list[str]:
    """Names of patches of the given tiles that are not among the written ones."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and path.stem not in written
        and (found := _PATCH.fullmatch(path.stem))
        and found["stem"] in stems
    )


def clear_parts(folder: Path, stems: Iterable[str], begin: float) -> None:
    """Delete the unfinished files, older than `begin` (seconds), that a killed run has left of the given stems."""
    starts = tuple(f".{stem}" for stem in stems)
    for path in folder.glob(".*.part") if folder.is_dir() else ():
        if path.name.startswith(starts) and path.stat().st_mtime < begin:
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder with those above it.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"{folder}: this folder cannot be made: {problem.strerror}.") from problem


def summarise(report: Report, spec: DatasetSpec, seconds: float, console: Console, *, what: str = "patches") -> None:
    """Print patches, class shares and seconds, and the notes."""
    table = Table(title=f"{len(report.written)} {what} in {seconds:.1f} s")
    table.add_column("class")
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    whole = max(1, int(report.pixels.sum()))
    for name, index in [*zip(spec.classes, range(spec.num_classes), strict=True), ("ignore", spec.ignore_index)]:
        count = int(report.pixels[index])
        table.add_row(name, f"{count:,}", f"{100 * count / whole:.2f} %")
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
