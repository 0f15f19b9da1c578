"""Steps of the preparation, each over whole folders: cut all tiles, convert all masks, merge trees by hard links."""

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from d2ls.data import io as files
from d2ls.data.io import SUFFIXES
from d2ls.data.labels import count_values, index_to_colours, values_to_index
from d2ls.data.pairs import list_images
from d2ls.data.sets.layout import ConvertStep, MergeStep, OriginalTile, SplitStep, Step, Tiling
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.preparation import pool
from d2ls.preparation.archives import link, make_folder, on_disk
from d2ls.preparation.tiling import ORIGINALS, Summary, split

_PATCH = re.compile(r"(?P<stem>.+?)_\d+_\d+(_\d+)?")


def run(step: Step, workers: int) -> Summary:
    """Run a step, or complete it where it was interrupted (raises DataError: a file of its input is wrong)."""
    match step:
        case SplitStep():
            return split_all(step.tiles(), step.tiling, workers, label=step.tiling.masks.parent.name)
        case ConvertStep():
            return convert_all(step, workers)
        case MergeStep():
            return merge_all(step)


def split_all(tiles: list[OriginalTile], tiling: Tiling, workers: int, *, label: str = "Tiles") -> Summary:
    """Cut all tiles, in parallel; the notes name patches of these tiles that this run has not written."""
    folders = tiling.images, tiling.masks
    for folder, tile in product(folders, tiles):
        if folder.resolve() in (tile.image.parent.resolve(), tile.mask.parent.resolve()):
            raise DataError(f"{folder}: the originals lie here ({tile.stem}); patches need their own folder.")
    stems = {tile.stem for tile in tiles}
    filled = (*folders, tiling.masks / ORIGINALS) if tiling.colours else folders
    total = _fill(filled, partial(split, tiling=tiling), tiles, workers, label, stems)
    for folder in folders:
        if foreign := _foreign_patches(folder, stems, set(total.written)):
            total.notes.append(
                f"{folder}: {len(foreign)} patches of these tiles are not of this run (first: {foreign[0]}): made with "
                "other settings? Training would read them too; delete the folder and split again to be rid of them"
            )
    total.notes += [
        f"{tile.mask}: the official labels of this tile are faulty, and it is in no split; training would read its "
        "patches: move the tile away and delete them"
        for tile in tiles
        if tile.stem in tiling.faulty
    ]
    total.notes.sort()
    return total


def convert_all(step: ConvertStep, workers: int) -> Summary:
    """Convert all masks of a folder to class indices, and colours beside them (raises DataError: other values)."""
    (masks,) = step.inputs
    found = list_images(masks) if masks.is_dir() else {}
    if not found:
        problem = "no masks in it" if masks.is_dir() else "no such folder"
        raise DataError(f"{masks}: {problem}. Expected the masks of {step.spec.name} as published.")
    if masks.resolve() in [folder.resolve() for folder in step.outputs]:
        raise DataError(f"{step.outputs[0]}: converted masks would replace the published ones; choose another folder.")
    return _fill(step.outputs, partial(_convert, step=step), found.values(), workers, "Masks", found.keys())


def merge_all(step: MergeStep) -> Summary:
    """Link images below several folders into one (DataError: two of one path); links to other contents are replaced."""
    written: list[str] = []
    for target, folders in step.sources.items():
        found: dict[Path, Path] = {}
        for folder, path in ((top, path) for top in folders for path in sorted(top.rglob("*"))):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                first = found.setdefault(path.relative_to(folder), path)
                if first is not path:
                    raise DataError(f"{target}: {first} and {path} have the same name, and would be one file here.")
        for relative, path in found.items():
            source, linked = on_disk(path), target / relative
            make_folder(linked.parent)
            if linked.exists() and not source.equals(on_disk(linked)):
                linked.unlink()
            link(source, linked)
            written.append(f"{target.name}/{relative.as_posix()}")
    return Summary(written)


def summarise(summary: Summary, spec: DatasetSpec, seconds: float, console: Console, *, what: str = "patches") -> None:
    """Print number of files, class shares and seconds, and the notes."""
    right = [Column(name, justify="right") for name in ("pixels", "share")]
    table = Table("class", *right, title=f"{len(summary.written)} {what} in {seconds:.1f} s")
    whole = max(1, int(summary.pixels.sum()))
    for name, index in [*zip(spec.classes, range(spec.num_classes), strict=True), ("ignore", spec.ignore_index)]:
        count = int(summary.pixels[index])
        table.add_row(name, f"{count:,}", f"{100 * count / whole:.2f} %")
    console.print(table)
    for note in summary.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _convert(path: Path, step: ConvertStep) -> Summary:
    index = values_to_index(files.read_index(path), step.spec, path)
    output, coloured = step.outputs
    files.write_png(output / f"{path.stem}.png", index)
    files.write_png(coloured / f"{path.stem}.png", index_to_colours(index, step.spec))
    return Summary([path.stem], count_values(index))


def _foreign_patches(folder: Path, stems: set[str], written: set[str]) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES
        and path.stem not in written
        and (found := _PATCH.fullmatch(path.stem))
        and found["stem"] in stems
    )


def _fill(
    folders: Sequence[Path], function: Callable[[Any], Summary], jobs: Iterable[Any], workers: int, label: str,
    stems: Collection[str],
) -> Summary:  # fmt: skip
    """Do all jobs that write files of the stems into folders; delete unfinished ones that a killed run has left."""
    for folder in folders:
        make_folder(folder)
    begin, total = time.time(), Summary()
    for summary in pool.run(function, list(jobs), workers, label):
        total.written += summary.written
        total.pixels += summary.pixels
        total.notes += summary.notes
    starts = tuple(f".{stem}" for stem in stems)
    for path in (path for folder in folders for path in folder.glob(".*.part")):
        if path.name.startswith(starts) and path.stat().st_mtime < begin:
            path.unlink(missing_ok=True)
    total.written.sort()
    return total
