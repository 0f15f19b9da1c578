"""Check of a data set in its official folders: every file is read, every kind of fault is listed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from d2ls.data import io as files
from d2ls.data.io import SUFFIXES
from d2ls.data.labels import colours_to_index, count_values, values_to_index
from d2ls.data.sets.facts import DatasetFacts
from d2ls.data.sets.layout import ImageFolder, MaskFolder
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError, DataError
from d2ls.preparation import pool
from d2ls.preparation.tiling import threshold_colours

_MAX_LINES = 5  # files printed of each kind of problem


class Problem(NamedTuple):
    """A fault: one of `KINDS`, the file or folder, and the rest of the sentence."""

    kind: str
    path: str
    detail: str


KINDS = {
    "folder": "folders that are missing or empty",
    "no mask": "images without a mask",
    "no image": "masks without an image",
    "name": "files that share one name",
    "unreadable": "unreadable or truncated files",
    "16 bit": "files of more than 8 bits",
    "alpha": "images with an alpha channel",
    "size": "masks of another size than their image",
    "labels": "labels outside the classes",
    "colours": "unknown colours",
    "empty mask": "masks without a labelled pixel",
    "duplicate": "the same image in two splits",
}


class Job(NamedTuple):
    """An image and all its masks, to be read."""

    folder: ImageFolder
    stem: str
    image: Path
    masks: tuple[tuple[Path, MaskFolder], ...]


@dataclass
class Found:
    """Result of reading one image and its masks; `pixels` by class index, of the first mask."""

    job: Job
    problems: list[Problem] = field(default_factory=list)
    digest: bytes | None = None
    pixels: NDArray[np.int64] | int = 0

    def add(self, kind: str, path: Path, detail: object) -> None:
        """Note a problem; the file's name, which stands beside it, is left out of the detail."""
        self.problems.append(Problem(kind, str(path), str(detail).removeprefix(f"{path}: ")))


@dataclass
class SplitFigures:
    """Figures of one split; `pixels` by class index."""

    images: int = 0
    masks: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))


@dataclass
class Check:
    """The outcome of a check."""

    splits: dict[str, SplitFigures]
    problems: list[Problem]
    jobs: list[Job]

    def to_dict(self, spec: DatasetSpec) -> dict[str, Any]:
        """Plain types for JSON; shares of the classes are of the labelled pixels, that of ignore of all."""
        return {
            "dataset": spec.name,
            "ok": not self.problems,
            "splits": [
                {"split": name, "images": split.images, "masks": split.masks, **shares(split.pixels, spec)}
                for name, split in self.splits.items()
            ],
            "problems": [problem._asdict() for problem in self.problems],
        }


def folders_of(facts: DatasetFacts, root: Path) -> list[ImageFolder]:
    """The folders of images of a data set that exist below a data root (raises DataError: none exists)."""
    found = [folder for folder in facts.folders(root / facts.home) if folder.folder.is_dir()]
    if not found:
        raise DataError(
            f"{root}: no folders of {facts.spec.name} in it. Expected a data root, such as tools/prepare_data.py fills."
        )
    return found


def check_apart(path: Path, folders: list[ImageFolder]) -> None:
    """Refuse an output file that would lie among the images or masks of a data set, and count as one of them.

    Raises:
        ConfigError: names the file.
    """
    own = {found.resolve() for images in folders for found in (images.folder, *(mask.folder for mask in images.masks))}
    if path.absolute().parent.resolve() in own:
        raise ConfigError(f"{path}: this folder is part of the data set; choose another one.")


def check(folders: list[ImageFolder], spec: DatasetSpec, workers: int) -> Check:
    """Read every image and mask of the folders; the problems are in the order of their files."""
    problems: list[Problem] = []
    jobs = [job for folder in folders for job in _list_jobs(folder, problems)]
    splits = {folder.split: SplitFigures() for folder in folders}
    same: dict[tuple[str | None, bytes], list[Job]] = defaultdict(list)  # by content
    for found in pool.run(partial(_read, spec=spec), jobs, workers, "Reading"):
        problems += found.problems
        split = splits[found.job.folder.split]
        split.images += 1
        split.masks += bool(found.job.masks)
        split.pixels += found.pixels
        if found.digest is not None and found.job.folder.family is not None:
            same[found.job.folder.family, found.digest].append(found.job)
    problems += _duplicates(same.values())
    return Check(splits, sorted(problems, key=lambda problem: (problem.path, problem.kind)), jobs)


