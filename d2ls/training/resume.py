"""Start, last checkpoint and graceful end of a run: what lets it go on where it was stopped."""

import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Checkpoint as CheckpointCallback
from torch.utils.data import DataLoader

from d2ls.checkpoint import KEY, Checkpoint, position_of, read_checkpoint
from d2ls.config import Settings
from d2ls.data.loaders import begins_anywhere
from d2ls.errors import CheckpointError, ConfigError, Terminated
from d2ls.training.checkpoint_io import LAST, WholeCheckpoints, clear_leftovers, previous_of, quarantine


@dataclass
class Start:
    """Start of a run: anew, or from a checkpoint."""

    checkpoint: Checkpoint | None = None  # the one that it goes on from
    own: bool = False  # whether that is its own last one, or the one before it
    notes: list[str] = field(default_factory=list)  # for the user, one line each
    unreadable: list[Path] = field(default_factory=list)  # checkpoints that were passed over


def choose_start(settings: Settings) -> Start:
    """Find what the settings `resume_ckpt_path` and `auto_resume` ask for; nothing on the disk is changed.

    A checkpoint that cannot be read is passed over for the one before it, unless it was named by its path.
    """
    given, last = settings.resume_ckpt_path, own_last(settings)
    own = given == LAST or (settings.auto_resume and (last.exists() or previous_of(last).exists()))
    if given is None and not own:
        return Start(notes=[f"auto_resume: no checkpoint {last}; the run starts anew"] if settings.auto_resume else [])
    start, path = Start(own=own), last if own else Path(given)
    there = [file for file in ((path, previous_of(path)) if own else (path,)) if file.is_file()]
    if not there:
        raise ConfigError(f"resume_ckpt_path={given!r}: no checkpoint {path}.")
    start.checkpoint = _first_readable(start, there)
    if start.checkpoint is None:
        told = " ".join(note.removeprefix("warning: ") for note in start.notes)
        if own:
            names = ", ".join(file.name for file in there)
            raise CheckpointError(f"{told} Remove {names} from {path.parent} to start anew.")
        others = [str(file) for file in (previous_of(path), last) if file.is_file() and file != path]
        raise CheckpointError(f"{told} There is also {' and '.join(others)}." if others else told)
    if start.checkpoint.path != path:
        start.notes.append(f"warning: going on from the checkpoint before it, {start.checkpoint.path}")
    asked = "auto_resume=True" if given is None else f"resume_ckpt_path={given!r}"
    start.notes.append(_check(settings, start.checkpoint, asked))
    return start


def own_last(settings: Settings) -> Path:
    """The newest checkpoint that a run of these settings writes."""
    return Path(settings.weights_path) / f"{LAST}.ckpt"


def tidy(settings: Settings, start: Start) -> None:
    """Clear away what killed writers left, and quarantine unreadable checkpoints; for the first process alone."""
    clear_leftovers(Path(settings.weights_path))
    for path in start.unreadable:
        start.notes.append(f"{path} is now {quarantine(path).name}")


def is_finished(settings: Settings, checkpoint: Checkpoint | None) -> bool:
    """Whether a run that goes on from a checkpoint has nothing left to do."""
    return checkpoint is not None and checkpoint.epochs == settings.max_epoch


def begin_loader(loader: DataLoader[Any], behind: dict[str, Any]) -> None:
    """Let a loader begin at the position where a run was stopped, unless the rest of the epoch would be another."""
    sampler: Any = loader.sampler
    if not behind["batches"]:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(behind["epochs"])
        return
    found = _order(loader)
    if found != behind["order"] or found is None:
        raise ConfigError(
            f"the checkpoint stands inside an epoch, behind {behind['batches']} batches, of a training set in the "
            f"order of {behind['order']}; the config has {found}. Set seed, train_batch_size and gpus as they were, "
            "or go on from the end of an epoch (the best checkpoint)."
        )
    sampler.begin_at(behind["epochs"], behind["batches"])


