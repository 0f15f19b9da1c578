"""The LightningModule of a config: network, loss, metrics and optimiser, in the steps of a training run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torchmetrics import SumMetric

from d2ls.checkpoint import KEY, describe, position_of
from d2ls.config import Settings
from d2ls.distributed import average
from d2ls.errors import ConfigError, DataError
from d2ls.metrics import Scores, SegmentationMetrics
from d2ls.optim import resume_schedule
from d2ls.training.resume import begin_loader, position
from d2ls.training.skipped import SkippedBatches


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
        if settings.checkpoint_backbone:
            _checkpoint_backbone(self.net)
        if settings.compile:
            self.net.compile()
        self.loss: torch.nn.Module = settings.loss
        self.spec = getattr(settings.val_dataset, "spec", None)
        scored = None if self.spec is None else self.spec.scored
        self.metrics = SegmentationMetrics(settings.num_classes, settings.ignore_index, scored)
        # Not torchmetrics' MeanMetric: where it lets NaN pass, it leaves out the weights.
        self.val_losses, self.val_images = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
        self.scores: Scores | None = None  # of this epoch's validation
        self.skipped = SkippedBatches(settings.max_skipped_batches)
        self._left_out = False  # whether a batch of this step was

    def setup(self, stage: str) -> None:
        """Log at least one step of an epoch; only now the number of processes that share it is known."""
        self.trainer.log_every_n_steps = min(10, len(self.settings.train_loader))  # type: ignore[attr-defined]

    def forward(self, image: Tensor) -> Any:
        """What the network makes of an image batch (B, 3, H, W)."""
        return self.net(image.contiguous(memory_format=self.memory_format))

    def on_train_start(self) -> None:
        """See to the last epoch where a run goes on inside it."""
        self._validate_last_epoch()

    def on_train_epoch_start(self) -> None:
        """Forget the epoch before."""
        self.scores, self.skipped.in_epoch = None, 0
        self._validate_last_epoch()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed each step by its place, so that a resumed run drops the paths that an uninterrupted one would."""
        place = (self.settings.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        """The total loss of a batch as "loss", and the mean of each term over the processes as "terms".

        A batch whose loss is not finite has no terms and no gradients; too many of them are an error.
        """
        terms = self.loss(self(batch["image"]), batch["mask"])
        # One exchange for all terms: every process learns of a loss that is not finite, and none is left waiting.
        means = average(torch.stack([term.detach() for term in terms.values()])).tolist()
        logged = dict(zip(terms, means, strict=True))
        self.log("train_loss", logged["loss"], on_step=True, on_epoch=False, prog_bar=True, logger=False)
        if math.isfinite(logged["loss"]):
            return {"loss": terms["loss"], "terms": logged}
        folder = Path(self.logger.log_dir) if self.logger is not None and self.logger.log_dir else None
        self.skipped.add(folder, self.current_epoch, self.global_step, terms, batch["path"])
        self._left_out = True
        return {"loss": sum(parameter.sum() * 0 for parameter in self.parameters()), "terms": {}}

    def on_after_backward(self) -> None:
        """Name parameters without a gradient in the first step: DDP would wait for it and fail in the second."""
        strategy = self.settings.strategy
        if self.global_step or not isinstance(self.trainer.strategy, DDPStrategy) or strategy.endswith("_true"):
            return
        if unused := [name for name, p in self.named_parameters() if p.requires_grad and p.grad is None]:
            raise ConfigError(
                f"strategy={strategy!r}: {len(unused)} parameters have no gradient (first: {unused[0]}). Leave them "
                "out of the network, freeze them with requires_grad_(False), or set "
                "strategy='ddp_find_unused_parameters_true', which is slower."
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leave the weights as they are where every batch of the step was left out."""
        if self._left_out and not any(p.grad is not None and p.grad.any() for p in self.parameters()):
            self.zero_grad(set_to_none=True)  # a gradient of 0 would let momentum and decay move them
        self._left_out = False

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Count the pixels of a batch by true and predicted class."""
        if "mask" not in batch:
            raise DataError(f"{batch['path'][0]}: a validation image without a mask cannot be scored.")
        mask, images = batch["mask"], len(batch["image"])
        if getattr(getattr(self.settings.val_loader, "sampler", None), "is_padding", False):
            mask, images = torch.full_like(mask, self.settings.ignore_index), 0
        logits = self(batch["image"])
        self.val_losses.update(self.loss(logits, mask)["loss"] * images)
        self.val_images.update(images)
        self.metrics.update(logits, mask)

    def on_validation_epoch_end(self) -> None:
        """Log mIoU, mean F1 and OA, and the IoU of each class, over all processes together."""
        self.scores = self.metrics.compute()
        self.metrics.reset()
        self.log("val_loss", self.val_losses.compute() / self.val_images.compute(), sync_dist=True)
        self.val_losses.reset()
        self.val_images.reset()
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
        """Let a run that goes on follow the learning rates, weight decay and length that the config has now."""
        resume_schedule(
            self.settings.optimizer, self.settings.lr_scheduler, checkpoint["optimizer_states"][0],
            next(iter(checkpoint["lr_schedulers"]), None),
        )  # fmt: skip
        begin_loader(self.settings.train_loader, position_of(checkpoint))
        self.skipped.in_epoch, self.skipped.in_run = checkpoint[KEY].get("skipped", (0, 0))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the network without the config (arguments, classes, colours), and how far the run is."""
        checkpoint[KEY] = describe(self.net, self.spec) | {
            "position": position(self.trainer, self.settings.train_loader),
            "skipped": [self.skipped.in_epoch, self.skipped.in_run],
        }

    def _validate_last_epoch(self) -> None:
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1


def _checkpoint_backbone(net: torch.nn.Module) -> None:
    checkpoint = getattr(getattr(net, "backbone", None), "checkpoint_gradients", None)
    if checkpoint is None:
        raise ConfigError(
            f"checkpoint_backbone=True: a {type(net).__name__} has no backbone of ours. Set checkpoint_backbone=False."
        )
    checkpoint()
