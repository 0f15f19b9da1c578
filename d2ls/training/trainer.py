"""Training: the Trainer of a config, and what stands around its run."""

import contextlib
import logging
import re
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console

from d2ls.checkpoint import Checkpoint, load_weights, read_checkpoint
from d2ls.config import Settings
from d2ls.errors import ConfigError, D2LSError, Terminated
from d2ls.memory import keep_freed_memory
from d2ls.report.training_page import TrainingPage
from d2ls.training.callbacks import BestCheckpoint, ConfigCopy, ScoreTable
from d2ls.training.checkpoint_io import LAST, WholeCheckpoints, prepare_folder
from d2ls.training.devices import SyncBatchNorm, check_devices, ending_together
from d2ls.training.labels_check import check_labels
from d2ls.training.last_checkpoint import LastCheckpoint
from d2ls.training.loss_log import LossLog
from d2ls.training.module import SegmentationModule
from d2ls.training.resume import Start, choose_start, is_finished, tidy
from d2ls.training.termination import Termination

LOGS = Path("lightning_logs")
DEVICE_SETTINGS = ("accelerator", "gpus", "num_nodes", "strategy", "precision", "sync_batchnorm", "deterministic")


def train(settings: Settings) -> pl.Trainer:
    """Train as a config says, and leave best and last checkpoint, CSV log and a copy of the config.

    Raises:
        D2LSError: weights, data or settings that cannot be used; says which and what to do.
        KeyboardInterrupt: Ctrl+C, or an interrupt signal.
        Terminated: SIGTERM; the state was saved first, at the next step.
    """
    start = choose_start(settings)
    pl.seed_everything(settings.seed, workers=True)
    initial_weights(settings, start.checkpoint)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with _without_noise(), Termination() as termination:
        trainer = build_trainer(settings, console, continued=start.own, termination=termination)
        notes = check_devices(settings, trainer)
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        if trainer.is_global_zero:
            _tell(settings, start, notes, console)
        if is_finished(settings, start.checkpoint):
            return trainer
        check_labels(settings)
        prepare_folder(Path(settings.weights_path))
        _fit(trainer, SegmentationModule(settings), start.checkpoint, console, termination)
    if trainer.is_global_zero:
        _conclude(trainer, settings, console)
    return trainer


