"""What the servers of LoveDA and UAVid take: which files, how they must look, and the zip of them.

LoveDA (codabench competition 13030): one flat zip of 8-bit index PNGs, named as the test images, 0 to 6.
UAVid: a zip of `seqN/Labels/<frame>.png` in the data set's colours.
"""

import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2ls.data.io import read_colours, read_index, read_size
from d2ls.data.labels import check_index, colours_to_index
from d2ls.data.pairs import SUFFIXES, Pair
from d2ls.data.root import data_root
from d2ls.data.sets import loveda, uavid
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError, DataError
from d2ls.inference.results import mask_name

Size = tuple[int, int]
_LARGEST_FILE = 1 << 26  # bytes of one mask; more is no mask
_MOST = 20  # problems that are told one by one
_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks make the same zip
_UAVID_SIZES = ((2160, 3840), (2160, 4096))


@dataclass(frozen=True)
class Server:
    """What a server expects.

    Attributes:
        spec: the classes.
        sizes: height and width that each file may have, by its name in the zip.
        coloured: masks in the data set's colours; else class indices.
        official: number of files of the official test set.
    """

    spec: DatasetSpec
    sizes: Mapping[str, tuple[Size, ...]]
    coloured: bool
    official: int

    @property
    def note(self) -> str | None:
        """A line for whoever has only a part of the test set; None for the whole."""
        if len(self.sizes) == self.official:
            return None
        return (
            f"note: checked against the {len(self.sizes)} test images found here; the server expects all "
            f"{self.official} of {self.spec.name}'s test set"
        )


_OFFICIAL = {
    "loveda": Server(
        loveda.SPEC, {f"{number}.png": ((1024, 1024),) for number in range(4191, 5987)}, coloured=False, official=1796
    ),
    "uavid": Server(
        uavid.SPEC,
        {
            f"seq{sequence}/Labels/{frame:06d}.png": _UAVID_SIZES
            for sequence in (*range(21, 31), *range(38, 43))
            for frame in range(0, 1000, 100)
        },
        coloured=True,
        official=150,
    ),
}
SERVERS = tuple(_OFFICIAL)


def server(dataset: str, pairs: list[Pair] | None = None) -> Server:
    """What the server of a data set expects: a mask of each test image.

    Args:
        dataset: one of SERVERS.
        pairs: the test images; None takes those of the data folder, or the official names where there are none.

    Raises:
        ConfigError: a data set without a server.
        DataError: an image that cannot be read.
    """
    if dataset not in _OFFICIAL:
        raise ConfigError(f"{dataset}: no submission known; expected one of: {', '.join(SERVERS)}.")
    official = _OFFICIAL[dataset]
    if pairs is None:
        folder = data_root() / ("LoveDA/Test" if dataset == "loveda" else "uavid/uavid_test")
        if not folder.is_dir():
            return official
        pairs = (loveda.test() if dataset == "loveda" else uavid.test(folder)).pairs
    return replace(official, sizes={mask_name(pair.name): (read_size(pair.image),) for pair in pairs})


def check(place: Path, expected: Server) -> list[str]:
    """Problems of a submission, one line each; none where it can be sent.

    Args:
        place: the zip, or the folder of masks.
        expected: what the server wants.

    Raises:
        DataError: neither a zip nor a folder.
    """
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
    """Check the masks of a folder and, where nothing is wrong, write them as a zip: whole or not at all.

    Returns:
        The problems found; then nothing is written.

    Raises:
        DataError: the zip cannot be written.
    """
    if problems := check(folder, expected):
        return problems
    temporary = place.with_name(f".{place.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
            for name in sorted(expected.sizes):
                archive.writestr(zipfile.ZipInfo(name, _DATE), (folder / name).read_bytes())
        temporary.replace(place)
    except OSError as problem:
        raise DataError(f"{place}: cannot be written: {problem.strerror or problem}.") from problem
    finally:
        temporary.unlink(missing_ok=True)
    return check(place, expected)


def _problem(name: str, read: Callable[[str], Path], expected: Server) -> str | None:
    """What is wrong with one mask, or None."""
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

        def extract(name: str) -> Path:
            path = Path(folder) / f"{name.replace('/', '_')}"
            _extract(archive, name, path)
            return path

        yield [name for name in archive.namelist() if not name.endswith("/")], extract


def _extract(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Copy a member out; only the last one stays, so that a large zip takes no space.

    Raises:
        DataError: it is damaged, encrypted, or too large for a mask.
    """
    for earlier in path.parent.iterdir():
        earlier.unlink()
    if archive.getinfo(name).file_size > _LARGEST_FILE:
        raise DataError(f"{name}: {archive.getinfo(name).file_size} bytes, too large for a mask.")
    try:
        data = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as problem:
        raise DataError(f"{name}: cannot be unpacked: {problem}.") from problem
    path.write_bytes(data)