class GracefulShutdown:
    """Defers SIGTERM to the end of the step: `requested` says that it came; all processes must agree on the end."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGTERM)
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._handle(self._before or signal.SIG_DFL)

    def listen(self) -> None:
        """Take the signal, from whoever has taken it since."""
        self._handle(lambda *_: setattr(self, "requested", True))

    def _handle(self, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class LastCheckpoint(CheckpointCallback):
    """Saves every epoch, every N steps if asked for, before the first validation, and at the end on SIGTERM.

    A state inside an epoch is saved between two steps, when no gradients are held, or in the validation, which is then
    run from its start again. `own` tells that the run goes on from its own last checkpoint.
    """

    def __init__(self, settings: Settings, shutdown: GracefulShutdown, *, own: bool = False) -> None:
        self.path = own_last(settings) if settings.save_last else None  # None: nothing is saved, SIGTERM just ends
        self.saved = ""  # its content in words; empty until this process has saved
        self._loader, self._steps = settings.train_loader, settings.save_every_n_steps
        self._shutdown, self._own = shutdown, own
        self._inside = begins_anywhere(settings.train_loader)
        self._common_batches = 0  # of the validation, on every process

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Listen; Lightning has just set up handlers of its own."""
        self._shutdown.listen()

    on_sanity_check_start = on_train_start

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save or end between two steps; behind the last one of an epoch, its validation comes first."""
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = self._is_due(trainer)
        if due or trainer.world_size == 1 or trainer.global_step % every == 0:
            self._save_or_end(trainer, due=due)  # asking all processes waits for the devices

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Save or end behind the last step of an epoch; always save before a run's first validation."""
        if trainer.sanity_checking:
            return
        batches = torch.tensor(int(min(sum(trainer.num_val_batches), 2**31)), device=pl_module.device)
        self._common_batches = int(trainer.strategy.reduce(batches, reduce_op="min"))
        first = not self.saved and not self._own
        self._save_or_end(trainer, due=self._is_due(trainer) or first)
        if first and isinstance(io := trainer.strategy.checkpoint_io, WholeCheckpoints):
            io.keep_none()  # the end of the epoch replaces it

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """End inside a validation."""
        if not trainer.sanity_checking and batch_idx < self._common_batches:
            self._save_or_end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save a whole epoch; end, unless it was the last one."""
        self._save(trainer, "the last whole epoch")
        if trainer.current_epoch + 1 != trainer.max_epochs and self._is_requested(trainer):
            raise Terminated

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Let the training loader begin where the run was stopped."""
        begin_loader(self._loader, position_of(checkpoint))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the position, see `position_of`, and let Lightning run all of a validation that it was saved in."""
        epoch: Any = trainer.fit_loop.epoch_progress.current
        inside = epoch.started > epoch.processed
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready if inside else 0
        position = {"epochs": epoch.processed, "batches": batches, "order": _order(self._loader)}
        checkpoint[KEY] = checkpoint.get(KEY, {}) | {"position": position}
        if trainer.validating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for count in ("total", "current"):
                progress[count].update(ready=1, started=1, processed=0, completed=0)
            progress["is_last_batch"] = False

    def _is_due(self, trainer: Trainer) -> bool:
        return self._steps > 0 and trainer.global_step % self._steps == 0

    def _save_or_end(self, trainer: Trainer, *, due: bool = False) -> None:
        requested = self._is_requested(trainer)
        if self._inside and (due or requested):
            self._save(trainer, f"epoch {trainer.current_epoch + 1} as far as it was")
        if requested:
            raise Terminated

    def _is_requested(self, trainer: Trainer) -> bool:
        """Whether the end is requested of any process; it waits for all of them."""
        return trainer.strategy.reduce_boolean_decision(self._shutdown.requested, all=False)

    def _save(self, trainer: Trainer, content: str) -> None:
        if self.path is not None:
            trainer.save_checkpoint(self.path, weights_only=False)
            self.saved = content


def _order(loader: DataLoader[Any]) -> dict[str, int] | None:
    """What decides the order of an epoch; None where the loader cannot begin inside one."""
    sampler: Any = loader.sampler
    return sampler.order() if begins_anywhere(loader) else None


def _first_readable(start: Start, paths: list[Path]) -> Checkpoint | None:
    for path in paths:
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            start.unreadable.append(path)
            start.notes.append(f"warning: {error}")
    return None


def _check(settings: Settings, checkpoint: Checkpoint, asked: str) -> str:
    """Refuse a checkpoint that the run cannot go on from; gives a note on where it goes on."""
    path, epochs = checkpoint.path, checkpoint.epochs
    if epochs is None:
        raise ConfigError(
            f"{asked}: {path} holds weights, but not the state of a training run. "
            "To start from its weights, set pretrained_ckpt_path."
        )
    if epochs > settings.max_epoch or (epochs == settings.max_epoch and checkpoint.batches):
        raise ConfigError(
            f"{asked}: {path} has {epochs} epochs behind it, more than max_epoch={settings.max_epoch}. "
            "Raise max_epoch to train on."
        )
    if is_finished(settings, checkpoint):
        return f"{path}: all {settings.max_epoch} epochs are done already. Raise max_epoch to train on."
    inside = f", behind its first {checkpoint.batches} batches" if checkpoint.batches else ""
    return f"going on with epoch {epochs + 1} of {settings.max_epoch}{inside}, from {path}"
