"""The LightningModule of a config: network, loss, metrics and optimiser, in the steps of a training run."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from d2ls.checkpoint import KEY, describe
from d2ls.config import Settings
from d2ls.errors import DataError
from d2ls.metrics import Scores, SegmentationMetrics
from d2ls.optim import resume_schedule


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
