"""Training: the LightningModule of a config, its Trainer, and the table of scores after each epoch."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor

from d2ls.checkpoint import KEY, describe, load_weights, read_checkpoint
from d2ls.config import Settings
from d2ls.errors import ConfigError, DataError
from d2ls.metrics import Scores, SegmentationMetrics

LOGS = Path("lightning_logs")


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
        self.scores: Scores | None = None  # of the last validation

    def forward(self, image: Tensor) -> Any:
        """What the network makes of an image batch (B, 3, H, W)."""
        return self.net(image.contiguous(memory_format=self.memory_format))

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """The total loss of a batch; each term is logged as `train_<term>`."""
        terms = self.loss(self(batch["image"]), batch["mask"])
        if not torch.isfinite(terms["loss"]):
            found = ", ".join(f"{name}={term.item():.4g}" for name, term in terms.items())
            raise DataError(
                f"the loss is not finite in step {self.global_step} ({found}); the batch holds "
                f"{', '.join(batch['name'])}. Look at these files; a lower lr or gradient_clip_val=1 may help."
            )
        logged = {f"train_{name}": term.detach() for name, term in terms.items()}
        self.log_dict(logged, on_step=True, on_epoch=True, batch_size=len(batch["image"]))
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
        self.log_dict(means, prog_bar=True)
        iou = self.scores["per_class"]["IoU"].tolist()
        self.log_dict({f"val_IoU/{name}": value for name, value in zip(self.settings.classes, iou, strict=True)})

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule of the config; the schedule moves once an epoch."""
        chosen: dict[str, Any] = {"optimizer": self.settings.optimizer}
        if self.settings.lr_scheduler is not None:
            chosen["lr_scheduler"] = {"scheduler": self.settings.lr_scheduler, "interval": "epoch"}
        return chosen

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the network without the config: constructor arguments, classes, colours, scored classes."""
        checkpoint[KEY] = describe(self.net, self.spec)


class ScoreTable(Callback):
    """After each validation, a table of class scores on the terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the scores of the epoch."""
        if isinstance(pl_module, SegmentationModule) and trainer.is_global_zero and not trainer.sanity_checking:
            title = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            loss = trainer.callback_metrics.get("train_loss_epoch", trainer.callback_metrics.get("train_loss"))
            if loss is not None:
                title += f", training loss {loss:.4f}"
            if pl_module.scores is not None:
                spec = pl_module.spec
                scored = range(pl_module.settings.num_classes) if spec is None else spec.scored
                self.console.print(score_table(pl_module.scores, pl_module.settings.classes, scored, title))


class ConfigCopy(Callback):
    """Keeps the config as it runs, overrides included, beside the log."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write `config.py` into the log folder: a config file that repeats the run."""
        if not trainer.is_global_zero:
            return
        folder = Path(str(trainer.log_dir))
        folder.mkdir(parents=True, exist_ok=True)
        changed = " ".join(f"{name}={value!r}" for name, value in self.settings.overrides.items())
        header = f"# {self.settings.path}" + (f" with {changed}" if changed else "") + "\n"
        (folder / "config.py").write_text(header + self.settings.source + "\n", encoding="utf-8")


def score_table(scores: Scores, classes: Any, scored: Any, title: str) -> Table:
    """Scores in percent, one row a class and the means below; classes outside the means are marked."""
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for name in ("IoU", "F1", "precision", "recall", "pixels"):
        table.add_column(name, justify="right")
    per_class = scores["per_class"]
    for index, name in enumerate(classes):
        values = [f"{100 * per_class[key][index]:.2f}" for key in ("IoU", "F1", "precision", "recall")]
        table.add_row(name if index in scored else f"{name} (not scored)", *values, f"{per_class['pixels'][index]:,}")
    table.add_section()
    table.add_row(
        "mean", f"{100 * scores['mIoU']:.2f}", f"{100 * scores['F1']:.2f}", "", f"OA {100 * scores['OA']:.2f}", ""
    )
    return table


def train(settings: Settings) -> pl.Trainer:
    """Train as a config says, and leave best and last checkpoint, CSV log and a copy of the config.

    Raises:
        D2LSError: weights, data or settings that cannot be used; says which and what to do.
    """
    resume = _resume_path(settings)
    pl.seed_everything(settings.seed, workers=True)
    _initial_weights(settings, resume)
    console = Console()
    module = SegmentationModule(settings)
    trainer = build_trainer(settings, console)
    trainer.fit(module, settings.train_loader, settings.val_loader, ckpt_path=resume, weights_only=True)
    if trainer.is_global_zero:
        _conclude(trainer, settings, console)
    return trainer


def build_trainer(settings: Settings, console: Console | None = None) -> pl.Trainer:
    """The Lightning Trainer of a config: devices, precision, logs, checkpoints."""
    console = console or Console()
    loggers: list[Logger] = [CSVLogger(LOGS, name=settings.log_name)]
    if settings.tensorboard:
        loggers.append(TensorBoardLogger(LOGS, name=settings.log_name, version=loggers[0].version))
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
        callbacks=[_checkpoints(settings), ConfigCopy(settings), ScoreTable(console), RichProgressBar()],
        log_every_n_steps=10,
        num_sanity_val_steps=1,  # a broken validation set is found before the first epoch, not after it
        use_distributed_sampler=False,  # the loaders' own samplers know the processes
        enable_model_summary=False,
    )


def _checkpoints(settings: Settings) -> ModelCheckpoint:
    single = settings.save_top_k in (0, 1)
    return ModelCheckpoint(
        dirpath=settings.weights_path,
        filename=settings.weights_name if single else settings.weights_name + "-{epoch}",
        monitor=settings.monitor if settings.monitor != "train_loss" else "train_loss_epoch",
        mode=settings.monitor_mode,
        save_top_k=settings.save_top_k,
        save_last=settings.save_last,
        enable_version_counter=False,  # a new best replaces the old file
    )


def _resume_path(settings: Settings) -> Path | None:
    """The checkpoint that the run continues; "last" is the run's own."""
    if settings.resume_ckpt_path is None:
        return None
    own = settings.resume_ckpt_path == "last"
    path = Path(settings.weights_path) / "last.ckpt" if own else Path(settings.resume_ckpt_path)
    if not path.is_file():
        raise ConfigError(f"resume_ckpt_path={settings.resume_ckpt_path!r}: no checkpoint {path}.")
    return path


def _initial_weights(settings: Settings, resume: Path | None) -> None:
    """Weights that training starts from: a checkpoint's, or ImageNet's in the backbone."""
    backbone = getattr(settings.net, "backbone", None)
    if settings.pretrained_ckpt_path is not None:
        load_weights(settings.net, read_checkpoint(settings.pretrained_ckpt_path))
    elif resume is not None:
        load_weights(settings.net, read_checkpoint(resume))
    elif backbone is not None and hasattr(backbone, "load_pretrained"):
        backbone.load_pretrained()


def _conclude(trainer: pl.Trainer, settings: Settings, console: Console) -> None:
    saved = trainer.checkpoint_callback
    if isinstance(saved, ModelCheckpoint):
        if saved.best_model_path and saved.best_model_score is not None:
            console.print(f"best {settings.monitor}: {saved.best_model_score:.4f}, in {_short(saved.best_model_path)}")
        if saved.last_model_path:
            console.print(f"last checkpoint: {_short(saved.last_model_path)}")
    console.print(f"log and config: {_short(str(trainer.log_dir))}")


def _short(path: str) -> str:
    """A path relative to the working folder where it lies below it."""
    full = Path(path).resolve()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)
