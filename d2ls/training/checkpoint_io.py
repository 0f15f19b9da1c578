"""Checkpoint files of a run: whole at any moment, of one run alone, apart from those of earlier runs."""

import contextlib
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pytorch_lightning.plugins.io import TorchCheckpointIO

from d2ls.errors import CheckpointError, ConfigError
from d2ls.training.distributed import killed_reader

LAST = "last"  # name of the newest checkpoint's file, without .ckpt
STALE_AFTER = 3600.0  # seconds without a change after which another machine's unfinished file is given up
_PART = re.compile(r"\..+\.ckpt\.(?P<host>.+)\.(?P<process>\d+)\.part")


class WholeCheckpoints(TorchCheckpointIO):
    """Writer of checkpoint files: each is replaced as a whole, and the newest one keeps the one before it.

    Unless `continued` from its own last checkpoint, a run's first one takes the place of an earlier run's.
    """

    def __init__(self, *, continued: bool = False) -> None:
        super().__init__()
        self._keeps = continued

    def keep_none(self) -> None:
        """Let the next checkpoint replace the newest one without keeping it."""
        self._keeps = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; called on the first process alone."""
        path = Path(path)
        is_last = path.stem == LAST
        if is_last and not self._keeps:
            previous_of(path).unlink(missing_ok=True)
        write_checkpoint(checkpoint, path, keep=is_last and self._keeps)
        self._keeps = self._keeps or is_last


def write_checkpoint(content: dict[str, Any], path: Path, *, keep: bool = False) -> None:
    """Write tensors and plain values under a temporary name in the same folder, sync, rename: whole or not at all.

    `keep`: the file that is replaced stays as `previous_of(path)`; there is a whole one at every moment.
    """
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            _keep(path)
        os.replace(part, path)  # noqa: PTH105  (the name says that it replaces)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save hides a full disk behind an error of its own
        if (killed := killed_reader(error)) is not None:
            raise killed from None
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
        was = f"; {path.name} is as it was" if path.exists() else ""
        raise CheckpointError(f"{path} cannot be written: {reason}{was}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Make the folder of checkpoints and check that it can be written, before an epoch is spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(f"weights_path={str(folder)!r} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder of checkpoints until the end of the block or of the process."""
    lock, holder = FileLock(folder.with_name(f".{folder.name}.lock")), folder.with_name(f".{folder.name}.running")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        told = "another process has been training into it"
        with contextlib.suppress(OSError):
            told = holder.read_text(encoding="utf-8") or told
        raise ConfigError(
            f"weights_path={str(folder)!r}: {told}. Wait for its end, or give this run another weights_path."
        ) from error
    since = datetime.now().isoformat(" ", "seconds")
    told = f"process {os.getpid()} on {socket.gethostname()} has been training into this folder since {since}"
    try:
        holder.write_text(told, encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def archive_earlier(folder: Path, weights_name: str) -> Path | None:
    """Move the checkpoints of earlier runs, if any, into a sub-folder named by the time of the newest one."""
    own = re.compile(rf"({LAST}|{LAST}-previous|{re.escape(weights_name)}(-.*)?)\.ckpt")
    earlier = [path for path in folder.glob("*.ckpt") if own.fullmatch(path.name)]
    if not earlier:
        return None
    newest = datetime.fromtimestamp(max(path.stat().st_mtime for path in earlier))
    stamp, number = f"{newest:%Y-%m-%d_%H-%M-%S}", 2
    target = folder / stamp
    while target.exists():
        target, number = folder / f"{stamp}_{number}", number + 1
    target.mkdir()
    for path in earlier:
        path.rename(target / path.name)
    return target


def previous_of(path: Path) -> Path:
    """Path under which the checkpoint before the newest is kept."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove files that killed writers left: those of this machine, and what others have not touched for an hour."""
    found = []
    for path in folder.glob(".*.part"):
        match = _PART.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):
            if match and not _is_written(path, match["host"], int(match["process"])):
                path.unlink()
                found.append(path)
    return found


def quarantine(path: Path) -> Path:
    """Rename a checkpoint that cannot be read, so that nothing takes it for one again."""
    aside = path.with_name(f"{path.stem}-unreadable{path.suffix}")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    return aside


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")


def _keep(path: Path) -> None:
    """Give a file its second name; where the disk knows no second names, its only one."""
    kept, part = previous_of(path), _part(previous_of(path))
    try:
        part.unlink(missing_ok=True)
        part.hardlink_to(path)
        part.replace(kept)
    except OSError:
        path.replace(kept)


def _sync(folder: Path) -> None:
    """Make renamed files last through a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_written(path: Path, host: str, process: int) -> bool:
    """Whether the writer of an unfinished file may still live."""
    if host != socket.gethostname():
        return time.time() - path.stat().st_mtime < STALE_AFTER
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
