"""The output folder of a test run: its masks, and the record of the run that made them."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from d2ls.checkpoint import Checkpoint, sha256_of
from d2ls.config import Settings
from d2ls.data.io import write_bytes, write_png
from d2ls.data.labels import index_to_colours, read_colour_mask, read_index_mask
from d2ls.data.pairs import Pair
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.inference import scores
from d2ls.version import __version__

Pixels = NDArray[np.uint8]
REPORT, RECORD = "report.html", "run.json"
_DECISIVE = ("dataset", "checkpoint_sha256", "views", "windows", "masks")  # entries of a record that change a mask


def mask_name(name: str) -> str:
    """Path of a mask below the output folder: `<stem>.png`; for a frame `seqN/<stem>`, `seqN/Labels/<stem>.png`."""
    sequence, slash, stem = name.rpartition("/")
    return f"{sequence}/Labels/{stem}.png" if slash else f"{stem}.png"


@dataclass(frozen=True)
class Masks:
    """A folder of masks."""

    folder: Path  # made when the first mask is written
    spec: DatasetSpec
    coloured: bool = False  # colour masks; else class indices
    legend: Literal["official", "reference"] = "official"  # whose colours, where they differ

    def path(self, name: str) -> Path:
        """The file of an image's mask."""
        return self.folder / mask_name(name)

    def check_apart(self, pairs: Iterable[Pair]) -> None:
        """Refuse a folder in which masks would replace images or labels of the test, or be read as such later."""
        listed = list(pairs)
        read = {path.parent.resolve() for pair in listed for path in (pair.image, pair.mask) if path is not None}
        written = {self.path(pair.name).parent.resolve() for pair in listed}
        if common := sorted(read & written):
            raise ConfigError(
                f"{self.folder}: {common[0]} holds images or labels of this test; masks there would join or replace "
                "them. Choose another folder with -o."
            )

    def write(self, name: str, index: Pixels) -> None:
        """Write class indices (H, W) as an image's mask, whole or not at all; viewers show indices in class colours."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.coloured:
            write_png(path, index_to_colours(index, self.spec, self.legend))
        else:
            write_png(path, index, palette=self.spec.colours)

    def read(self, name: str) -> Pixels:
        """Class indices (H, W) of a mask that exists; one of the other kind (colours, indices) is refused."""
        spec = replace(self.spec, values={})  # what we write are class indices, whatever values the labels have
        return (read_colour_mask if self.coloured else read_index_mask)(self.path(name), spec)


def describe_run(
    *, dataset: str, checkpoint: Checkpoint, settings: Settings | None, command: list[str], **further: Any
) -> dict[str, Any]:
    """The record of a run, in plain values; `further` are views, windows and other entries."""
    config = None if settings is None else settings.path
    return {
        "command": shlex.join(command),
        "dataset": dataset,
        "checkpoint": str(checkpoint.path),
        "checkpoint_sha256": checkpoint.sha256,
        "config": None if config is None else str(config),
        "config_sha256": None if config is None else sha256_of(config),
        **further,
        "d2ls": __version__,
        "torch": torch.__version__,
    }


def begin_run(folder: Path, run: dict[str, Any], *, resume: bool) -> None:
    """Write a run's record to its folder before the first mask; scores and report of an earlier run are removed.

    Raises:
        ConfigError: another run would be resumed, or the folder is a file.
        DataError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; -o needs a folder for the masks.")
    earlier = _read_record(folder / RECORD) if resume else None
    different = [name for name in _DECISIVE if earlier is not None and earlier.get(name) != run[name]]
    if earlier is not None and different:
        name = different[0]
        raise ConfigError(
            f"{folder}: the masks there were made with {name} {earlier.get(name)}, this run has {run[name]}. "
            "Leave out --resume to make all of them again, or choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*scores.FILES, REPORT):
        (folder / name).unlink(missing_ok=True)
    write_bytes(folder / RECORD, (json.dumps(run, indent=1) + "\n").encode())


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record of an earlier run; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: cannot be read: {problem}. Leave out --resume.") from problem
    return content if isinstance(content, dict) else {}
