"""The LightningModule: network, loss, optimiser and schedule in the steps of a training run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import SumMetric

from d2ls.checkpoint import KEY, describe
from d2ls.config import Settings
from d2ls.data.spec import IMAGENET_MEAN, IMAGENET_STD, DatasetSpec
from d2ls.distributed import average
from d2ls.errors import ConfigError, D2LSError, DataError
from d2ls.inference.sliding_window import Windows, segment_images
from d2ls.metrics import MEANS, Scores, SegmentationMetrics
from d2ls.models import DynamicDictionaryLearning
from d2ls.optim import resume_schedule
from d2ls.training.distributed import is_lost_connection, killed_reader
from d2ls.training.non_finite import SkippedBatches, StepLoss


class SegmentationModule(pl.LightningModule):
    """Network, loss, metrics and optimiser of a segmentation run, for `d2ls.training.trainer` or any `pl.Trainer`.

    Batches are dicts of "image" (B, bands, H, W), float and normalised, or of an integer type (normalised here),
    "mask" (B, H, W) of any integer type, and "path", the names of the images for messages.

    Logged: `train_<term>` of each loss term (unless `log_terms` is False), `val_loss`, `val_mIoU`, `val_F1`, `val_OA`
    and `val_IoU/<class>`.

    Args:
        net: images to logits (B, K, H, W) in evaluation; in training to whatever `loss` takes.
        loss: `loss(net(image), mask)` gives a scalar, or a dict of scalars of which "loss" is the total.
        optimizer: over the parameters of `net`.
        lr_scheduler: schedule of that optimiser; `ReduceLROnPlateau` follows `monitor`.
        spec: the data set's classes; or give `classes` and `ignore_index`.
        classes: class names, in index order.
        ignore_index: label of the pixels that count in no loss and no score.
        lr_scheduler_interval: "epoch" or "step": when the schedule moves.
        monitor: score that `ReduceLROnPlateau` follows.
        seed: seeds each step by its epoch and number, so that resumed runs repeat exactly; None does not seed.
        max_skipped_batches: batches of an epoch that may be left out for a loss that is not finite. Above 0, each step
            waits for the device.
        channels_last: keep images and maps in NHWC memory order.
        windows: validation images are segmented in blended windows of this size; None: whole.

    Raises:
        ConfigError: neither `spec` nor both of `classes` and `ignore_index` are given.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler | None = None,
        *,
        spec: DatasetSpec | None = None,
        classes: Sequence[str] | None = None,
        ignore_index: int | None = None,
        lr_scheduler_interval: str = "epoch",
        monitor: str = "val_mIoU",
        seed: int | None = None,
        max_skipped_batches: int = 0,
        channels_last: bool = False,
        windows: Windows | None = None,
    ) -> None:
        super().__init__()
        if spec is not None:
            classes, ignore_index = classes or spec.classes, spec.ignore_index if ignore_index is None else ignore_index
        if classes is None or ignore_index is None:
            raise ConfigError("SegmentationModule: give spec=, a DatasetSpec, or both classes= and ignore_index=.")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net: nn.Module = net.to(memory_format=self.memory_format)
        self.loss = loss
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.interval, self.monitor, self.seed, self.windows = lr_scheduler_interval, monitor, seed, windows
        self.spec, self.classes, self.ignore_index = spec, tuple(classes), ignore_index
        self.metrics = SegmentationMetrics(len(classes), ignore_index, None if spec is None else spec.scored)
        # Not torchmetrics' MeanMetric: where it lets NaN pass, it leaves out the weights.
        self.val_losses, self.val_images = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
        self.scores: Scores | None = None  # of this epoch's validation
        self.skipped = SkippedBatches(max_skipped_batches)
        self.train_size: int | None = None  # largest side of the training samples so far
        self.log_terms = True  # switched off by callbacks that log them in another way
        self._unchecked: StepLoss | None = None
        self._left_out = False  # whether a batch of this optimiser step was
        if spec is not None and spec.std:
            scale, offset = spec.scale_and_offset()
        else:
            std = 255 * np.array(IMAGENET_STD)
            scale, offset = (x.astype(np.float32) for x in (1 / std, -255 * np.array(IMAGENET_MEAN) / std))
        self.register_buffer("scale", torch.from_numpy(scale)[:, None, None], persistent=False)
        self.register_buffer("offset", torch.from_numpy(offset)[:, None, None], persistent=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> "SegmentationModule":
        """The module of a config.

        Raises:
            ConfigError: `checkpoint_backbone` or `memory_efficient` with a network that cannot do it.
        """
        net = settings.net
        if settings.checkpoint_backbone:
            checkpoint = getattr(getattr(net, "backbone", None), "checkpoint_gradients", None)
            if checkpoint is None:
                raise ConfigError(
                    f"checkpoint_backbone=True: a {type(net).__name__} has no backbone of ours. Set it to False."
                )
            checkpoint()
        if settings.memory_efficient != "auto":
            if not isinstance(net, DynamicDictionaryLearning):
                raise ConfigError(
                    f"memory_efficient={settings.memory_efficient!r}: a {type(net).__name__} has one decoder only. "
                    "Leave this setting out."
                )
            net.set_memory_efficient(settings.memory_efficient)
        if settings.compile:
            net.compile()
        side = settings.test_window
        return cls(
            net, settings.loss, settings.optimizer, settings.lr_scheduler,
            spec=getattr(settings.val_dataset, "spec", None), classes=settings.classes,
            ignore_index=settings.ignore_index, lr_scheduler_interval=settings.lr_scheduler_interval,
            monitor=settings.monitor, seed=settings.seed, max_skipped_batches=settings.max_skipped_batches,
            channels_last=settings.channels_last, windows=side and Windows(side, side, settings.test_overlap),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Any:
        """The network's output for normalised images (B, bands, H, W)."""
        return self.net(image.contiguous(memory_format=self.memory_format))

    def on_after_batch_transfer(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        """Normalise raw images and widen masks on the device: both travel in their files' type."""
        changed = dict(batch)
        if not batch["image"].is_floating_point():
            changed["image"] = batch["image"].float() * self.scale + self.offset
        if "mask" in batch:
            changed["mask"] = batch["mask"].long()
        return changed

    def on_train_epoch_start(self) -> None:
        """Forget the epoch before."""
        self.scores, self.skipped.in_epoch = None, 0

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed each step by its position, so that a resumed run drops the paths that an uninterrupted one would."""
        if self.seed is not None:
            position = (self.seed, self.current_epoch, batch_idx, self.global_rank)
            torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        """One batch; nothing here waits for the device unless batches may be skipped.

        Returns:
            "loss", the total with its graph; "terms", the mean of each term over the processes, (T,) on the device,
            None where the batch is left out; "names" of the terms.
        """
        self.check_last_loss()
        if "mask" not in batch:
            raise DataError(f"{batch['path'][0]}: no mask; training needs one for each image.")
        self.train_size = max(self.train_size or 1, *batch["image"].shape[-2:])
        terms = self._named(_call("loss", self.loss, _call("net", self, batch["image"]), batch["mask"]))
        own = torch.stack([term.detach().float() for term in terms.values()])
        # One exchange: every process learns of a loss that is not finite, and none is left waiting.
        means = average(own)
        position = self.current_epoch, self.global_step
        step = StepLoss(tuple(terms), means, own, *position, list(batch.get("path", ())))
        if self.skipped.allowed and not step.is_finite():
            self.skipped.add(self._log_folder(), step)
            self._left_out = True
            return {"loss": sum(parameter.sum() * 0 for parameter in self.parameters()), "terms": None, "names": ()}
        self._unchecked = step
        if not terms["loss"].requires_grad:
            self.check_last_loss()
            raise ConfigError("loss: its value does not depend on the parameters of net: nothing can be learnt.")
        if self.log_terms:
            named = {f"train_{name}": value for name, value in zip(terms, means, strict=True)}
            self.log_dict(named, on_step=True, on_epoch=True, batch_size=len(batch["image"]))
        return {"loss": terms["loss"], "terms": means, "names": tuple(terms)}

    def check_last_loss(self) -> None:
        """Refuse the loss of the step before if it was not finite; read this late, it keeps no step waiting.

        Raises:
            DataError: it was not; names the images.
        """
        step, self._unchecked = self._unchecked, None
        if step is not None and not step.is_finite():
            self.skipped.add(self._log_folder(), step)

    on_validation_start = on_train_epoch_end = check_last_loss

    def on_after_backward(self) -> None:
        """Name parameters without a gradient in the first step: DDP would wait for it and fail in the second."""
        strategy = self.trainer.strategy
        finds_them = getattr(strategy.model, "find_unused_parameters", False)
        if self.global_step or not isinstance(strategy, DDPStrategy) or finds_them:
            return
        if unused := [name for name, p in self.named_parameters() if p.requires_grad and p.grad is None]:
            raise ConfigError(
                f"strategy='ddp': {len(unused)} parameters have no gradient (first: {unused[0]}). Leave them "
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
        if getattr(getattr(self.trainer.val_dataloaders, "sampler", None), "is_padding", False):
            mask, images = torch.full_like(mask, self.ignore_index), 0
        logits = _call("net", self._segment, batch["image"])
        if not isinstance(logits, Tensor) or logits.shape[:2] != (len(mask), len(self.classes)):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(
                f"net gives {found} in evaluation; expected logits (B, K, H, W) with B={len(mask)} images and "
                f"K={len(self.classes)} classes."
            )
        self.val_losses.update(self._named(_call("loss", self.loss, logits, mask))["loss"] * images)
        self.val_images.update(images)
        self.metrics.update(logits, mask)

    def on_validation_epoch_end(self) -> None:
        """Log mIoU, mean F1 and OA, and the IoU of each class, over all processes together."""
        scores = self.scores = self.metrics.compute()
        loss = self.val_losses.compute() / self.val_images.compute()
        for metric in (self.metrics, self.val_losses, self.val_images):
            metric.reset()
        means = {f"val_{name}": scores[name] for name in MEANS}
        iou = scores["per_class"]["IoU"].tolist()
        by_class = {f"val_IoU/{name}": value for name, value in zip(self.classes, iou, strict=True)}
        self.log_dict(means, prog_bar=True, sync_dist=True)
        self.log_dict({"val_loss": loss, **by_class}, sync_dist=True)
        in_training = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        if in_training and isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step({**means, "val_loss": loss.item()}[self.monitor])

    def configure_optimizers(self) -> Any:
        """Optimiser, with fused kernels on CUDA, and schedule."""
        if self.device.type == "cuda":
            for group in self.optimizer.param_groups:
                if group.get("fused", True) is None and not group.get("foreach") and not group.get("differentiable"):
                    group["fused"] = True
        if self.lr_scheduler is None:
            return self.optimizer
        schedule: dict[str, Any] = {"scheduler": self.lr_scheduler, "interval": self.interval}
        total, steps = getattr(self.lr_scheduler, "total_steps", None), self.trainer.estimated_stepping_batches
        if self.interval == "step" and total not in (None, steps):
            raise ConfigError(
                f"lr_scheduler: it ends after total_steps={total}, the run has {steps} steps. Set total_steps={steps}."
            )
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            if not self.monitor.startswith("val_"):
                raise ConfigError(f"lr_scheduler: ReduceLROnPlateau needs a val_ score; monitor={self.monitor!r}.")
            schedule |= {"interval": "epoch", "monitor": self.monitor, "strict": False}
        return {"optimizer": self.optimizer, "lr_scheduler": schedule}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Move the schedule; ReduceLROnPlateau has moved with the validation, before checkpoints are written."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a run that goes on follow the learning rates, weight decay and length that it is given now."""
        schedules = checkpoint["lr_schedulers"]
        state = checkpoint["optimizer_states"][0]
        resume_schedule(self.optimizer, self.lr_scheduler, state, next(iter(schedules), None))
        carried = checkpoint.get(KEY, {})
        self.skipped.in_epoch, self.skipped.in_run = carried.get("skipped", (0, 0))
        self.train_size = carried.get("train_size")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds and runs the network without its config: arguments, classes, size of the samples."""
        self.check_last_loss()
        own = {"skipped": [self.skipped.in_epoch, self.skipped.in_run]}
        checkpoint[KEY] = checkpoint.get(KEY, {}) | describe(self.net, self.spec, self.train_size) | own

    def _segment(self, images: Tensor) -> Any:
        """Logits of validation images (B, bands, H, W), as the test scripts make them."""
        return self(images) if self.windows is None else segment_images(self, images, self.windows, len(images))

    def _named(self, value: Any) -> dict[str, Tensor]:
        """The loss's scalars by name."""
        terms = {"loss": value} if isinstance(value, Tensor) else value
        if not isinstance(terms, Mapping) or "loss" not in terms:
            found = sorted(terms) if isinstance(terms, Mapping) else type(value).__name__
            raise ConfigError(f"loss gives {found}; expected a scalar, or a dict of scalars with the total as 'loss'.")
        if wrong := [name for name, term in terms.items() if not isinstance(term, Tensor) or term.numel() != 1]:
            found = getattr(terms[wrong[0]], "shape", type(terms[wrong[0]]).__name__)
            raise ConfigError(f"loss: {wrong[0]!r} is {found}; expected a scalar tensor. Reduce it, e.g. by its mean.")
        return {name: term.reshape(()) for name, term in terms.items()}

    def _log_folder(self) -> Path | None:
        folder = self.logger.log_dir if self.logger is not None else None
        return Path(folder) if folder else None


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the config's net or loss; what they raise on their input becomes one message."""
    try:
        return function(*arguments)
    except D2LSError:
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or is_lost_connection(error) or killed_reader(error):
            raise
        shapes = " and ".join(str(tuple(a.shape)) if isinstance(a, Tensor) else type(a).__name__ for a in arguments)
        raise ConfigError(
            f"{name} fails on {shapes}: {type(error).__name__}: {error}. docs/configs.md says what {name} must take "
            "and give; --debug shows where it happens."
        ) from error