def read_mask(path: Path, folder: MaskFolder, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Class indices and the ignore index of a mask, (H, W).

    Raises:
        DataError: unreadable, or labels outside the classes.
    """
    return _to_index(_read_raw(path, folder), path, folder, spec)


def print_check(report: Check, spec: DatasetSpec, seconds: float, console: Console) -> None:
    """Print figures by split, and the problems by kind."""
    rows = [
        (name, (split.images, split.masks), split.pixels if split.masks else None)
        for name, split in report.splits.items()
    ]
    title = f"{spec.name}: {len(report.jobs)} images read in {seconds:.1f} s"
    console.print(shares_table(title, ("images", "with masks"), rows, spec))
    for kind, meaning in KINDS.items():
        lines = [f"{problem.path}: {problem.detail}" for problem in report.problems if problem.kind == kind]
        print_some(meaning, lines, console)
    if not report.problems:
        console.print("No problems found.", style="green")


def print_some(title: str, lines: list[str], console: Console, more: str = " (--json lists all)") -> None:
    """Print the number of problems, the first of them, and how many more there are; nothing where there are none."""
    if lines:
        console.print(f"{len(lines)} {title}:", style="bold red", highlight=False)
    for line in lines[:_MAX_LINES]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _MAX_LINES:
        console.print(f"  and {len(lines) - _MAX_LINES} more{more}", markup=False)


def shares(pixels: NDArray[np.int64], spec: Any) -> dict[str, Any]:
    """Each class's share of the labelled pixels, counted by label, (256,), and the ignored share of all.

    Classes and ignore index are those of a `DatasetSpec`, or of the settings of a config.
    """
    whole, ignored = int(pixels.sum()), int(pixels[spec.ignore_index])
    return {
        "shares": {name: int(pixels[at]) / max(1, whole - ignored) for at, name in enumerate(spec.classes)},
        "ignored": ignored / max(1, whole),
    }


def shares_table(
    title: str, counts: Iterable[str], rows: Iterable[tuple[str, Iterable[int], NDArray[np.int64] | None]], spec: Any
) -> Table:
    """A table of splits: name, counts, and the shares of the classes where labels were read."""
    right = [Column(name, justify="right") for name in (*counts, *spec.classes, "ignored")]
    table = Table("split", *right, title=title)
    for name, numbers, pixels in rows:
        part = None if pixels is None else shares(pixels, spec)
        figures = [*part["shares"].values(), part["ignored"]] if part else []
        table.add_row(name, *map(str, numbers), *(f"{100 * share:.1f} %" for share in figures))
    return table


def _list_jobs(folder: ImageFolder, problems: list[Problem]) -> list[Job]:
    """The images of a folder with their masks; notes faults of the lists themselves."""
    images = _stems(folder.folder, folder.ending, problems)
    if not images:
        problems.append(Problem("folder", str(folder.folder), f"no images ({', '.join(SUFFIXES)})"))
    masks: dict[str, list[tuple[Path, MaskFolder]]] = defaultdict(list)
    for group in folder.masks:
        if not group.folder.is_dir():
            if not group.optional:
                detail = f"no such folder, for the masks of {folder.folder}"
                problems.append(Problem("folder", str(group.folder), detail))
            continue
        found = _stems(group.folder, group.ending, problems, group.excluded)
        for stem, path in found.items():
            masks[stem].append((path, group))
        for here, there, kind, where in (
            (images, found, "no mask", group.folder), (found, images, "no image", folder.folder),
        ):  # fmt: skip
            alone = [path for stem, path in here.items() if stem not in there]
            problems += [Problem(kind, str(path), f"{kind} in {where}") for path in alone]
    return [Job(folder, stem, path, tuple(masks[stem])) for stem, path in images.items()]


def _stems(folder: Path, ending: str, problems: list[Problem], excluded: str | None = None) -> dict[str, Path]:
    """Image files of a folder by what comes before the ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem.endswith(ending) and not (excluded and path.stem.endswith(excluded)):
            first = found.setdefault(path.stem.removesuffix(ending), path)
            if first is not path:
                problems.append(Problem("name", str(path), f"shares its name with {first.name}"))
    return found


def _read(job: Job, spec: DatasetSpec) -> Found:
    """Read an image and its masks in full."""
    found, image = Found(job), None
    kind = _unusual(job.image)
    try:
        image = files.read_image(job.image)
        if kind:
            found.add(kind, job.image, "has a fourth, opaque channel; training reads the other three")
    except DataError as problem:
        found.add(kind or "unreadable", job.image, problem)
    if image is not None and image.min() < image.max():  # pictures of one colour may well be alike
        found.digest = hashlib.blake2b(f"{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
    for number, (path, folder) in enumerate(job.masks):
        stage = "16 bit" if _unusual(path) == "16 bit" else "unreadable"
        try:
            raw = _read_raw(path, folder)
            stage = "colours" if folder.coloured else "labels"
            index = _to_index(raw, path, folder, spec)
        except DataError as problem:
            found.add(stage, path, problem)
            continue
        if image is not None and index.shape != image.shape[:2]:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (index.shape, image.shape)]
            found.add("size", path, f"{sizes[0]} pixels, its image has {sizes[1]}")
        pixels = count_values(index)
        if number == 0:
            found.pixels = pixels
        if pixels[spec.ignore_index] == index.size:
            found.add("empty mask", path, "every pixel is ignored")
    return found


def _read_raw(path: Path, folder: MaskFolder) -> NDArray[np.uint8]:
    return files.read_colours(path) if folder.coloured else files.read_index(path)


def _to_index(raw: NDArray[np.uint8], path: Path, folder: MaskFolder, spec: DatasetSpec) -> NDArray[np.uint8]:
    if not folder.coloured:
        return values_to_index(raw, folder.spec or spec, path)
    known = path.stem.removesuffix(folder.ending) in folder.off_palette
    if known:
        threshold_colours(raw)
    return colours_to_index(raw, spec, path=path, unknown="ignore" if known else "error")


def _unusual(path: Path) -> str | None:
    """Whether the header tells of an alpha channel or of more than 8 bits."""
    try:
        header = files.read_kind(path)
    except DataError:
        return None
    return "16 bit" if header.bits > 8 else "alpha" if "alpha" in header.kind else None


def _duplicates(groups: Iterable[list[Job]]) -> Iterator[Problem]:
    """Images whose pixels are those of an image in another split."""
    for group in groups:
        first, *others = sorted(group, key=lambda job: str(job.image))
        for job in others:
            if job.folder.split != first.folder.split:
                detail = f"the same pixels as {first.image} ({job.folder.split} and {first.folder.split})"
                yield Problem("duplicate", str(job.image), detail)
