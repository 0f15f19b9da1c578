"""Training: the LightningModule of a config, and its Trainer."""

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console
from torch import Tensor

from d2ls.callbacks import LAST, BestCheckpoint, ConfigCopy, LastCheckpoint, ScoreTable
from d2ls.checkpoint import KEY, Checkpoint, describe, load_weights, read_checkpoint
from d2ls.config import Settings
from d2ls.errors import ConfigError, DataError
from d2ls.metrics import Scores, SegmentationMetrics
from d2ls.optim import resume_schedule

LOGS = Path("lightning_logs")
DEVICE_SETTINGS = ("accelerator", "gpus", "num_nodes", "strategy", "precision", "deterministic")


class SegmentationModule(pl.LightningModule):
    """Network, loss, metrics and optimiser of a config, in the steps of a training run.

    Args:
        settings: a config as `load_config` read it.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.net: torch.nn.Module = settings.net.to(memory_format=self.memory_format)
        self.loss: torch.nn.Module = settings.loss
        self.spec = getattr(settings.val_dataset, "spec", None)
        scored = None if self.spec is None else self.spec.scored
        self.metrics = SegmentationMetrics(settings.num_classes, settings.ignore_index, scored)
        self.scores: Scores | None = None  # of this epoch's validation

    def forward(self, image: Tensor) -> Any:
        """What the network makes of an image batch (B, 3, H, W)."""
        return self.net(image.contiguous(memory_format=self.memory_format))

    def on_train_epoch_start(self) -> None:
        """Forget the scores of the epoch before; the last epoch is always validated."""
        self.scores = None
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed each step by its place, so that a resumed run drops the paths that an uninterrupted one would."""
        place = (self.settings.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """The total loss of a batch; each term is logged as `train_<term>`."""
        terms = self.loss(self(batch["image"]), batch["mask"])
        if not torch.isfinite(terms["loss"]):
            found = ", ".join(f"{name}={term.item():.4g}" for name, term in terms.items())
            raise DataError(
                f"the loss is not finite in step {self.global_step} ({found}); the batch holds "
                f"{', '.join(batch['path'])}. Look at these files; a lower lr or gradient_clip_val=1 may help."
            )
        logged = {f"train_{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_step=True, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))
        return terms["loss"]

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Count the pixels of a batch by true and predicted class."""
        if "mask" not in batch:
            raise DataError(f"{batch['path'][0]}: a validation image without a mask cannot be scored.")
        logits = self(batch["image"])
        loss = self.loss(logits, batch["mask"])["loss"]
        self.log("val_loss", loss, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))
        self.metrics.update(logits, batch["mask"])

    def on_validation_epoch_end(self) -> None:
        """Log mIoU, mean F1 and OA, and the IoU of each class, over all processes together."""
        self.scores = self.metrics.compute()
        self.metrics.reset()
        means = {f"val_{name}": self.scores[name] for name in ("mIoU", "F1", "OA")}
        self.log_dict(means, prog_bar=True, sync_dist=True)
        iou = self.scores["per_class"]["IoU"].tolist()
        by_class = {f"val_IoU/{name}": value for name, value in zip(self.settings.classes, iou, strict=True)}
        self.log_dict(by_class, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule of the config; the schedule moves once an epoch."""
        chosen: dict[str, Any] = {"optimizer": self.settings.optimizer}
        if self.settings.lr_scheduler is not None:
            chosen["lr_scheduler"] = {"scheduler": self.settings.lr_scheduler, "interval": "epoch"}
        return chosen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a resumed run follow the learning rates, weight decay and length that the config has now."""
        resume_schedule(
            self.settings.optimizer, self.settings.lr_scheduler, checkpoint["optimizer_states"][0],
            next(iter(checkpoint["lr_schedulers"]), None),
        )  # fmt: skip

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the network without the config: constructor arguments, classes, colours, scored classes."""
        checkpoint[KEY] = describe(self.net, self.spec)


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
