"""Submissions to the data sets' evaluation servers: check the masks, write the zip."""

import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from d2ls.data import sets
from d2ls.data.io import SUFFIXES, png_bytes, read_colours, read_index, read_size
from d2ls.data.labels import check_index, colours_to_index
from d2ls.data.pairs import Pair
from d2ls.data.root import data_root
from d2ls.data.sets.facts import Server
from d2ls.errors import ConfigError, DataError
from d2ls.inference.results import mask_name

_LARGEST_FILE = 1 << 26  # bytes of one mask; more is no mask
_MOST = 20  # problems that are told one by one
_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks make the same zip


def servers() -> tuple[str, ...]:
    """Names of the data sets that have a server."""
    return tuple(name for name in sets.names() if sets.find(name).server)


def server(dataset: str, pairs: list[Pair] | None = None) -> Server:
    """The submission that the server of a data set, one of `servers()`, expects: a mask of each test image.

    Without `pairs` these are the images of the data folder, or the official names where there are none.
    """
    facts = sets.find(dataset)
    if facts.server is None:
        raise ConfigError(f"{dataset}: no submission known; expected one of: {', '.join(servers())}.")
    if pairs is None:
        if not (data_root() / facts.server.folder).is_dir():
            return facts.server
        pairs = facts.test().pairs
    return replace(facts.server, sizes={mask_name(pair.name): (read_size(pair.image),) for pair in pairs})


def check(place: Path, expected: Server) -> list[str]:
    """Problems of a submission, the zip or the folder of masks, one line each; none where it can be sent."""
    with _opened(place) as (names, read):
        there = set(names)
        missing, strange = sorted(expected.sizes.keys() - there), sorted(there - expected.sizes.keys())
        problems = []
        if missing:
            problems.append(f"{len(missing)} of {len(expected.sizes)} masks are missing (first: {missing[0]})")
        if strange:
            problems.append(f"{len(strange)} files do not belong there (first: {strange[0]})")
        if len(there) < len(names):
            problems.append(f"{len(names) - len(there)} files are there twice")
        checks = (_problem(name, read, expected) for name in sorted(there & expected.sizes.keys()))
        problems += [problem for problem in checks if problem]
    more = len(problems) - _MOST
    return problems if more <= 0 else [*problems[:_MOST], f"and {more} problems more"]


def write_zip(place: Path, folder: Path, expected: Server) -> list[str]:
    """Check the masks of a folder and write them as a zip, whole, or not at all where problems are found and given."""
    if problems := check(folder, expected):
        return problems
    temporary = place.with_name(f".{place.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
            for name in sorted(expected.sizes):
                archive.writestr(zipfile.ZipInfo(name, _DATE), _member(folder / name, expected))
        temporary.replace(place)
    except OSError as problem:
        raise DataError(f"{place}: cannot be written: {problem.strerror or problem}.") from problem
    finally:
        temporary.unlink(missing_ok=True)
    return check(place, expected)


def _member(mask: Path, expected: Server) -> bytes:
    """A mask as the server reads it: indices without the palette that our masks carry for viewers."""
    return mask.read_bytes() if expected.coloured else png_bytes(read_index(mask))


def _problem(name: str, read: Callable[[str], Path], expected: Server) -> str | None:
    """The fault of one mask, or None."""
    path = Path(name)
    try:
        path = read(name)
        with path.open("rb") as file:
            if file.read(4) != b"\x89PNG":
                return f"{name}: not a PNG file"
        if expected.coloured:
            index = colours_to_index(read_colours(path), expected.spec, path=path)
        else:
            index = read_index(path)
            check_index(index, expected.spec, path)
    except DataError as problem:
        return str(problem).replace(str(path), name)
    if index.shape not in expected.sizes[name]:
        sizes = " or ".join(f"{width} x {height}" for height, width in expected.sizes[name])
        return f"{name}: {index.shape[1]} x {index.shape[0]} pixels, expected {sizes}"
    if ignored := int(np.count_nonzero(index == expected.spec.ignore_index)):
        return f"{name}: {ignored} pixels are of no class (ignored); the server expects a class at every pixel"
    return None


@contextmanager
def _opened(place: Path) -> Iterator[tuple[list[str], Callable[[str], Path]]]:
    """Names of the images in a folder, or of all files in a zip, and what gives one of them as a file."""
    if place.is_dir():
        found = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
        yield [path.relative_to(place).as_posix() for path in found], lambda name: place / name
        return
    try:
        if place.exists() and not place.is_file():  # opening a pipe would wait for ever
            raise OSError("it is neither")
        archive = zipfile.ZipFile(place)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as problem:
        raise DataError(f"{place}: neither a folder nor a zip that can be read: {problem}.") from problem
    with archive, tempfile.TemporaryDirectory() as folder:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        yield names, partial(_extract, archive, Path(folder))


def _extract(archive: zipfile.ZipFile, folder: Path, name: str) -> Path:
    """Copy a member out, if it can be one; only the last one stays, so that a large zip takes no space."""
    for earlier in folder.iterdir():
        earlier.unlink()
    if archive.getinfo(name).file_size > _LARGEST_FILE:
        raise DataError(f"{name}: {archive.getinfo(name).file_size} bytes, too large for a mask.")
    try:
        data = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as problem:
        raise DataError(f"{name}: cannot be unpacked: {problem}.") from problem
    path = folder / name.replace("/", "_")
    path.write_bytes(data)
    return path
