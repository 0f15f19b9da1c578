"""What a training run leaves behind after its epochs: checkpoints, a copy of the config, a table of scores."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from rich.console import Console

from d2ls.config import Settings
from d2ls.inference.scores import score_table
from d2ls.metrics import Scores


class BestCheckpoint(ModelCheckpoint):
    """Keeps the `save_top_k` best checkpoints of the epochs that were validated.

    A single one is `weights_path/weights_name.ckpt`, and a new best replaces it.
    """

    def __init__(self, settings: Settings) -> None:
        single = settings.save_top_k in (0, 1)
        super().__init__(
            dirpath=settings.weights_path,
            filename=settings.weights_name if single else settings.weights_name + "-{epoch}",
            monitor=settings.monitor if settings.monitor != "train_loss" else "train_loss_epoch",
            mode=settings.monitor_mode,
            save_top_k=settings.save_top_k,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and save, where there are scores of this epoch."""
        if _scores_of(pl_module) is not None:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best ones so far, also where their folder was moved."""
        before, now = str(state_dict["dirpath"]), str(self.dirpath)
        paths = {name: state_dict[name].replace(before, now, 1) for name in state_dict if name.endswith("_model_path")}
        kept = {path.replace(before, now, 1): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": kept, "dirpath": self.dirpath})


class ScoreTable(Callback):
    """After each epoch with a validation, a table of class scores on the terminal."""

    def __init__(self, console: Console, classes: Sequence[str], scored: Collection[int]) -> None:
        self.console, self.classes, self.scored = console, classes, scored

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the scores of the epoch."""
        scores = _scores_of(pl_module)
        if scores is None or not trainer.is_global_zero:
            return
        title = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        title += f", training loss {trainer.callback_metrics['train_loss_epoch']:.4f}"
        self.console.print(score_table(scores["confusion"], self.classes, self.scored, title))


class ConfigCopy(Callback):
    """Keeps the config as it runs, overrides included, beside the log."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write `config.py` into the log folder: a config file that repeats the run."""
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        changed = " ".join(f"{name}={value!r}" for name, value in self.settings.overrides.items())
        header = f"# {self.settings.path}" + (f" with {changed}" if changed else "") + "\n"
        (self.folder / "config.py").write_text(header + self.settings.source + "\n", encoding="utf-8")


def _scores_of(module: pl.LightningModule) -> Scores | None:
    """Scores of this epoch; None where it was not validated."""
    return getattr(module, "scores", None)
