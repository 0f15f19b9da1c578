"""Batches whose loss is not finite: written down by file name, left out as far as the config allows."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, distributed

from d2ls.distributed import place
from d2ls.errors import DataError

FILE = "not_finite.csv"


class SkippedBatches:
    """Counts the batches that are left out because their loss is not finite, and names their images in a file.

    Args:
        allowed: how many batches of an epoch may be left out.

    Attributes:
        in_epoch: batches left out in this epoch.
        in_run: batches left out in all.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.in_epoch = 0
        self.in_run = 0

    def add(self, folder: Path | None, epoch: int, step: int, terms: Mapping[str, Tensor], paths: list[str]) -> None:
        """Write a batch down; every process must call this, where the loss of any of them is not finite.

        Args:
            folder: of the log, where the file is written; None: none is.
            epoch: from 0.
            step: of the optimiser, from 0.
            terms: scalars by name, of this process.
            paths: images of this process's batch.

        Raises:
            DataError: more batches of the epoch are not finite than are allowed; names them.
        """
        values = {name: term.item() for name, term in terms.items()}
        rows = _everywhere((values, paths))
        bad = [row for row in rows if not math.isfinite(row[0]["loss"])] or rows
        named = " and ".join(
            f"{', '.join(files)} ({', '.join(f'{name}={value:.4g}' for name, value in found.items())})"
            for found, files in bad
        )
        if folder is not None and place().rank == 0:
            _append(folder / FILE, epoch, step, bad)
        self.in_epoch += 1
        self.in_run += 1
        if self.in_epoch > self.allowed:
            saved = "" if folder is None else f" (also in {folder / FILE})"
            left_out = f" {self.allowed} batches of this epoch were left out before." if self.allowed else ""
            raise DataError(
                f"the loss is not finite in step {step}; the batch holds {named}{saved}.{left_out} Look at "
                "these files; a lower lr or gradient_clip_val=1 may help. max_skipped_batches=N leaves out N an epoch."
            )


def _append(path: Path, epoch: int, step: int, rows: list[tuple[dict[str, float], list[str]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(("epoch", "step", "image", *rows[0][0]))
        writer.writerows((epoch, step, image, *values.values()) for values, images in rows for image in images)


def _everywhere(value: Any) -> list[Any]:
    """A plain value of each process."""
    found: list[Any] = [value] * place().number
    if len(found) > 1:
        distributed.all_gather_object(found, value)
    return found
