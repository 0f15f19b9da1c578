"""Training run of a config: what is checked first, the Lightning Trainer, how the run ends."""

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import loggers
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console

from d2ls.checkpoint import Checkpoint, load_fitting_weights, load_weights, read_checkpoint
from d2ls.config import Settings
from d2ls.errors import ConfigError, D2LSError, Terminated
from d2ls.memory import keep_freed_memory
from d2ls.report.training_page import TrainingPage
from d2ls.training.callbacks import BestCheckpoint, EpochReport, LossLog, ProgressBar
from d2ls.training.checkpoint_io import LAST, WholeCheckpoints, lock_folder, prepare_folder
from d2ls.training.data_check import LOGS, check_data
from d2ls.training.distributed import SyncBatchNorm, check_devices, ending_together, killed_reader
from d2ls.training.module import SegmentationModule
from d2ls.training.resume import GracefulShutdown, LastCheckpoint, Start, choose_start, is_finished, tidy

PASSED_ON = ("accelerator", "num_nodes", "strategy", "precision", "deterministic", "gradient_clip_val",
             "accumulate_grad_batches", "check_val_every_n_epoch")  # fmt: skip
"""Settings that Lightning's Trainer has under the same names."""
LOGGERS = {"tensorboard": "TensorBoardLogger", "wandb": "WandbLogger", "mlflow": "MLFlowLogger"}
EARLY_STOPPING = "early_stopping"
PATIENCE = 10  # validations without a better score until early stopping by name ends the run
_KNOWN_WARNINGS = (
    # Lightning's own use of torch; and our checkpoints replace older ones on purpose. What is logged is the mean over
    # all processes already; strides of sides of length 1 may differ. Our loaders begin where a run was stopped, and the
    # loss log chooses its interval, both without Lightning's knowing.
    ".*LeafSpec",
    "Checkpoint directory .* exists and is not empty",
    "It is recommended to use `self.log",
    "Grad strides do not match bucket view strides",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "The number of training batches .* is smaller than the logging interval",
)


def train(settings: Settings) -> pl.Trainer:
    """Train as a config says, and leave best and last checkpoint, CSV log and a copy of the config.

    Raises:
        D2LSError: weights, data or settings that cannot be used; says which and what to do.
        KeyboardInterrupt: Ctrl+C, or an interrupt signal.
        Terminated: SIGTERM; the state was saved first, at the next step.
    """
    start = choose_start(settings)
    pl.seed_everything(settings.seed, workers=True)
    torch.set_float32_matmul_precision(settings.float32_matmul_precision)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with _without_noise(), GracefulShutdown() as shutdown:
        trainer = build_trainer(settings, console, start, shutdown)
        notes = check_devices(settings, trainer)
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        if is_finished(settings, start.checkpoint):
            _tell(trainer, settings, start, notes, console)
            return trainer
        notes += check_data(settings)  # before weights are fetched
        notes += initial_weights(settings, start.checkpoint)
        folder = Path(settings.weights_path)
        prepare_folder(folder)
        lock = lock_folder(folder) if trainer.is_global_zero else contextlib.nullcontext()
        with lock, _configured_loaders(settings, trainer.strategy.root_device):
            _tell(trainer, settings, start, notes, console)
            _fit(trainer, settings, start.checkpoint, console, shutdown)
    if trainer.is_global_zero:
        _conclude(trainer, settings, console)
    return trainer


def build_trainer(
    settings: Settings, console: Console | None = None, start: Start | None = None,
    shutdown: GracefulShutdown | None = None,
) -> pl.Trainer:  # fmt: skip
    """The Lightning Trainer of a config: devices, precision, logs, checkpoints.

    Tables of scores are printed on the console; without a start, the run starts anew; the shutdown must be entered.
    """
    console, start = console or Console(), start or Start()
    losses, logs = LossLog(), _loggers(settings)
    scored = getattr(getattr(settings.val_dataset, "spec", None), "scored", range(len(settings.classes)))
    page = TrainingPage(settings, Path(logs[0].log_dir or LOGS))
    # What lies in the folder is another run's, unless this one goes on from there.
    anew = start.checkpoint is None or start.checkpoint.path.parent.resolve() != Path(settings.weights_path).resolve()
    callbacks: list[Callback] = [
        losses,
        EpochReport(console, settings.classes, scored, losses, page),
        page,
        ProgressBar(losses),
        *_own_callbacks(settings),
        BestCheckpoint(settings, console, anew=anew),
        LastCheckpoint(settings, shutdown or GracefulShutdown(), own=start.own),
    ]
    len(settings.train_loader)  # refuses too few images for a batch
    passed_on = {name: getattr(settings, name) for name in PASSED_ON}
    try:
        return pl.Trainer(
            **passed_on,
            max_epochs=settings.max_epoch,
            devices=settings.gpus,
            benchmark=not settings.deterministic,
            plugins=_plugins(settings, start.own),
            logger=logs,
            callbacks=callbacks,
            num_sanity_val_steps=1,  # a broken validation set is found before the first epoch, not after it
            use_distributed_sampler=False,  # the loaders' own samplers know the processes
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in {"gpus": settings.gpus, **passed_on}.items())
        raise ConfigError(f"Lightning cannot train with {given}: {error}") from error


