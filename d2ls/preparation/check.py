"""Checks of whole data sets: every fault of a set in its official folders, headers and labels of any config's data."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from d2ls.config import Settings
from d2ls.data import io as files
from d2ls.data.check import MISSING_CAUSES, check_headers, count_labels, missing_classes
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

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


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


class Split(NamedTuple):
    """Figures of one split."""

    counts: Counter[str]  # number of files by kind
    pixels: NDArray[np.int64] | None  # by label, (256,); None where labels are not read


def folders_of(facts: DatasetFacts, root: Path) -> list[ImageFolder]:
    """The folders of images of a data set that exist below a data root (raises DataError: none exists)."""
    found = [folder for folder in facts.folders(root / facts.home) if folder.folder.is_dir()]
    if not found:
        raise DataError(
            f"{root}: no folders of {facts.spec.name} in it. Expected a data root, such as tools/prepare_data.py fills."
        )
    return found


def check_apart(path: Path, folders: list[ImageFolder]) -> None:
    """Refuse, by a ConfigError, an output file among the images or masks of a data set: it would count as one."""
    own = {found.resolve() for images in folders for found in (images.folder, *(mask.folder for mask in images.masks))}
    if path.absolute().parent.resolve() in own:
        raise ConfigError(f"{path}: this folder is part of the data set; choose another one.")


def check(
    folders: list[ImageFolder], spec: DatasetSpec, workers: int
) -> tuple[dict[str, Split], list[Problem], list[Job]]:
    """Read every image and mask of the folders: figures, problems in the order of their files, and what was read."""
    problems: list[Problem] = []
    jobs = [job for folder in folders for job in _list_jobs(folder, problems)]
    counts = {folder.split: Counter(images=0, masks=0) for folder in folders}
    pixels = {name: np.zeros(256, np.int64) for name in counts}
    same: dict[tuple[str | None, bytes], list[Job]] = defaultdict(list)  # by content
    for found in pool.run(partial(_read, spec=spec), jobs, workers, "Reading"):
        problems += found.problems
        counts[found.job.folder.split].update(images=1, masks=bool(found.job.masks))
        pixels[found.job.folder.split] += found.pixels
        if found.digest is not None and found.job.folder.family is not None:
            same[found.job.folder.family, found.digest].append(found.job)
    problems += _duplicates(same.values())
    splits = {name: Split(counts[name], pixels[name]) for name in counts}
    return splits, sorted(problems, key=lambda problem: (problem.path, problem.kind)), jobs


def check_config(settings: Settings, bar: Progress) -> tuple[dict[str, Split], dict[str, list[str]], list[str]]:
    """Read all headers of a config's data sets, and all masks of training and validation; nothing else is built.

    Gives the figures of each split, the problems of its files, and those of no single file.
    """
    splits: dict[str, Split] = {}
    of_files: dict[str, list[str]] = {}
    others = []
    for name in ("train", "val", "test"):
        dataset = getattr(settings, f"{name}_dataset")
        if dataset is None:
            continue
        step = partial(bar.advance, bar.add_task(f"{name}: headers", total=len(dataset)))
        problems = check_headers(dataset, step)
        pixels = None
        if name != "test":
            step = partial(bar.advance, bar.add_task(f"{name}: labels", total=len(dataset)))
            counts = count_labels(dataset, step)
            pixels = counts.pixels
            problems = list(dict.fromkeys([*problems, *counts.problems, *_outside(settings, pixels, name)]))
            missing = missing_classes(settings.classes, pixels, settings.ignore_index)
            if missing and name == "train" and not settings.allow_missing_classes:
                others.append(f"{missing}. {MISSING_CAUSES}")
        splits[name], of_files[name] = Split(Counter(images=len(dataset)), pixels), problems
    return splits, of_files, others


def read_mask(path: Path, folder: MaskFolder, spec: DatasetSpec) -> NDArray[np.uint8]:
    """Class indices and the ignore index of a mask, (H, W) (raises DataError: unreadable, or other labels)."""
    return _to_index(_read_raw(path, folder), path, folder, spec)


def figures(splits: Mapping[str, Split], spec: Any) -> list[dict[str, Any]]:
    """Plain types for JSON: counts, each class's share of the labelled pixels, and the ignored share of all."""
    result = []
    for name, (counts, pixels) in splits.items():
        result.append({"split": name, **counts})
        if pixels is not None:
            whole, ignored = int(pixels.sum()), int(pixels[spec.ignore_index])
            shares = {label: int(pixels[at]) / max(1, whole - ignored) for at, label in enumerate(spec.classes)}
            result[-1] |= {"shares": shares, "ignored": ignored / max(1, whole)}
    return result


def print_report(
    title: str, splits: Mapping[str, Split], problems: Mapping[str, list[str]], spec: Any, console: Console
) -> None:
    """Print the `figures` of the splits as a table, and the problems by kind."""
    kinds = next(iter(splits.values())).counts
    right = [Column(name, justify="right") for name in (*kinds, *spec.classes, "ignored")]
    table = Table("split", *right, title=title)
    for found in figures(splits, spec):
        has_labels = "shares" in found and found.get("masks", True)
        shares = [*found["shares"].values(), found["ignored"]] if has_labels else []
        numbers = (str(found[kind]) for kind in kinds)
        table.add_row(found["split"], *numbers, *(f"{100 * share:.1f} %" for share in shares))
    console.print(table)
    print_problems(problems, console)
    if not any(problems.values()):
        console.print("No problems found.", style="green")


def print_problems(problems: Mapping[str, list[str]], console: Console, more: str = " (--json lists all)") -> None:
    """Print, for each kind, the number of problems, the first of them, and how many more there are."""
    for title, lines in problems.items():
        if lines:
            console.print(f"{len(lines)} {title}:", style="bold red", highlight=False)
        for line in lines[:_MAX_LINES]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > _MAX_LINES:
            console.print(f"  and {len(lines) - _MAX_LINES} more{more}", markup=False)


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


def _outside(settings: Settings, pixels: NDArray[np.int64], split: str) -> list[str]:
    """Labels that are neither classes of the config nor its ignore index."""
    number, ignore = len(settings.classes), settings.ignore_index
    found = ", ".join(f"{at} ({n} pixels)" for at, n in enumerate(pixels) if n and at >= number and at != ignore)
    advice = "Set classes, num_classes and ignore_index as the data set gives them."
    expected = f"expected 0 to {number - 1} or ignore_index={ignore}. {advice}"
    return [f"{split}_dataset: labels {found}, {expected}"] if found else []
