"""Downloaded archives to originals: list what is in folders and zips, place each file whole, replace nothing."""

import io
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from d2ls.data.decode import MAX_PIXELS
from d2ls.errors import DataError

_CHUNK = 1 << 20
_MAX_DEPTH = 4  # archives inside archives; official ones have two
_MAX_FILE = 4 * MAX_PIXELS  # bytes of one file: no larger image can be read
_MAX_RATIO = 1100  # bytes that one byte of a deflated member can stand for, and a little more
_ENCRYPTED = 1  # bit of a zip member's flags
_LOCAL_HEADER = 30  # bytes before the names of a stored member
_OTHER_ARCHIVES = (".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")


@dataclass(frozen=True)
class SourceFile:
    """One downloaded file, on the disk or inside an archive."""

    path: PurePosixPath  # below the searched folder; archives count as folders (`Potsdam.zip/5_Labels_all.zip/x.tif`)
    size: int  # bytes
    file: Path | None = None  # the file on the disk, or None for a member of an archive
    archive: zipfile.ZipFile | None = None
    member: zipfile.ZipInfo | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The content; a member's checksum is compared when its end is read (raises DataError: unreadable, damaged)."""
        try:
            if self.file is not None:
                with self.file.open("rb") as file:
                    yield file
            elif self.archive is not None and self.member is not None:
                if self.member.flag_bits & _ENCRYPTED:
                    raise DataError(
                        f"{self.path}: encrypted. Unpack the archive with its password first, and give that folder."
                    )
                try:
                    content = self.archive.open(self.member)
                except OSError as problem:  # the archive gives an impossible position
                    raise zipfile.BadZipFile(str(problem)) from problem
                with content:
                    yield content
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as problem:
            raise DataError(
                f"{self.path}: cannot be unpacked: {problem}. The archive is damaged: download it again."
            ) from problem

    def checksum(self) -> int:
        """CRC-32 of the content: of a member as its archive gives it."""
        if self.member is not None:
            return self.member.CRC
        value = 0
        with self.open() as file:
            while chunk := file.read(_CHUNK):
                value = zlib.crc32(chunk, value)
        return value

    def equals(self, other: "SourceFile") -> bool:
        """Whether both have the same content."""
        one = self.file is not None and other.file is not None and self.file.samefile(other.file)
        return one or (self.size == other.size and self.checksum() == other.checksum())


def on_disk(path: Path) -> SourceFile:
    """A file of the disk under its own name."""
    return SourceFile(PurePosixPath(path.name), path.stat().st_size, file=path)


