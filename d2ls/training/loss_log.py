"""The terms of the loss in a run's log, step by step and as means of an epoch, through every stop of the run."""

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from d2ls.errors import DataError
from d2ls.training.skipped import SkippedBatches

STATE = "log"  # where a checkpoint carries the log


class LossLog(Callback):
    """Writes `train_<term>_step` every few steps and `train_<term>_epoch`, the mean over the images of an epoch.

    Its sums are part of each checkpoint, as is the CSV log until then: a run that goes on writes the log of one that
    never stopped. Rows are written before the checkpoint of the same step, so that none is missing or there twice.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._images = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the epoch before; not called where a run goes on inside an epoch."""
        self._sums, self._images = {}, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the terms of a batch that was learnt from; they are the same in all processes."""
        terms: dict[str, float] = outputs["terms"]
        images = len(batch["image"]) if terms else 0
        self._images += images
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if terms and stepped and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            _write(trainer, {f"train_{name}_step": value for name, value in terms.items()})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the means, and hand them to the other callbacks."""
        if not self._images:
            raise DataError(f"no batch of epoch {trainer.current_epoch + 1} had a finite loss: nothing was learnt.")
        means = {f"train_{name}_epoch": value / self._images for name, value in self._sums.items()}
        skipped: SkippedBatches = pl_module.skipped  # type: ignore[assignment]
        if skipped.allowed:
            means["train_skipped_epoch"] = float(skipped.in_epoch)
        pl_module.log_dict(means, logger=False)
        _write(trainer, means)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add sums and log."""
        files = [_file(log) for log in _csv_logs(trainer)]
        text = files[0].read_bytes().decode() if files and files[0].is_file() else ""
        checkpoint[STATE] = {"sums": dict(self._sums), "images": self._images, "csv": text}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the sums, and with a log that begins as the one of the run that was stopped."""
        state = checkpoint.get(STATE)
        if state is None:
            return
        self._sums, self._images = dict(state["sums"]), state["images"]
        for log in _csv_logs(trainer) if state["csv"] else ():
            log.experiment.metrics_keys = next(csv.reader(state["csv"].splitlines()))
            _file(log).write_bytes(state["csv"].encode())


def _write(trainer: pl.Trainer, row: dict[str, float]) -> None:
    """One row of the step that was just taken, on the disk at once."""
    for log in trainer.loggers:
        log.log_metrics({**row, "epoch": trainer.current_epoch}, trainer.global_step - 1)
        log.save()


def _csv_logs(trainer: pl.Trainer) -> list[CSVLogger]:
    """The CSV logs that this process writes."""
    return [log for log in trainer.loggers if isinstance(log, CSVLogger)] if trainer.is_global_zero else []


def _file(log: CSVLogger) -> Path:
    return Path(log.log_dir) / "metrics.csv"
