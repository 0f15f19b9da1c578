"""Check of a data set in its official folders: every file is read, every kind of fault is listed."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from d2ls.data import io as files
from d2ls.data.io import SUFFIXES
from d2ls.data.labels import colours_to_index, values_to_index
from d2ls.data.sets.facts import DatasetFacts
from d2ls.data.sets.layout import ImageFolder, MaskFolder, OriginalTile
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError, DataError
from d2ls.preparation import pool
from d2ls.preparation.tiling import count_values, threshold_colours

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
    pixels: NDArray[np.int64] | None = None


@dataclass
class SplitFigures:
    """Figures of one split."""

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
    """The folders of images of a data set that exist below a data root.

    Raises:
        DataError: none exists.
    """
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
    """Read every image and mask of the folders.

    Returns:
        Figures by split, and the problems in the order of their files.
    """
    problems, jobs = [], []
    for folder in folders:
        listed, wrong = list_jobs(folder)
        jobs += listed
        problems += wrong
    splits: dict[str, SplitFigures] = defaultdict(SplitFigures)
    for folder in folders:
        splits[folder.split].images += 0
    digests: dict[tuple[str | None, bytes], list[Job]] = defaultdict(list)
    for found in pool.run(partial(read, spec=spec), jobs, workers, "Reading"):
        problems += found.problems
        split = splits[found.job.folder.split]
        split.images += 1
        split.masks += bool(found.job.masks)
        if found.pixels is not None:
            split.pixels += found.pixels
        if found.digest is not None and found.job.folder.family is not None:
            digests[found.job.folder.family, found.digest].append(found.job)
    problems += _duplicates(digests.values())
    return Check(dict(splits), sorted(problems, key=lambda problem: (problem.path, problem.kind)), jobs)


def list_jobs(folder: ImageFolder) -> tuple[list[Job], list[Problem]]:
    """The images of a folder with their masks, and faults of the lists themselves."""
    problems: list[Problem] = []
    images = _stems(folder.folder, folder.ending, problems, folder.fits)
    if not images:
        problems.append(Problem("folder", str(folder.folder), f"no images ({', '.join(SUFFIXES)})"))
    masks: dict[str, list[tuple[Path, MaskFolder]]] = defaultdict(list)
    for group in folder.masks:
        if not group.folder.is_dir():
            if not group.optional:
                detail = f"no such folder, for the masks of {folder.folder}"
                problems.append(Problem("folder", str(group.folder), detail))
            continue
        found = _stems(group.folder, group.ending, problems, group.fits)
        for stem, path in found.items():
            masks[stem].append((path, group))
        for here, there, kind, where in (
            (images, found, "no mask", group.folder), (found, images, "no image", folder.folder),
        ):  # fmt: skip
            problems += [
                Problem(kind, str(path), f"{kind} in {where}") for stem, path in here.items() if stem not in there
            ]
    return [Job(folder, stem, path, tuple(masks[stem])) for stem, path in images.items()], problems


def read(job: Job, spec: DatasetSpec) -> Found:
    """Read an image and its masks in full."""
    found = Found(job)
    image = _read_image(job.image, found)
    if image is not None and image.min() < image.max():  # pictures of one colour may well be alike
        found.digest = hashlib.blake2b(f"{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
    for number, (path, _) in enumerate(job.masks):
        index = _read_mask(job, number, spec, found)
        if index is None:
            continue
        if image is not None and index.shape != image.shape[:2]:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (index.shape, image.shape)]
            found.problems.append(Problem("size", str(path), f"{sizes[0]} pixels, its image has {sizes[1]}"))
        pixels = count_values(index)
        if number == 0:
            found.pixels = pixels
        if pixels[spec.ignore_index] == index.size:
            found.problems.append(Problem("empty mask", str(path), "every pixel is ignored"))
    return found


def print_check(report: Check, spec: DatasetSpec, seconds: float, console: Console) -> None:
    """Print figures by split, and the problems by kind."""
    rows = [
        (name, (split.images, split.masks), split.pixels if split.masks else None)
        for name, split in report.splits.items()
    ]
    title = f"{spec.name}: {len(report.jobs)} images read in {seconds:.1f} s"
    console.print(shares_table(title, ("images", "with masks"), rows, spec))
    for kind, meaning in KINDS.items():
        if found := [problem for problem in report.problems if problem.kind == kind]:
            console.print(f"{len(found)} {meaning}:", style="bold red", highlight=False)
            print_some([f"{problem.path}: {problem.detail}" for problem in found], console)
    if not report.problems:
        console.print("No problems found.", style="green")


def print_some(lines: list[str], console: Console) -> None:
    """Print the first lines of a list, and how many more there are."""
    for line in lines[:_MAX_LINES]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if len(lines) > _MAX_LINES:
        console.print(f"  and {len(lines) - _MAX_LINES} more (--json lists all)", markup=False)


def shares(pixels: NDArray[np.int64], spec: Any) -> dict[str, Any]:
    """Each class's share of the labelled pixels, and the ignored share of all.

    Args:
        pixels: number of pixels by label, (256,).
        spec: classes and ignore index: a `DatasetSpec`, or the settings of a config.
    """
    whole, ignored = int(pixels.sum()), int(pixels[spec.ignore_index])
    counts = pixels[: len(spec.classes)].tolist()
    return {
        "shares": {name: count / max(1, whole - ignored) for name, count in zip(spec.classes, counts, strict=True)},
        "ignored": ignored / max(1, whole),
    }


def shares_table(
    title: str, counts: Iterable[str], rows: Iterable[tuple[str, Iterable[int], NDArray[np.int64] | None]], spec: Any
) -> Table:
    """A table of splits: name, counts, and the shares of the classes where labels were read."""
    table = Table(title=title)
    table.add_column("split")
    for name in (*counts, *spec.classes, "ignored"):
        table.add_column(name, justify="right")
    for name, numbers, pixels in rows:
        part = {} if pixels is None else shares(pixels, spec)
        figures = [*part["shares"].values(), part["ignored"]] if part else []
        table.add_row(name, *map(str, numbers), *(f"{100 * share:.1f} %" for share in figures))
    return table


def read_mask(job: Job, number: int, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Class indices and the ignore index of one of a job's masks, (H, W).

    Raises:
        DataError: unreadable, or labels outside the classes.
    """
    found = Found(job)
    index = _read_mask(job, number, spec, found)
    if index is None:
        raise DataError(f"{job.masks[number][0]}: {found.problems[0].detail}")
    return index


