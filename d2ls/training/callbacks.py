"""Callbacks of a training run: best checkpoints, loss log, a line and a table for each epoch."""

import csv
import math
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from torch import Tensor

from d2ls.checkpoint import BestRecord, write_best
from d2ls.config import Settings
from d2ls.errors import ConfigError, DataError
from d2ls.inference.scores import score_table
from d2ls.metrics import MEANS
from d2ls.report.training_page import TrainingPage
from d2ls.training.checkpoint_io import archive_earlier

LOG_STATE = "log"  # where a checkpoint carries the loss log
MOST_STEPS_BETWEEN_ROWS = 10


class BestCheckpoint(ModelCheckpoint):
    """Keeps the `save_top_k` best checkpoints of the epochs that were validated, and records which one is best.

    A single one is `weights_path/weights_name.ckpt`, and a new best replaces it. `d2ls.checkpoint.read_best` reads the
    record. With `anew`, checkpoints that lie in the folder are those of an earlier run, and are moved aside.
    """

    def __init__(self, settings: Settings, console: Console, *, anew: bool = True) -> None:
        single = settings.save_top_k in (0, 1)
        self._settings, self._console, self._anew = settings, console, anew
        super().__init__(
            dirpath=settings.weights_path,
            filename=settings.weights_name if single else settings.weights_name + "-{epoch}",
            monitor=settings.monitor if settings.monitor != "train_loss" else "train_loss_epoch",
            mode=settings.monitor_mode,
            save_top_k=settings.save_top_k,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Move an earlier run's checkpoints aside; all processes have read by now what they start from."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or not self._anew or not trainer.is_global_zero:
            return
        folder = Path(self._settings.weights_path)
        if moved := archive_earlier(folder, self._settings.weights_name):
            self._console.print(f"note: the checkpoints of an earlier run are now in {moved}")
        write_best(folder, None)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Validate the last epoch, whatever `check_val_every_n_epoch`."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    on_train_start = on_train_epoch_start  # a run may go on inside the last epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Compare, save and record, where there are scores of this epoch."""
        if pl_module.scores is None:
            return
        if not pl_module.scores["confusion"].sum() and str(self.monitor).startswith("val_"):
            raise DataError(
                f"val_dataset: no pixel of the validation images is labelled, so {self.monitor} has no value and "
                f"no checkpoint is the best. Give it masks whose labels are not all ignore_index="
                f"{pl_module.ignore_index}, or choose by monitor='train_loss'."
            )
        before = self.best_model_path, self.best_model_score
        super().on_train_epoch_end(trainer, pl_module)
        path, score = self.best_model_path, self.best_model_score
        if (path, score) != before and path and trainer.is_global_zero:
            number = math.nan if score is None else float(score)
            record = BestRecord(Path(path).name, trainer.current_epoch + 1, str(self.monitor), number)
            write_best(Path(self._settings.weights_path), record)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best ones so far, also where their folder was moved; forget those that are gone."""
        before, now = str(state_dict["dirpath"]), str(self.dirpath)
        moved = {path.replace(before, now, 1): score for path, score in state_dict["best_k_models"].items()}
        kept = {path: score for path, score in moved.items() if Path(path).is_file()}
        ranked = sorted(kept, key=lambda path: float(kept[path]), reverse=self.mode == "max")
        best, worst = (ranked[0], ranked[-1]) if ranked else ("", "")
        last = state_dict["last_model_path"].replace(before, now, 1)
        full = 0 < len(kept) == self.save_top_k
        super().load_state_dict({
            **state_dict, "dirpath": self.dirpath, "last_model_path": last,
            "best_k_models": kept, "best_model_path": best, "best_model_score": kept.get(best),
            "kth_best_model_path": worst if full else "", "kth_value": kept[worst] if full else self.kth_value,
        })  # fmt: skip


class LossLog(Callback):
    """Writes `train_<term>_step` and `lr` every few steps, and `train_<term>_epoch`, the mean over an epoch's images.

    Sums stay on the device between the rows. They are part of each checkpoint, as is the CSV log until then: a run that
    goes on writes the log of one that never stopped. Rows are written before the checkpoint of the same step.
    """

    def __init__(self) -> None:
        self.shown: dict[str, float] = {}  # newest values by name, for the progress bar
        self.means: dict[str, float] = {}  # of the terms over the images of the last epoch
        self.rates: dict[str, float] = {}  # learning rates of the last step by column
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._images = 0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Take over from the module's own logging; write UTF-8 whatever the locale."""
        pl_module.log_terms = False
        for log in _csv_logs(trainer):
            files: Any = type(log.experiment._fs)(skip_instance_cache=True)
            files.open = partial(files.open, encoding="utf-8")
            log.experiment._fs = files

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Log at least one step of an epoch; only now the number of processes that share it is known."""
        steps = min(MOST_STEPS_BETWEEN_ROWS, trainer.num_training_batches)
        trainer.log_every_n_steps = int(steps)  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Forget the epoch before; not called where a run goes on inside an epoch."""
        self._sums, self._images = None, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the learning rates of this step, before a schedule changes them."""
        groups = trainer.optimizers[0].param_groups
        names = ["lr"] if len(groups) == 1 else [f"lr/{group.get('name', at)}" for at, group in enumerate(groups)]
        self.rates = dict(zip(names, (float(group["lr"]) for group in groups), strict=True))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the terms of a batch that was learnt from; they are the same in all processes."""
        terms: Tensor | None = outputs["terms"]
        if terms is None:
            return
        if outputs["names"] != (self._names or outputs["names"]):
            raise ConfigError(f"loss: its terms change from {self._names} to {outputs['names']}; expected the same.")
        self._names = outputs["names"]
        images = len(batch["image"])
        self._images += images
        added = (terms if terms.device.type == "mps" else terms.double()) * images
        self._sums = added if self._sums is None else self._sums.to(added) + added
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if stepped and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values = dict(zip(self._names, terms.tolist(), strict=True))
            self.shown["train_loss"] = values["loss"]
            _write(trainer, {f"train_{name}_step": value for name, value in values.items()} | self.rates)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the scores."""
        if pl_module.scores is not None:
            self.shown |= {f"val_{name}": pl_module.scores[name] for name in MEANS}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the means, and hand them to the other callbacks."""
        pl_module.check_last_loss()
        if not self._images:
            raise DataError(f"no batch of epoch {trainer.current_epoch + 1} had a finite loss: nothing was learnt.")
        self.means = {name: value / self._images for name, value in self._state().items()}
        row = {f"train_{name}_epoch": value for name, value in self.means.items()}
        if pl_module.skipped.allowed:
            row["train_skipped_epoch"] = float(pl_module.skipped.in_epoch)
        pl_module.log_dict(row, logger=False)
        _write(trainer, row)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add sums and log."""
        files = [_file(log) for log in _csv_logs(trainer)]
        text = files[0].read_bytes().decode() if files and files[0].is_file() else ""
        checkpoint[LOG_STATE] = {"sums": self._state(), "images": self._images, "csv": text}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums, and with a log that begins as the one of the run that was stopped."""
        state = checkpoint.get(LOG_STATE)
        if state is None:
            return
        self._names, self._images = tuple(state["sums"]), state["images"]
        self._sums = torch.tensor([*state["sums"].values()], dtype=torch.float64) if state["sums"] else None
        for log in _csv_logs(trainer) if state["csv"] else ():
            log.experiment.metrics_keys = next(csv.reader(state["csv"].splitlines()))
            _file(log).write_bytes(state["csv"].encode())

    def _state(self) -> dict[str, float]:
        return {} if self._sums is None else dict(zip(self._names, self._sums.tolist(), strict=True))


class EpochReport(Callback):
    """One line an epoch where the output is no terminal, and a table of class scores after each validation."""

    def __init__(
        self, console: Console, classes: Sequence[str], scored: Collection[int], losses: LossLog, page: TrainingPage
    ) -> None:
        self.console, self.classes, self.scored, self._losses, self._page = console, classes, scored, losses, page
        self._images, self._epochs, self._began = 0, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of this process."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images."""
        self._images += len(batch["image"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the line and the table of the epoch."""
        self._epochs += 1
        if trainer.is_global_zero and not (self.console.is_terminal and sys.stderr.isatty()):
            self.console.print(self._line(trainer, pl_module.scores or {}))
        self._images = 0
        if trainer.is_global_zero and pl_module.scores is not None:
            title = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            title += f", training loss {self._losses.means['loss']:.4f}"
            self.console.print(score_table(pl_module.scores["confusion"], self.classes, self.scored, title))

    def _line(self, trainer: Trainer, scores: Mapping[str, Any]) -> str:
        means, seconds = self._losses.means, self._page.seconds
        terms = ", ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "loss")
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in self._losses.rates.items())
        speed = self._images / max(seconds["loading"] + seconds["training"], 1e-9)
        to_do = (trainer.max_epochs or 0) - trainer.current_epoch - 1
        left = timedelta(seconds=round((time.perf_counter() - self._began) / self._epochs * to_do))
        shown = "".join(f", val_{name} {100 * scores[name]:.2f} %" for name in MEANS if name in scores)
        return (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: loss {means['loss']:.4f}"
            f"{f' ({terms})' if terms else ''}{shown}, {rates}, {speed:.1f} images/s, {left} left"
        )


class ProgressBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1 and with values that the loss log has read already."""

    def __init__(self, losses: LossLog) -> None:
        super().__init__()
        self._losses = losses

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        """The newest values; reading them does not wait for the device."""
        return dict(self._losses.shown)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}".ljust(len(self.validation_description))


def _write(trainer: Trainer, row: dict[str, float]) -> None:
    """One row of the step that was just taken, on the disk at once."""
    for log in trainer.loggers:
        log.log_metrics({**row, "epoch": trainer.current_epoch}, trainer.global_step - 1)
        log.save()


def _csv_logs(trainer: Trainer) -> list[CSVLogger]:
    """The CSV logs that this process writes."""
    return [log for log in trainer.loggers if isinstance(log, CSVLogger)] if trainer.is_global_zero else []


def _file(log: CSVLogger) -> Path:
    return Path(log.log_dir) / "metrics.csv"
