"""What made the masks of a folder, kept beside them: for the scores' files, and so that a run resumes only itself."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import torch

import d2ls
from d2ls.checkpoint import Checkpoint
from d2ls.config import Settings
from d2ls.data.io import write_bytes
from d2ls.errors import ConfigError
from d2ls.inference.scores import FILES

NAME = "run.json"
REPORT = "report.html"
_DECIDES = ("dataset", "checkpoint_sha256", "views", "windows", "masks")  # what a mask depends on


def describe(
    *, dataset: str, checkpoint: Checkpoint, settings: Settings | None, command: list[str], **further: Any
) -> dict[str, Any]:
    """A run in plain values.

    Args:
        dataset: name of the classes.
        checkpoint: the weights.
        settings: the config, where there is one.
        command: script and arguments.
        further: views, windows and the like.
    """
    config = None if settings is None else settings.path
    return {
        "command": shlex.join(command),
        "dataset": dataset,
        "checkpoint": str(checkpoint.path),
        "checkpoint_sha256": checkpoint.sha256,
        "config": None if config is None else str(config),
        "config_sha256": None if config is None else hashlib.sha256(config.read_bytes()).hexdigest(),
        **further,
        "d2ls": d2ls.__version__,
        "torch": torch.__version__,
    }


def begin(folder: Path, run: dict[str, Any], *, resume: bool) -> None:
    """Note a run in its folder, before its first mask; scores and report of an earlier run there are removed.

    Raises:
        ConfigError: another run is to be resumed, or the folder is a file.
        DataError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; -o needs a folder for the masks.")
    earlier = _read(folder / NAME) if resume else None
    if earlier is not None:
        for name in _DECIDES:
            if earlier.get(name) != run[name]:
                raise ConfigError(
                    f"{folder}: the masks there were made with {name} {earlier.get(name)}, this run has {run[name]}. "
                    "Leave out --resume to make all of them again, or choose another folder."
                )
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, REPORT):
        (folder / name).unlink(missing_ok=True)
    write_bytes(folder / NAME, (json.dumps(run, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, Any] | None:
    """What an earlier run noted; None where none did."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: cannot be read: {problem}. Leave out --resume.") from problem
    return content if isinstance(content, dict) else {}