def _stems(folder: Path, ending: str, problems: list[Problem], fits: Callable[[str], bool]) -> dict[str, Path]:
    """Image files of a folder by what comes before the ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and fits(path.stem):
            stem = path.stem.removesuffix(ending)
            if stem in found:
                problems.append(Problem("name", str(path), f"shares its name with {found[stem].name}"))
            found.setdefault(stem, path)
    return found


def _read_image(path: Path, found: Found) -> NDArray[np.uint8] | None:
    """RGB (H, W, 3), or None with a problem noted; also notes an alpha channel that is opaque."""
    kind = _unusual(path)
    try:
        image = files.read_image(path)
    except DataError as problem:
        found.problems.append(Problem(kind or "unreadable", str(path), _rest(problem, path)))
        return None
    if kind:
        found.problems.append(Problem(kind, str(path), "has a fourth, opaque channel; training reads the other three"))
    return image


def _read_mask(job: Job, number: int, spec: DatasetSpec, found: Found) -> NDArray[np.uint8] | None:
    """Class indices (H, W), or None with a problem noted."""
    path, folder = job.masks[number]
    stage = "unreadable"
    try:
        if folder.coloured:
            rgb = files.read_colours(path)
            stage = "colours"
            known = threshold_colours(OriginalTile(job.stem, job.image, path), rgb, folder.off_palette)
            return colours_to_index(rgb, spec, path=path, unknown="ignore" if known else "error")
        raw = files.read_index(path)
        stage = "labels"
        return values_to_index(raw, folder.spec or spec, path)
    except DataError as problem:
        if stage == "unreadable" and _unusual(path) == "16 bit":
            stage = "16 bit"
        found.problems.append(Problem(stage, str(path), _rest(problem, path)))
        return None


def _unusual(path: Path) -> str | None:
    """Whether the header tells of an alpha channel or of more than 8 bits."""
    try:
        header = files.read_kind(path)
    except DataError:
        return None
    return "16 bit" if header.bits > 8 else "alpha" if "alpha" in header.kind else None


def _rest(problem: DataError, path: Path) -> str:
    """The message without the file's name, which stands beside it."""
    return str(problem).removeprefix(f"{path}: ")


def _duplicates(groups: Iterable[list[Job]]) -> Iterator[Problem]:
    """Images whose pixels are those of an image in another split."""
    for group in groups:
        jobs = sorted(group, key=lambda job: str(job.image))
        for job in jobs[1:]:
            if job.folder.split != jobs[0].folder.split:
                detail = f"the same pixels as {jobs[0].image} ({job.folder.split} and {jobs[0].folder.split})"
                yield Problem("duplicate", str(job.image), detail)
