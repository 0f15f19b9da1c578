"""Where a training run starts: anew, or where an earlier one was stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from d2ls.checkpoint import Checkpoint, read_checkpoint
from d2ls.config import Settings
from d2ls.data.loaders import begins_anywhere
from d2ls.errors import CheckpointError, ConfigError
from d2ls.training.checkpoint_io import LAST, clear_leftovers, previous_of, set_aside


@dataclass
class Start:
    """What a run starts from.

    Attributes:
        checkpoint: what it goes on from; None: it starts anew.
        own: whether that is its own last checkpoint (or the one before it).
        notes: what the user should know, one line each.
        unreadable: checkpoints that were passed over.
    """

    checkpoint: Checkpoint | None = None
    own: bool = False
    notes: list[str] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def choose_start(settings: Settings) -> Start:
    """Find what the settings `resume_ckpt_path` and `auto_resume` ask for; nothing on the disk is changed.

    A checkpoint that cannot be read is passed over for the one before it, with a note; but not one that was named by
    its path.

    Raises:
        ConfigError: there is no such checkpoint, or it cannot be gone on from.
        CheckpointError: none can be read.
    """
    given = settings.resume_ckpt_path
    path = own_last(settings)
    if given == LAST or (settings.auto_resume and (path.exists() or previous_of(path).exists())):
        start = _from_own(settings, path)
    elif given is not None:
        start = Start(_read_named(settings, Path(given)))
    else:
        return Start(notes=[f"auto_resume: no checkpoint {path}; the run starts anew"] if settings.auto_resume else [])
    assert start.checkpoint is not None
    _check(settings, start.checkpoint, "auto_resume=True" if given is None else f"resume_ckpt_path={given!r}")
    start.notes.append(_describe(settings, start.checkpoint))
    return start


def own_last(settings: Settings) -> Path:
    """The newest checkpoint that a run of these settings writes."""
    return Path(settings.weights_path) / f"{LAST}.ckpt"


def tidy(settings: Settings, start: Start) -> None:
    """Clear away what killed writers left, and set aside unreadable checkpoints; for the first process alone."""
    clear_leftovers(Path(settings.weights_path))
    for path in start.unreadable:
        start.notes.append(f"{path} is now {set_aside(path).name}")


def is_finished(settings: Settings, checkpoint: Checkpoint | None) -> bool:
    """Whether a run that goes on from a checkpoint has nothing left to do."""
    return checkpoint is not None and checkpoint.epochs == settings.max_epoch


def position(trainer: pl.Trainer, loader: DataLoader[Any]) -> dict[str, Any]:
    """How far a run is, in plain values for its checkpoint.

    Returns:
        "epochs", finished ones; "batches" of the next that are behind it; "order", what these batches depend on (None
        where the loader cannot begin inside an epoch).
    """
    progress: Any = trainer.fit_loop.epoch_progress.current
    inside = progress.started > progress.processed
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready if inside else 0
    return {"epochs": progress.processed, "batches": batches, "order": _order(loader)}


def begin_loader(loader: DataLoader[Any], behind: dict[str, Any]) -> None:
    """Let a loader begin where a run was stopped: a `position` of `behind`.

    Raises:
        ConfigError: the run was stopped inside an epoch whose rest would be another one today.
    """
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


def _order(loader: DataLoader[Any]) -> dict[str, int] | None:
    sampler: Any = loader.sampler
    return sampler.order() if begins_anywhere(loader) else None


def _from_own(settings: Settings, path: Path) -> Start:
    """The run's last checkpoint, or the one before it."""
    start = Start(own=True)
    there = [file for file in (path, previous_of(path)) if file.is_file()]
    if not there:
        raise ConfigError(f"resume_ckpt_path={settings.resume_ckpt_path!r}: no checkpoint {path}.")
    for file in there:
        try:
            start.checkpoint = read_checkpoint(file)
        except CheckpointError as error:
            start.unreadable.append(file)
            start.notes.append(f"warning: {error}")
        else:
            if file != path:
                start.notes.append(f"warning: going on from the checkpoint before it, {file}")
            return start
    raise CheckpointError(
        " ".join(note.removeprefix("warning: ") for note in start.notes)
        + f" Remove {', '.join(file.name for file in there)} from {path.parent} to start anew."
    )


def _read_named(settings: Settings, path: Path) -> Checkpoint:
    if not path.is_file():
        raise ConfigError(f"resume_ckpt_path={settings.resume_ckpt_path!r}: no checkpoint {path}.")
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        others = [file for file in (previous_of(path), own_last(settings)) if file.is_file() and file != path]
        if not others:
            raise
        raise CheckpointError(f"{error} There is also {' and '.join(map(str, others))}.") from error


def _check(settings: Settings, checkpoint: Checkpoint, asked: str) -> None:
    if checkpoint.epochs is None:
        raise ConfigError(
            f"{asked}: {checkpoint.path} holds weights, but not the state of a training run. "
            "To start from its weights, set pretrained_ckpt_path."
        )
    if checkpoint.epochs > settings.max_epoch or (is_finished(settings, checkpoint) and checkpoint.batches):
        raise ConfigError(
            f"{asked}: {checkpoint.path} has {checkpoint.epochs} epochs behind it, more than "
            f"max_epoch={settings.max_epoch}. Raise max_epoch to train on."
        )


def _describe(settings: Settings, checkpoint: Checkpoint) -> str:
    if is_finished(settings, checkpoint):
        return f"{checkpoint.path}: all {settings.max_epoch} epochs are done already. Raise max_epoch to train on."
    epoch = f"epoch {(checkpoint.epochs or 0) + 1} of {settings.max_epoch}"
    inside = f", behind its first {checkpoint.batches} batches" if checkpoint.batches else ""
    return f"going on with {epoch}{inside}, from {checkpoint.path}"