class Sources(ExitStack):
    """All files below a folder of downloads and in the zip archives there; use it in a `with` statement.

    Compressed zips inside zips need room in the folder `scratch`, in files without a name. A DataError is raised where
    the folder is missing, an archive is damaged, or one has paths that lead out of it.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        super().__init__()
        self.folder, self.scratch = folder, scratch
        self.not_opened: list[str] = []

    def files(self) -> list[SourceFile]:
        """Every file, in the order of the paths."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder. Expected the folder with the downloaded archives.")
        found: list[SourceFile] = []
        for path in _walk(self.folder):
            relative, suffix = PurePosixPath(path.relative_to(self.folder).as_posix()), path.suffix.lower()
            if suffix == ".zip":
                found += self._archive(self.enter_context(path.open("rb")), relative)
            else:
                found.append(SourceFile(relative, path.stat().st_size, file=path))
            if suffix in _OTHER_ARCHIVES:
                self.not_opened.append(path.name)
        return sorted(found, key=lambda source: source.path)

    def _archive(self, file: IO[bytes], path: PurePosixPath) -> list[SourceFile]:
        if sum(part.lower().endswith(".zip") for part in path.parts) > _MAX_DEPTH:
            raise DataError(f"{path}: archives inside archives, more than {_MAX_DEPTH} deep: do not trust this file.")
        try:
            archive = self.enter_context(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
            raise DataError(f"{path}: no readable zip archive ({problem}): download it again.") from problem
        if sum(member.compress_size for member in archive.infolist()) > file.seek(0, os.SEEK_END):
            raise DataError(f"{path}: its members overlap, as in a decompression bomb: do not trust this file.")
        found: list[SourceFile] = []
        for member in archive.infolist():
            _check_member(member, path)
            source = SourceFile(path / member.filename, member.file_size, archive=archive, member=member)
            if source.path.suffix.lower() == ".zip" and not member.is_dir():
                found += self._archive(self._inner(file, source, member), source.path)
            elif not member.is_dir():
                found.append(source)
        return found

    def _inner(self, file: IO[bytes], source: SourceFile, member: zipfile.ZipInfo) -> IO[bytes]:
        """An archive inside another, as a seekable file."""
        if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED:
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            start = member.header_offset + _LOCAL_HEADER + names
            return io.BufferedReader(_Slice(file, start, member.file_size))  # type: ignore[type-var]
        if source.size > (free := shutil.disk_usage(self.scratch).free):
            raise DataError(
                f"{source.path}: {source.size / 1e9:.1f} GB to unpack, {free / 1e9:.1f} GB are free in {self.scratch}."
            )
        unpacked = self.enter_context(tempfile.TemporaryFile(dir=self.scratch))  # noqa: SIM115
        with source.open() as inner:
            shutil.copyfileobj(inner, unpacked, _CHUNK)
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

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _check_member(member: zipfile.ZipInfo, archive: PurePosixPath) -> None:
    """Refuse an absolute path, one with `..`, a link, or an impossible size."""
    name = member.orig_filename.replace("\\", "/")
    found = f"{archive}: member {member.orig_filename!r}"
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        raise DataError(f"{found} would leave the target folder, as in no official archive: do not trust this file.")
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    most = _MAX_RATIO * (member.compress_size + 1) if deflated else sys.maxsize
    if member.file_size > (most if name.lower().endswith(".zip") else min(most, _MAX_FILE)):
        raise DataError(
            f"{found} declares {member.file_size} bytes in {member.compress_size}, more than an image of any of these "
            "data sets has: a damaged archive, or a decompression bomb."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{found} is a symbolic link, which is not followed.")


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; hidden ones are passed over, linked folders are entered once."""
    seen: set[Path] = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        if (resolved := Path(path).resolve()) in seen:
            folders.clear()
            continue
        seen.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = (Path(path, name) for name in sorted(names) if not name.startswith("."))
        yield from (file for file in files if file.is_file())


@dataclass
class Placement:
    """Originals to be placed."""

    new: dict[PurePosixPath, SourceFile] = field(default_factory=dict)  # sources of targets that do not exist
    present: list[PurePosixPath] = field(default_factory=list)  # targets that exist, with the same content

    def table(self, title: str) -> Table:
        """Number of new and of present files by folder."""
        new, present = (Counter(str(target.parent) for target in targets) for targets in (self.new, self.present))
        table = Table("folder", Column("new", justify="right"), Column("already there", justify="right"), title=title)
        for folder in sorted(new | present):
            table.add_row(folder, str(new[folder]), str(present[folder]))
        return table


def compare(files: Mapping[PurePosixPath, Sequence[SourceFile]], root: Path, preferred: str = "") -> Placement:
    """Tell new targets from those that exist; of several sources of a target the first is taken.

    Sources in the folder `preferred` may differ from the others; otherwise a source that differs from another one, or
    from a file that exists, is a DataError.
    """
    placement, conflicts = Placement(), []
    for target, sources in files.items():
        first, path = sources[0], root / target
        for other in sources[1:]:
            is_preferred = preferred in first.path.parts and preferred not in other.path.parts
            if not is_preferred and not first.equals(other):
                both = f"{first.path} and {other.path}"
                raise DataError(f"{target}: two different files could be meant, {both}. Move one of them away.")
        if not path.exists():
            placement.new[target] = first
        elif any(on_disk(path).equals(source) for source in sources):
            placement.present.append(target)
        else:
            conflicts.append(f"{path} (from {first.path})")
    if conflicts:
        raise DataError(
            f"{len(conflicts)} files exist already with another content (first: {conflicts[0]}). They are never "
            "overwritten: move them away, or prepare into another folder with --to."
        )
    return placement


def place(placement: Placement, root: Path, console: Console) -> None:
    """Make the new files; interrupted, it continues when run again (raises DataError: no room, or damaged)."""
    make_folder(root)
    needed = sum(source.size for source in placement.new.values() if source.member is not None)
    if needed > (free := shutil.disk_usage(root).free):
        raise DataError(f"{root}: {needed / 1e9:.1f} GB are needed for the originals, {free / 1e9:.1f} GB are free.")
    for target, source in track(placement.new.items(), "Originals", console=console, disable=not console.is_terminal):
        make_folder((root / target).parent)
        link(source, root / target)


def link(source: SourceFile, target: Path) -> None:
    """Give a file a second name, or copy it where that is impossible (raises DataError). A target that exists stays."""
    if source.file is not None:
        with suppress(OSError):
            os.link(source.file.resolve(), target)
        if target.exists():
            return
    temporary = target.with_name(f".{target.name}.part")
    try:
        with source.open() as content, temporary.open("wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
        temporary.replace(target)
    except OSError as problem:
        raise DataError(f"{target}: cannot be written: {problem.strerror or problem}.") from problem
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder with those above it (raises DataError: it cannot be made)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DataError(f"{folder}: this folder cannot be made: {problem.strerror}.") from problem
