"""What may be wrong with a data set on the disk, found by reading every file of it."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from d2ls.data import io as files
from d2ls.data.labels import check_index, colours_to_index
from d2ls.data.pairs import SUFFIXES
from d2ls.data.sets import loveda
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.preparation import pool
from d2ls.preparation.folders import Kind, Place
from d2ls.preparation.originals import Original
from d2ls.preparation.palette import flat_colours


class Problem(NamedTuple):
    """Something wrong: one of `KINDS`, the file or folder, and the rest of the sentence."""

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

    place: Place
    stem: str
    image: Path
    masks: tuple[tuple[Path, Kind], ...]


@dataclass
class Found:
    """What reading one image and its masks brought; `pixels` by value, of the first mask."""

    job: Job
    problems: list[Problem] = field(default_factory=list)
    digest: bytes | None = None
    pixels: NDArray[np.int64] | None = None


@dataclass
class Split:
    """Figures of one split."""

    images: int = 0
    masks: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))


@dataclass
class Check:
    """The outcome of a check."""

    splits: dict[str, Split]
    problems: list[Problem]
    jobs: list[Job]

    def to_dict(self, spec: DatasetSpec) -> dict[str, Any]:
        """Plain types for JSON; shares of the classes are of the labelled pixels, that of ignore of all."""
        return {
            "dataset": spec.name,
            "ok": not self.problems,
            "splits": [
                {"split": name, "images": split.images, "masks": split.masks, **shares(split, spec)}
                for name, split in self.splits.items()
            ],
            "problems": [problem._asdict() for problem in self.problems],
        }


def check(places: list[Place], spec: DatasetSpec, workers: int) -> Check:
    """Read every image and mask of the places.

    Returns:
        Figures by split, and the problems in the order of their files.
    """
    problems, jobs = [], []
    for place in places:
        listed, wrong = list_jobs(place)
        jobs += listed
        problems += wrong
    splits: dict[str, Split] = defaultdict(Split)
    for place in places:
        splits[place.split].images += 0
    digests: dict[tuple[str | None, bytes], list[Job]] = defaultdict(list)
    for found in pool.run(partial(read, spec=spec), jobs, workers, "Reading"):
        problems += found.problems
        split = splits[found.job.place.split]
        split.images += 1
        split.masks += bool(found.job.masks)
        if found.pixels is not None:
            split.pixels += found.pixels
        if found.digest is not None and found.job.place.family is not None:
            digests[found.job.place.family, found.digest].append(found.job)
    problems += _duplicates(digests.values())
    return Check(dict(splits), sorted(problems, key=lambda problem: (problem.path, problem.kind)), jobs)


def list_jobs(place: Place) -> tuple[list[Job], list[Problem]]:
    """The images of a place with their masks, and what is wrong with the lists themselves."""
    problems: list[Problem] = []
    images = _stems(place.images, place.ending, problems, lambda stem: stem.endswith(place.ending))
    if not images:
        problems.append(Problem("folder", str(place.images), f"no images ({', '.join(SUFFIXES)})"))
    masks: dict[str, list[tuple[Path, Kind]]] = defaultdict(list)
    for group in place.masks:
        if not group.folder.is_dir():
            problems.append(Problem("folder", str(group.folder), f"no such folder, for the masks of {place.images}"))
            continue
        found = _stems(group.folder, group.ending, problems, group.fits)
        for stem, path in found.items():
            masks[stem].append((path, group.kind))
        problems += [
            Problem("no mask", str(path), f"no mask in {group.folder}")
            for stem, path in images.items()
            if stem not in found
        ]
        problems += [
            Problem("no image", str(path), f"no image in {place.images}")
            for stem, path in found.items()
            if stem not in images
        ]
    return [Job(place, stem, path, tuple(masks[stem])) for stem, path in images.items()], problems


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
        pixels = cv2.calcHist([index], [0], None, [256], [0, 256]).reshape(256).astype(np.int64)
        if number == 0:
            found.pixels = pixels
        if pixels[spec.ignore_index] == index.size:
            found.problems.append(Problem("empty mask", str(path), "every pixel is ignored"))
    return found


def shares(split: Split, spec: DatasetSpec) -> dict[str, Any]:
    """Each class's share of the labelled pixels, and the ignored share of all pixels."""
    whole, ignored = int(split.pixels.sum()), int(split.pixels[spec.ignore_index])
    counts = split.pixels[: spec.num_classes].tolist()
    return {
        "shares": {name: count / max(1, whole - ignored) for name, count in zip(spec.classes, counts, strict=True)},
        "ignored": ignored / max(1, whole),
    }


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
    path, kind = job.masks[number]
    stage = "unreadable"
    try:
        if kind == "colours":
            rgb = files.read_colours(path)
            stage = "colours"
            known = flat_colours(Original(job.stem, job.image, path), rgb, spec)
            return colours_to_index(rgb, spec, path=path, unknown="ignore" if known else "error")
        index = files.read_index(path)
        stage = "labels"
        if kind == "loveda":
            return loveda.convert(index, spec, path)
        check_index(index, spec, path)
    except DataError as problem:
        if stage == "unreadable" and _unusual(path) == "16 bit":
            stage = "16 bit"
        found.problems.append(Problem(stage, str(path), _rest(problem, path)))
        return None
    return index


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
            if job.place.split != jobs[0].place.split:
                detail = f"the same pixels as {jobs[0].image} ({job.place.split} and {jobs[0].place.split})"
                yield Problem("duplicate", str(job.image), detail)