def initial_weights(settings: Settings, resumed: Checkpoint | None) -> list[str]:
    """Load the weights that training starts from, a checkpoint's, or ImageNet's in the backbone; tells what was not."""
    if resumed is not None:
        load_weights(settings.net, resumed)
    elif settings.pretrained_ckpt_path is not None:
        checkpoint = read_checkpoint(settings.pretrained_ckpt_path)
        if settings.pretrained_partial:
            return [f"{checkpoint.path}: not loaded: {line}" for line in load_fitting_weights(settings.net, checkpoint)]
        load_weights(settings.net, checkpoint)
    elif hasattr(backbone := getattr(settings.net, "backbone", settings.net), "load_pretrained"):
        backbone.load_pretrained()
    return []


def _loggers(settings: Settings) -> list[loggers.Logger]:
    """The CSV log, and those that the config asks for, by name or as Lightning objects."""
    log = loggers.CSVLogger(LOGS, name=settings.log_name)
    found: list[loggers.Logger] = [log]
    for item in dict.fromkeys([*settings.loggers, *["tensorboard"] * settings.tensorboard]):
        if isinstance(item, loggers.Logger):
            found.append(item)
        elif item in LOGGERS:
            options = {"experiment_name" if item == "mlflow" else "name": settings.log_name}
            options |= {"version": log.version} if item == "tensorboard" else {}
            try:
                found.append(getattr(loggers, LOGGERS[item])(save_dir=str(LOGS), **options))
            except ImportError as error:
                raise ConfigError(f"loggers: {item!r} is not installed: {error}") from error
        elif item != "csv":
            known = ", ".join(("csv", *LOGGERS))
            raise ConfigError(f"loggers has {item!r}; expected a logger of Lightning, or a name: {known}.")
    return found


def _own_callbacks(settings: Settings) -> list[Callback]:
    """The callbacks that the config asks for, by name or as Lightning objects."""
    found: list[Callback] = []
    for item in settings.callbacks:
        if isinstance(item, Callback):
            found.append(item)
        elif item == EARLY_STOPPING:
            monitor = "train_loss_epoch" if settings.monitor == "train_loss" else settings.monitor
            at_end = settings.monitor == "train_loss"
            mode = settings.monitor_mode
            found.append(EarlyStopping(monitor, patience=PATIENCE, mode=mode, check_on_train_epoch_end=at_end))
        else:
            raise ConfigError(f"callbacks has {item!r}; expected a callback of Lightning, or {EARLY_STOPPING!r}.")
    return found


def _plugins(settings: Settings, own: bool) -> list[Any]:
    plugins: list[Any] = [WholeCheckpoints(continued=own)]
    if settings.sync_batchnorm:
        plugins.append(SyncBatchNorm())
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # it would answer SIGTERM and SIGUSR1 in its own way
    return plugins


def _tell(trainer: pl.Trainer, settings: Settings, start: Start, notes: list[str], console: Console) -> None:
    if trainer.is_global_zero:
        tidy(settings, start)
        for note in (*notes, *start.notes):
            console.print(note if note.startswith("warning: ") else f"note: {note}")


@contextlib.contextmanager
def _configured_loaders(settings: Settings, device: torch.device) -> Iterator[None]:
    """Let loaders give raw pixels, which the module normalises, in page-locked memory for a GPU."""
    loaders = settings.train_loader, settings.val_loader
    datasets = [loader.dataset for loader in loaders if getattr(loader.dataset, "normalise", None) is True]
    for loader in loaders:
        loader.pin_memory = device.type == "cuda" if settings.pin_memory == "auto" else settings.pin_memory
        if loader.num_workers and settings.prefetch_factor is not None:
            loader.prefetch_factor = settings.prefetch_factor
    for dataset in datasets:
        dataset.normalise = False
    try:
        yield
    finally:
        for dataset in datasets:
            dataset.normalise = True


def _fit(
    trainer: pl.Trainer, settings: Settings, resumed: Checkpoint | None, console: Console, shutdown: GracefulShutdown
) -> None:
    """Run the epochs; an interrupt stays one."""
    module = SegmentationModule.from_settings(settings)
    loaders = settings.train_loader, settings.val_loader
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
        if killed_reader(error) is None:
            raise
        _tell_of_last(trainer, console)
        if shutdown.requested:  # so was the reader, which had only just started
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

    def is_no_advert(record: logging.LogRecord) -> bool:
        return "Tip: For seamless cloud" not in record.getMessage()

    log.addFilter(is_no_advert)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "|".join(_KNOWN_WARNINGS))
            yield
    finally:
        log.removeFilter(is_no_advert)


def _conclude(trainer: pl.Trainer, settings: Settings, console: Console) -> None:
    for saved in trainer.checkpoint_callbacks:
        if isinstance(saved, BestCheckpoint) and saved.best_model_path and saved.best_model_score is not None:
            console.print(f"best {settings.monitor}: {saved.best_model_score:.4f}, in {_short(saved.best_model_path)}")
        elif isinstance(saved, LastCheckpoint) and saved.path is not None:
            console.print(f"last checkpoint: {_short(saved.path)}")
    console.print(f"log, config and report.html: {_short(trainer.loggers[0].log_dir or LOGS)}")


def _short(path: str | Path) -> str:
    """A path relative to the working folder where it lies below it."""
    full = Path(path).resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)
