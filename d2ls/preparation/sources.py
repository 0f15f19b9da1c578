"""What was downloaded: files of folders and members of zip archives, also zips inside zips, as one list."""

import io
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from d2ls.data.io import MAX_PIXELS
from d2ls.errors import DataError

_CHUNK = 1 << 20
_DEEPEST = 4  # archives inside archives; official ones have two
_LARGEST_FILE = 4 * MAX_PIXELS  # bytes of one file: no image of more can be read
_MOST_DEFLATED = 1100  # bytes that one byte of a deflated member can stand for, and a little more
_ENCRYPTED = 1  # bit of a zip member's flags
_LOCAL_HEADER = 30  # bytes before the names of a stored member
_OTHER_ARCHIVES = (".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")


@dataclass(frozen=True)
class Entry:
    """One file of what was downloaded.

    Attributes:
        path: below the searched folder; archives count as folders (`Potsdam.zip/5_Labels_all.zip/x.tif`).
        size: bytes.
        file: the file on the disk, or None for a member of an archive.
    """

    path: PurePosixPath
    size: int
    file: Path | None = None
    archive: zipfile.ZipFile | None = None
    member: zipfile.ZipInfo | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The content; a member's checksum is compared when its end is read.

        Raises:
            DataError: it cannot be read, or is damaged.
        """
        try:
            if self.file is not None:
                with self.file.open("rb") as file:
                    yield file
            elif self.archive is not None and self.member is not None:
                if self.member.flag_bits & _ENCRYPTED:
                    raise DataError(
                        f"{self.path}: encrypted. Unpack the archive with its password first, and give that folder."
                    )
                with self._begin(self.archive, self.member) as file:
                    yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as problem:
            raise DataError(
                f"{self.path}: cannot be unpacked: {problem}. The archive is damaged: download it again."
            ) from problem

    def _begin(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
        try:
            return archive.open(member)
        except OSError as problem:  # the archive places it where no byte can be
            raise zipfile.BadZipFile(str(problem)) from problem

    def checksum(self) -> int:
        """CRC-32 of the content: of a member as its archive gives it."""
        return self.member.CRC if self.member is not None else checksum(self.file or Path())


class Sources:
    """All files below a folder and in the zip archives there; use it in a `with` statement.

    Args:
        folder: what was downloaded to.
        scratch: an existing folder; compressed zips inside zips need room there, in files without a name.

    Raises:
        DataError: no such folder, an archive is damaged, or one has paths that lead out of it.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch
        self.not_opened: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Sources":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def entries(self) -> list[Entry]:
        """Every file, in the order of the paths."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder. Expected the folder with the downloaded archives.")
        found: list[Entry] = []
        for path in _walk(self.folder):
            place = PurePosixPath(path.relative_to(self.folder).as_posix())
            if path.suffix.lower() == ".zip":
                found += self._archive(self._stack.enter_context(path.open("rb")), place)
                continue
            if path.suffix.lower() in _OTHER_ARCHIVES:
                self.not_opened.append(path.name)
            found.append(Entry(place, path.stat().st_size, file=path))
        return sorted(found, key=lambda entry: entry.path)

    def _archive(self, file: IO[bytes], place: PurePosixPath) -> list[Entry]:
        """The members of an archive and of those inside it."""
        if sum(part.lower().endswith(".zip") for part in place.parts) > _DEEPEST:
            raise DataError(f"{place}: archives inside archives, more than {_DEEPEST} deep: do not trust this file.")
        try:
            archive = self._stack.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
            raise DataError(f"{place}: no readable zip archive ({problem}): download it again.") from problem
        if sum(member.compress_size for member in archive.infolist()) > file.seek(0, os.SEEK_END):
            raise DataError(f"{place}: its members overlap, as in a decompression bomb: do not trust this file.")
        found: list[Entry] = []
        for member in archive.infolist():
            check_member(member, place)
            if member.is_dir():
                continue
            entry = Entry(place / member.filename, member.file_size, archive=archive, member=member)
            if entry.path.suffix.lower() == ".zip":
                found += self._archive(self._inner(file, entry, member), entry.path)
            else:
                found.append(entry)
        return found

    def _inner(self, file: IO[bytes], entry: Entry, member: zipfile.ZipInfo) -> IO[bytes]:
        """An archive inside another, as a file in which one can jump."""
        if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            start = member.header_offset + _LOCAL_HEADER + names
            return io.BufferedReader(_Slice(file, start, member.file_size))  # type: ignore[type-var]
        if entry.size > (free := shutil.disk_usage(self.scratch).free):
            raise DataError(
                f"{entry.path}: {entry.size / 1e9:.1f} GB to unpack, {free / 1e9:.1f} GB are free in {self.scratch}."
            )
        unpacked = self._stack.enter_context(tempfile.TemporaryFile(dir=self.scratch))  # noqa: SIM115
        with entry.open() as inner:
            for chunk in read_all(inner):
                unpacked.write(chunk)
        return unpacked


class _Slice(io.RawIOBase):
    """Part of an open file as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def check_member(member: zipfile.ZipInfo, place: PurePosixPath) -> None:
    """Refuse a member that is no plain file or folder inside its archive.

    Raises:
        DataError: an absolute path, one with `..`, a link, or a size that cannot be meant.
    """
    name = member.orig_filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        raise DataError(
            f"{place}: member {member.orig_filename!r} would leave the target folder. No official archive has such a "
            "path: do not trust this file."
        )
    is_archive = name.lower().endswith(".zip")
    impossible = member.compress_type == zipfile.ZIP_DEFLATED and (
        member.file_size > _MOST_DEFLATED * (member.compress_size + 1)
    )
    if impossible or (member.file_size > _LARGEST_FILE and not is_archive):
        raise DataError(
            f"{place}: member {member.orig_filename!r} declares {member.file_size} bytes in {member.compress_size}, "
            "more than an image of any of these data sets has: a damaged archive, or a decompression bomb."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{place}: member {member.filename!r} is a symbolic link, which is not followed.")


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        for chunk in read_all(file):
            value = zlib.crc32(chunk, value)
    return value


def read_all(file: IO[bytes]) -> Iterator[bytes]:
    """The content in pieces."""
    while chunk := file.read(_CHUNK):
        yield chunk


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; hidden ones are passed over, linked folders are entered once."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place).resolve()
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            path for name in sorted(names) if not name.startswith(".") and (path := Path(place, name)).is_file()
        )
