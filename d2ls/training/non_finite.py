"""Batches whose loss is not finite: found without waiting for the device, named by file, left out where allowed."""

import csv
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from d2ls.distributed import rank, world_size
from d2ls.errors import DataError

FILE = "not_finite.csv"


class StepLoss:
    """The loss terms of one step on their way to the host; reading waits for this copy, not for later kernels.

    The T terms, of which "loss" is the total, stand on the device: their means over the processes, (T,), and those of
    this process's own batch, whose images are `paths`. Epochs and steps of the optimiser count from 0.
    """

    def __init__(
        self, names: tuple[str, ...], means: Tensor, own: Tensor, epoch: int, step: int, paths: list[str]
    ) -> None:
        self.names, self.epoch, self.step, self.paths = names, epoch, step, paths
        self._copy = torch.stack([means, own]).to("cpu", non_blocking=means.is_cuda)
        self._copied = torch.cuda.Event() if means.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def is_finite(self) -> bool:
        """Whether the total is finite in all processes."""
        return math.isfinite(self._read()[0][self.names.index("loss")])

    def own_terms(self) -> dict[str, float]:
        """Terms of this process's batch by name."""
        return dict(zip(self.names, self._read()[1], strict=True))

    def _read(self) -> list[list[float]]:
        if self._copied is not None:
            self._copied.synchronize()
        values: list[list[float]] = self._copy.numpy().tolist()
        return values


class SkippedBatches:
    """Count of the batches that are left out because their loss is not finite; a file in the log names their images.

    `allowed` are so many in an epoch; `in_epoch` and `in_run` were left out.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed, self.in_epoch, self.in_run = allowed, 0, 0

    def add(self, folder: Path | None, step: StepLoss) -> None:
        """Write a batch down in the log's folder; every process must call this, where the loss of any is not finite.

        Raises:
            DataError: more batches of the epoch are not finite than are allowed; names them.
        """
        rows: list[Any] = [(step.own_terms(), step.paths)] * world_size()
        if len(rows) > 1:
            distributed.all_gather_object(rows, rows[0])
        bad = [row for row in rows if not math.isfinite(row[0]["loss"])] or rows
        named = " and ".join(
            f"{', '.join(files)} ({', '.join(f'{name}={value:.4g}' for name, value in found.items())})"
            for found, files in bad
        )
        if folder is not None and rank() == 0:
            _append(folder / FILE, step, bad)
        self.in_epoch += 1
        self.in_run += 1
        if self.in_epoch > self.allowed:
            saved = "" if folder is None else f" (also in {folder / FILE})"
            left_out = f" {self.allowed} batches of this epoch were left out before." if self.allowed else ""
            raise DataError(
                f"the loss is not finite in step {step.step}; the batch holds {named}{saved}.{left_out} Look at "
                "these files; a lower lr or gradient_clip_val=1 may help. max_skipped_batches=N leaves out N an epoch."
            )


def _append(path: Path, step: StepLoss, rows: list[tuple[dict[str, float], list[str]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(("epoch", "step", "image", *rows[0][0]))
        for values, images in rows:
            writer.writerows((step.epoch, step.step, image, *values.values()) for image in images)
