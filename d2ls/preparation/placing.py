"""Files to their places: hard links or copies, each whole or not at all, nothing that is there ever replaced."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import Progress

from d2ls.errors import DataError
from d2ls.preparation.sources import Entry, checksum, read_all
from d2ls.preparation.splitting import make_folder


@dataclass
class Placement:
    """What is to be done about a plan's files.

    Attributes:
        new: targets that are not there yet, with their source.
        present: targets that are there already, with the same content.
    """

    new: dict[PurePosixPath, Entry] = field(default_factory=dict)
    present: list[PurePosixPath] = field(default_factory=list)

    def folders(self) -> list[tuple[str, int, int]]:
        """Folder, number of new and of present files."""
        new, present = (Counter(str(target.parent) for target in targets) for targets in (self.new, self.present))
        return [(folder, new[folder], present[folder]) for folder in sorted(new | present)]


def compare(files: Mapping[PurePosixPath, Sequence[Entry]], root: Path) -> Placement:
    """Find out what is there already.

    Args:
        files: for each target below the root its sources, of which the first is taken.
        root: the data root.

    Raises:
        DataError: sources of one target differ, or a file that is there differs from its source.
    """
    placement, conflicts = Placement(), []
    for target, sources in files.items():
        first = sources[0]
        for other in sources[1:]:
            if not _same(first, other) and not _preferred(first, other):
                raise DataError(
                    f"{target}: two different files could be meant, {first.path} and {other.path}. Move one of them "
                    "out of the folder."
                )
        there = root / target
        if not there.exists():
            placement.new[target] = first
        elif any(_same(Entry(target, there.stat().st_size, file=there), source) for source in sources):
            placement.present.append(target)
        else:
            conflicts.append(f"{there} (from {first.path})")
    if conflicts:
        raise DataError(
            f"{len(conflicts)} files are there already with another content (first: {conflicts[0]}). They are never "
            "overwritten: move them away, or prepare into another folder with --to."
        )
    return placement


def place(placement: Placement, root: Path, console: Console) -> None:
    """Make the new files; interrupted, it continues where it was when it is run again.

    Raises:
        DataError: no room, a source is damaged, or a file cannot be written.
    """
    needed = sum(entry.size for entry in placement.new.values() if entry.member is not None)
    make_folder(root)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(f"{root}: {needed / 1e9:.1f} GB are needed for the originals, {free / 1e9:.1f} GB are free.")
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Originals", total=len(placement.new))
        for target, entry in placement.new.items():
            make_folder((root / target).parent)
            if entry.file is not None:
                link(entry.file, root / target)
            else:
                _write(entry, root / target)
            bar.advance(task)


def link(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system cannot, copy it. A target that is there stays.

    Raises:
        DataError: neither works.
    """
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        return
    except OSError:
        _write(Entry(PurePosixPath(source.name), source.stat().st_size, file=source), target)


def link_all(sources: Sequence[Path], folder: Path) -> None:
    """Link files into a folder of ours under their own names; those of before with another content are replaced."""
    make_folder(folder)
    for source in sources:
        target = folder / source.name
        if target.exists() and not target.samefile(source) and not _equal(source, target):
            target.unlink()
        link(source, target)


def _write(entry: Entry, target: Path) -> None:
    """Copy the content under a temporary name, then rename it."""
    temporary = target.with_name(f".{target.name}.part")
    try:
        with entry.open() as source, temporary.open("wb") as file:
            for chunk in read_all(source):
                file.write(chunk)
        temporary.replace(target)
    except OSError as problem:
        raise DataError(f"{target}: cannot be written: {problem.strerror or problem}.") from problem
    finally:
        temporary.unlink(missing_ok=True)


def _same(one: Entry, other: Entry) -> bool:
    """Whether two files have the same content."""
    if one.file is not None and other.file is not None and one.file.samefile(other.file):
        return True
    return one.size == other.size and one.checksum() == other.checksum()


def _equal(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and checksum(one) == checksum(other)


def _preferred(first: Entry, other: Entry) -> bool:
    """Whether the first comes from the folder that the official layout names for training masks."""
    return "gts_for_participants" in first.path.parts and "gts_for_participants" not in other.path.parts