def build_trainer(
    settings: Settings,
    console: Console | None = None,
    *,
    continued: bool = False,
    termination: Termination | None = None,
) -> pl.Trainer:
    """The Lightning Trainer of a config: devices, precision, logs, checkpoints.

    Args:
        settings: a config as `load_config` read it.
        console: where tables of scores are printed.
        continued: whether the run goes on from its own last checkpoint.
        termination: tells the run to end; it must be entered.

    Raises:
        ConfigError: devices, strategy or precision that Lightning refuses.
        DataError: no training data, or too few for a batch.
    """
    log = CSVLogger(LOGS, name=settings.log_name)
    loggers: list[Logger] = [log]
    if settings.tensorboard:
        loggers.append(TensorBoardLogger(LOGS, name=settings.log_name, version=log.version))
    classes = settings.classes
    scored = getattr(getattr(settings.val_dataset, "spec", None), "scored", range(len(classes)))
    callbacks: list[Callback] = [
        ConfigCopy(settings, Path(log.log_dir)),
        LossLog(),
        ScoreTable(console or Console(), classes, scored),
        TrainingPage(settings, Path(log.log_dir)),
        RichProgressBar(),
        BestCheckpoint(settings),
        LastCheckpoint(settings, termination or Termination()),
    ]
    len(settings.train_loader)  # refuses too few images for a batch
    try:
        return pl.Trainer(
            max_epochs=settings.max_epoch,
            accelerator=settings.accelerator,
            devices=settings.gpus,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=settings.precision,
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            check_val_every_n_epoch=settings.check_val_every_n_epoch,
            deterministic=settings.deterministic,
            benchmark=not settings.deterministic,
            plugins=_plugins(settings, continued),
            logger=loggers,
            callbacks=callbacks,
            num_sanity_val_steps=1,  # a broken validation set is found before the first epoch, not after it
            use_distributed_sampler=False,  # the loaders' own samplers know the processes
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        given = ", ".join(f"{name}={getattr(settings, name)!r}" for name in DEVICE_SETTINGS)
        raise ConfigError(f"Lightning cannot train with {given}: {error}") from error


def initial_weights(settings: Settings, resumed: Checkpoint | None) -> None:
    """Weights that training starts from: a checkpoint's, or ImageNet's in the backbone."""
    if resumed is not None:
        load_weights(settings.net, resumed)
    elif settings.pretrained_ckpt_path is not None:
        load_weights(settings.net, read_checkpoint(settings.pretrained_ckpt_path))
    elif hasattr(backbone := getattr(settings.net, "backbone", settings.net), "load_pretrained"):
        backbone.load_pretrained()


def _plugins(settings: Settings, continued: bool) -> list[Any]:
    plugins: list[Any] = [WholeCheckpoints(continued=continued)]
    if settings.sync_batchnorm:
        plugins.append(SyncBatchNorm())
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # it would answer SIGTERM and SIGUSR1 in its own way
    return plugins


def _tell(settings: Settings, start: Start, notes: list[str], console: Console) -> None:
    """Clear the way for a run, and say what it starts from."""
    tidy(settings, start)
    best = Path(settings.weights_path) / f"{settings.weights_name}.ckpt"
    if start.checkpoint is None and best.exists():
        notes.append(f"{_short(best)} of an earlier run will be replaced")
    for note in (*notes, *start.notes):
        console.print(note if note.startswith("warning: ") else f"note: {note}")


def _fit(
    trainer: pl.Trainer,
    module: SegmentationModule,
    resumed: Checkpoint | None,
    console: Console,
    termination: Termination,
) -> None:
    """Run the epochs; an interrupt stays one."""
    loaders = module.settings.train_loader, module.settings.val_loader
    handler = signal.getsignal(signal.SIGINT)
    try:
        with ending_together(trainer):
            trainer.fit(module, *loaders, ckpt_path=None if resumed is None else resumed.path, weights_only=True)
    except (Terminated, SIGTERMException) as end:
        _tell_of_last(trainer, console)
        raise Terminated from end
    except SystemExit as end:
        if not trainer.interrupted:
            raise
        # Lightning answers Ctrl+C by switching it off and leaving with exit code 1.
        signal.signal(signal.SIGINT, handler)
        _tell_of_last(trainer, console)
        raise KeyboardInterrupt from end
    except RuntimeError as error:
        if not re.search(r"DataLoader worker \(pid", str(error)):
            raise
        _tell_of_last(trainer, console)
        if termination.asked:  # so was the reader, which had only just started
            raise Terminated from error
        raise D2LSError(
            f"a process that reads images was killed ({str(error).splitlines()[0].strip()}). Mostly the memory ran "
            "out: a smaller num_workers needs less. auto_resume=True goes on from the last checkpoint."
        ) from error


def _tell_of_last(trainer: pl.Trainer, console: Console) -> None:
    for saved in trainer.checkpoint_callbacks if trainer.is_global_zero else ():
        if isinstance(saved, LastCheckpoint) and saved.path is not None and saved.saved:
            console.print(f"{_short(saved.path)} holds {saved.saved}: resume_ckpt_path={LAST}")


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Keep from the terminal what a user can do nothing about."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    log.addFilter(_is_no_advert)
    try:
        with warnings.catch_warnings():
            # Lightning's own use of torch; and our checkpoints replace older ones on purpose.
            # What is logged is the mean over all processes already; strides of sides of length 1 may differ. Our
            # loaders begin where a run was stopped, without Lightning's knowing.
            known = (
                ".*LeafSpec",
                "Checkpoint directory .* exists and is not empty",
                "It is recommended to use `self.log",
                "Grad strides do not match bucket view strides",
                "You're resuming from a checkpoint that ended before the epoch ended",
            )
            for message in known:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        log.removeFilter(_is_no_advert)


def _is_no_advert(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def _conclude(trainer: pl.Trainer, settings: Settings, console: Console) -> None:
    for saved in trainer.checkpoint_callbacks:
        if isinstance(saved, BestCheckpoint) and saved.best_model_path and saved.best_model_score is not None:
            console.print(f"best {settings.monitor}: {saved.best_model_score:.4f}, in {_short(saved.best_model_path)}")
        elif isinstance(saved, LastCheckpoint) and saved.path is not None:
            console.print(f"last checkpoint: {_short(saved.path)}")
    console.print(f"log and config: {_short(trainer.loggers[0].log_dir or LOGS)}")


def _short(path: str | Path) -> str:
    """A path relative to the working folder where it lies below it."""
    full = Path(path).resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)
