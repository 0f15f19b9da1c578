"""From a folder of downloads to a folder that trains; run again, it does only what is missing."""

import hashlib
import json
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from d2ls.data.io import write_bytes
from d2ls.data.sets.facts import DatasetFacts
from d2ls.data.sets.layout import Plan, Step
from d2ls.errors import DataError
from d2ls.preparation import steps
from d2ls.preparation.archives import SourceFile, Sources, compare, place

_JOURNAL = ".d2ls_prepared.json"
_VERSION = 1  # another one makes all steps run again
_MAX_LINES = 40  # lines printed of each list


class Journal:
    """Record of the finished steps with their input and output; a file in the data set's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _JOURNAL
        self.done: dict[str, str] = {}
        with suppress(OSError, ValueError):  # a lost or damaged journal: every step is checked again
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self.done = found if isinstance(found, dict) else {}

    def has(self, step: Step) -> bool:
        """Whether a step was done, and neither its input nor its output has changed since."""
        return self.done.get(step.name) == _fingerprint(step)

    def begin(self, step: Step) -> None:
        """Note that the output folders belong to prepare_data (raises DataError: they hold other files)."""
        if step.name not in self.done:
            for folder in step.outputs:
                if found := _files(folder):
                    raise DataError(
                        f"{folder}: holds {len(found)} files that prepare_data has not made (first: {found[0].name}). "
                        "They are not overwritten: move the folder away and run this again, or use it as it is."
                    )
        self.note(step, "begun")

    def note(self, step: Step, state: str) -> None:
        """Note that a step is begun, or the fingerprint with which it is done."""
        self.done[step.name] = state
        write_bytes(self.path, json.dumps(self.done, indent=1).encode())


def prepare(facts: DatasetFacts, downloads: Path, root: Path, *, dry_run: bool, workers: int, console: Console) -> Plan:
    """Place the originals of a data set below a data root and make from them what training reads.

    It deletes and overwrites nothing that it has not written itself. `downloads` holds archives, or what they hold; in
    a dry run it only prints what would be done. The plan has notes, and the problems that are left. A DataError is
    raised where nothing of the data set is there, an archive is not to be trusted, or an existing file differs.
    """
    scratch = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    with Sources(downloads, scratch) as sources:
        plan, files = _plan(facts, sources)
        if not plan.files and not any((root / target).exists() for target in plan.expected):
            more = f" Not opened: {', '.join(sources.not_opened[:5])}; unpack them." if sources.not_opened else ""
            raise DataError(
                f"{downloads}: nothing of {facts.spec.name} found. Expected {facts.downloads}, as archives or "
                f"unpacked.{more}"
            )
        candidates = {target: [file for path in paths for file in files[path]] for target, paths in plan.files.items()}
        placement = compare(candidates, root, plan.preferred)
        console.print(placement.table(f"Originals in {root}"))
        if not dry_run:
            place(placement, root, console)
    lost = [target for target in plan.expected if target not in plan.files and not (root / target).exists()]
    plan.problems[:0] = [f"missing: {target}" for target in lost]
    journal = Journal(root / facts.home)
    coming = {folder for target in placement.new for folder in (root / target).parents}
    for step in facts.steps(root / facts.home):
        if dry_run:
            console.print(f"{step.name}: {_forecast(step, journal, coming)}", highlight=False)
        else:
            _run(step, journal, plan, workers, console)
    return plan


def print_lists(plan: Plan, console: Console) -> None:
    """Print the notes and the problems; long lists are cut."""
    for title, lines in (("note", plan.notes), ("problem", plan.problems)):
        more = [f"and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
        for line in lines[:_MAX_LINES] + more:
            console.print(f"{title}: {line}", markup=False, highlight=False, soft_wrap=True)


def _plan(facts: DatasetFacts, sources: Sources) -> tuple[Plan, dict[object, list[SourceFile]]]:
    """The plan for the downloaded files, and these by path (an archive may hold one path twice)."""
    files: dict[object, list[SourceFile]] = defaultdict(list)
    for file in sources.files():
        files[file.path].append(file)

    def read(path: object) -> bytes:
        with files[path][0].open() as content:
            return content.read()

    if facts.plan is None:
        raise DataError(f"{facts.spec.name}: no archives are known of this data set; put its files in place by hand.")
    return facts.plan([group[0].path for group in files.values()], read), files


def _forecast(step: Step, journal: Journal, coming: set[Path]) -> str:
    """State of a step in a dry run; adds its outputs to the folders to come."""
    if _ready(step) and journal.has(step):
        return "done before"
    if not all(folder.is_dir() or folder in coming for folder in step.inputs):
        return "no input"
    coming.update(step.outputs)
    return "would be made"


def _run(step: Step, journal: Journal, plan: Plan, workers: int, console: Console) -> None:
    """One step, unless it is done; a fault of its input is a problem, and the other steps follow."""
    if not _ready(step):
        missing = [str(folder) for folder in step.inputs if not folder.is_dir()]
        plan.notes.append(f"{step.name}: not made, there is no {missing[0]}")
        return
    if journal.has(step):
        console.print(f"{step.name}: done before", highlight=False)
        return
    begin = time.perf_counter()
    try:
        journal.begin(step)
        summary = steps.run(step, workers)
    except DataError as problem:
        plan.problems.append(f"{step.name}: {problem}")
        return
    journal.note(step, _fingerprint(step))
    seconds = time.perf_counter() - begin
    console.print(f"{step.name}: {len(summary.written)} files in {seconds:.1f} s", highlight=False)
    plan.notes += summary.notes


def _ready(step: Step) -> bool:
    return all(folder.is_dir() for folder in step.inputs)


def _fingerprint(step: Step) -> str:
    """Digest of the files that a step reads and has written: names, sizes and, of the input, times."""
    digest = hashlib.sha256(f"{_VERSION}".encode())
    for folder in (*step.inputs, *step.outputs):
        for path in _files(folder):
            facts = path.stat()
            changed = facts.st_mtime_ns if folder in step.inputs else 0
            digest.update(f"{path.relative_to(folder)}|{facts.st_size}|{changed}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
