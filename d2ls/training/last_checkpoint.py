"""The newest state of a run on the disk: when it is saved, and how a process ends that is told to."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from d2ls.config import Settings
from d2ls.data.loaders import begins_anywhere
from d2ls.errors import Terminated
from d2ls.training.resume import own_last
from d2ls.training.termination import Termination


class LastCheckpoint(Checkpoint):
    """Saves every epoch, every N steps if asked for, and where the process is told to end.

    A state inside an epoch is saved between two steps, when no gradients are held, or in the validation, which is then
    run from its start again.

    Args:
        settings: of the run; with `save_last=False` nothing is saved, and the process just ends where it is told to.
        termination: what tells it to end.

    Attributes:
        path: the file; None where nothing is saved.
        saved: what it holds, in words; empty until this process has saved.
    """

    def __init__(self, settings: Settings, termination: Termination) -> None:
        self.path = own_last(settings) if settings.save_last else None
        self.saved = ""
        self._steps = settings.save_every_n_steps
        self._inside = begins_anywhere(settings.train_loader)
        self._termination = termination
        self._common_batches = 0  # of the validation, on every process

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear of the end; Lightning has just set up handlers of its own."""
        self._termination.listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear of the end, where there was no sanity check."""
        self._termination.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save or end between two steps; behind the last one of an epoch, its validation comes first."""
        if not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._save_or_end(trainer, due=self._is_due(trainer))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save or end behind the last step of an epoch."""
        if not trainer.sanity_checking:
            batches = torch.tensor(int(min(sum(trainer.num_val_batches), 2**31)), device=pl_module.device)
            self._common_batches = int(trainer.strategy.reduce(batches, reduce_op="min"))
            self._save_or_end(trainer, due=self._is_due(trainer))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """End inside a validation."""
        if not trainer.sanity_checking and batch_idx < self._common_batches:
            self._save_or_end(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a whole epoch; end, unless it was the last one."""
        self._save(trainer, "the last whole epoch")
        if trainer.current_epoch + 1 != trainer.max_epochs and self._is_told(trainer):
            raise Terminated

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let Lightning take a state inside the validation for one in its first batch, so that it runs all of it."""
        if trainer.validating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["total"].update(ready=1, started=1, processed=0, completed=0)
            progress["current"].update(ready=1, started=1, processed=0, completed=0)
            progress["is_last_batch"] = False

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return self._steps > 0 and trainer.global_step % self._steps == 0

    def _save_or_end(self, trainer: pl.Trainer, *, due: bool = False) -> None:
        told = self._is_told(trainer)
        if self._inside and (due or told):
            self._save(trainer, f"epoch {trainer.current_epoch + 1} as far as it was")
        if told:
            raise Terminated

    def _is_told(self, trainer: pl.Trainer) -> bool:
        """Whether any process is told to end; it waits for all of them."""
        return trainer.strategy.reduce_boolean_decision(self._termination.asked, all=False)

    def _save(self, trainer: pl.Trainer, content: str) -> None:
        if self.path is not None:
            trainer.save_checkpoint(self.path, weights_only=False)
            self.saved = content
