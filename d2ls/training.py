"""Training: the Trainer of a config, and what stands around its run."""

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console

from d2ls.callbacks import LAST, BestCheckpoint, ConfigCopy, LastCheckpoint, ScoreTable
from d2ls.checkpoint import Checkpoint, load_weights, read_checkpoint
from d2ls.config import Settings
from d2ls.errors import ConfigError
from d2ls.module import SegmentationModule

LOGS = Path("lightning_logs")
DEVICE_SETTINGS = ("accelerator", "gpus", "num_nodes", "strategy", "precision", "deterministic")


def train(settings: Settings) -> pl.Trainer:
    """Train as a config says, and leave best and last checkpoint, CSV log and a copy of the config.

    Raises:
        D2LSError: weights, data or settings that cannot be used; says which and what to do.
        KeyboardInterrupt: Ctrl+C, or an interrupt signal.
    """
    resumed = _resumed(settings)
    pl.seed_everything(settings.seed, workers=True)
    _initial_weights(settings, resumed)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    module = SegmentationModule(settings)
    with _without_noise():
        trainer = build_trainer(settings, console)
        if resumed is None and (best := Path(settings.weights_path) / f"{settings.weights_name}.ckpt").exists():
            console.print(f"note: {_short(best)} of an earlier run will be replaced")
        _fit(trainer, module, resumed, console)
    if trainer.is_global_zero:
        _conclude(trainer, settings, console)
    return trainer


def build_trainer(settings: Settings, console: Console | None = None) -> pl.Trainer:
    """The Lightning Trainer of a config: devices, precision, logs, checkpoints.

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
        ScoreTable(console or Console(), classes, scored),
        RichProgressBar(),
        BestCheckpoint(settings),
        *([LastCheckpoint(settings)] if settings.save_last else []),
    ]
    batches = len(settings.train_loader)
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
            logger=loggers,
            callbacks=callbacks,
            log_every_n_steps=min(10, batches),
            num_sanity_val_steps=1,  # a broken validation set is found before the first epoch, not after it
            use_distributed_sampler=False,  # the loaders' own samplers know the processes
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        given = ", ".join(f"{name}={getattr(settings, name)!r}" for name in DEVICE_SETTINGS)
        raise ConfigError(f"Lightning cannot train with {given}: {error}") from error


def _resumed(settings: Settings) -> Checkpoint | None:
    """The checkpoint that the run continues; "last" is the run's own."""
    given = settings.resume_ckpt_path
    if given is None:
        return None
    path = Path(settings.weights_path) / f"{LAST}.ckpt" if given == LAST else Path(given)
    if not path.is_file():
        raise ConfigError(f"resume_ckpt_path={given!r}: no checkpoint {path}.")
    checkpoint = read_checkpoint(path)
    if checkpoint.epochs is None:
        raise ConfigError(
            f"resume_ckpt_path={given!r}: {path} holds weights, but not the state of a training run. "
            "To start from its weights, set pretrained_ckpt_path."
        )
    if checkpoint.epochs > settings.max_epoch:
        raise ConfigError(
            f"resume_ckpt_path={given!r}: {path} has {checkpoint.epochs} epochs behind it, more than "
            f"max_epoch={settings.max_epoch}. Raise max_epoch to train on."
        )
    return checkpoint


def _initial_weights(settings: Settings, resumed: Checkpoint | None) -> None:
    """Weights that training starts from: a checkpoint's, or ImageNet's in the backbone."""
    if resumed is not None:
        load_weights(settings.net, resumed)
    elif settings.pretrained_ckpt_path is not None:
        load_weights(settings.net, read_checkpoint(settings.pretrained_ckpt_path))
    elif hasattr(backbone := getattr(settings.net, "backbone", settings.net), "load_pretrained"):
        backbone.load_pretrained()


def _fit(trainer: pl.Trainer, module: SegmentationModule, resumed: Checkpoint | None, console: Console) -> None:
    """Run the epochs; an interrupt stays one."""
    loaders = module.settings.train_loader, module.settings.val_loader
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, *loaders, ckpt_path=None if resumed is None else resumed.path, weights_only=True)
    except SystemExit as end:
        if not trainer.interrupted:
            raise
        # Lightning answers Ctrl+C by switching it off and leaving with exit code 1.
        signal.signal(signal.SIGINT, handler)
        for saved in trainer.checkpoint_callbacks:
            if isinstance(saved, LastCheckpoint) and saved.best_model_path and trainer.is_global_zero:
                console.print(f"{_short(saved.best_model_path)} holds the last whole epoch: resume_ckpt_path={LAST}")
        raise KeyboardInterrupt from end


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Keep from the terminal what a user can do nothing about."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    log.addFilter(_is_no_advert)
    try:
        with warnings.catch_warnings():
            # Lightning's own use of torch; and our checkpoints replace older ones on purpose.
            for message in (".*LeafSpec", "Checkpoint directory .* exists and is not empty"):
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
        elif isinstance(saved, LastCheckpoint) and saved.best_model_path:
            console.print(f"last checkpoint: {_short(saved.best_model_path)}")
    console.print(f"log and config: {_short(trainer.loggers[0].log_dir or LOGS)}")


def _short(path: str | Path) -> str:
    """A path relative to the working folder where it lies below it."""
    full = Path(path).resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)
