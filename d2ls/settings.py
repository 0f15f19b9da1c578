"""Settings of a config: names (GeoSeg's where it has them), types, defaults, contradictions; imports no torch."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from d2ls.errors import ConfigError

PROTOCOLS = ("strict", "published")
MATMUL_PRECISIONS = ("highest", "high", "medium")
MONITORS = ("val_mIoU", "val_F1", "val_OA", "val_loss", "train_loss")


@dataclass(frozen=True)
class Setting:
    """A name that a config may set."""

    types: tuple[type, ...]  # of its value; empty for an object that a config builds
    default: Any  # its value where a config leaves it out
    help: str  # one line for the command line
    required: bool = False
    config_only: bool = False  # whether only the config itself reads it

    @property
    def simple(self) -> bool:
        """Whether it can be given on a command line."""
        return bool(self.types)


_NONE = type(None)
_for_config = partial(Setting, config_only=True)

SETTINGS: dict[str, Setting] = {
    "max_epoch": Setting((int,), None, "epochs", required=True),
    "train_batch_size": _for_config((int,), 1, "training samples of a step, on each process"),
    "val_batch_size": Setting((int,), 1, "validation images of a batch, on each process"),
    "lr": _for_config((float,), None, "learning rate of the decoder, and of the backbone without backbone_lr"),
    "weight_decay": _for_config((float,), 0.01, "AdamW's weight decay"),
    "backbone_lr": _for_config((float, _NONE), None, "learning rate of the backbone"),
    "backbone_weight_decay": _for_config((float, _NONE), None, "weight decay of the backbone"),
    "dictionary_lr": _for_config((float, _NONE), None, "learning rate of the dictionary"),
    "lookahead_alpha": _for_config((float,), 0.5, "share of the way that Lookahead's slow weights go; 1: AdamW alone"),
    "ignore_index": Setting((int,), None, "label of pixels that count in no loss and no score", required=True),
    "num_classes": Setting((int,), None, "number of classes", required=True),
    "classes": Setting((tuple, list), None, "class names", required=True),
    "weights_name": Setting((str,), "d2ls", "name of the best checkpoint's file, without .ckpt"),
    "weights_path": Setting((str,), None, "folder of checkpoints", required=True),
    "test_weights_name": Setting((str,), "last", "checkpoint that the test scripts take, without .ckpt"),
    "test_window": Setting(
        (int, _NONE), None, "side in pixels of the windows of validation and test images; None: whole"
    ),
    "test_overlap": Setting((float,), 0.25, "share of a test window that its neighbour covers too, 0 to 0.9"),
    "log_name": Setting((str,), None, "log folder below lightning_logs", required=True),
    "monitor": Setting((str,), "val_mIoU", f"score that decides which checkpoint is best: {', '.join(MONITORS)}"),
    "monitor_mode": Setting((str,), "max", "max or min"),
    "save_top_k": Setting((int,), 1, "how many best checkpoints to keep; -1 all"),
    "save_last": Setting((bool,), True, "keep the last checkpoint too"),
    "save_every_n_steps": Setting((int,), 0, "steps between saves of the last checkpoint; 0: at epochs' ends only"),
    "check_val_every_n_epoch": Setting((int,), 1, "epochs from one validation to the next"),
    "pretrained_ckpt_path": Setting((str, _NONE), None, "checkpoint whose weights training starts from"),
    "pretrained_partial": Setting((bool,), False, "load the tensors of pretrained_ckpt_path that fit; list the rest"),
    "resume_ckpt_path": Setting((str, _NONE), None, 'checkpoint of a run to continue; "last": its own last one'),
    "auto_resume": Setting((bool,), False, "go on from this run's own last checkpoint if there is one"),
    "gpus": Setting((int, str, list, tuple), "auto", "number of devices, a list of them, or auto"),
    "num_nodes": Setting((int,), 1, "number of machines"),
    "strategy": Setting((str,), "auto", "Lightning's strategy, such as ddp"),
    "accelerator": Setting((str,), "auto", "Lightning's accelerator: auto, cpu, gpu, mps"),
    "precision": Setting((str, int), "32-true", "Lightning's precision: 32-true, bf16-mixed, 16-mixed"),
    "sync_batchnorm": Setting((bool,), False, "normalise batches over all processes together; on GPUs only"),
    "deterministic": Setting((bool, str), "warn", "repeatable kernels: True, False or warn"),
    "seed": Setting((int,), 42, "decides initial weights, order of samples and augmentation"),
    "accumulate_grad_batches": Setting((int,), 1, "batches whose gradients make one step"),
    "gradient_clip_val": Setting((float, _NONE), None, "largest norm of the gradient"),
    "max_skipped_batches": Setting((int,), 0, "batches of an epoch that may be left out for a loss that is not finite"),
    "allow_missing_classes": Setting((bool,), False, "train although no training mask holds some class"),
    "class_weights": Setting((str, tuple, list, _NONE), None, "weights of the loss; balanced: by the classes' pixels"),
    "sampler": Setting((str, _NONE), None, "rare_classes: images with much of a class of few pixels come more often"),
    "extra_losses": _for_config((dict,), {}, 'factors of further loss terms, {"focal": 1.0, "lovasz": 0.5}'),
    "auxiliary_weight": _for_config((float,), 0.4, "factor of the loss of the static dictionary's logits"),
    "use_aux_loss": _for_config((bool,), True, "train on the static dictionary's logits too"),
    "backbone": _for_config((str,), None, "timm model name"),
    "pretrained": _for_config((bool, str), False, "False, True (timm's), torchvision (the paper's) or a weight file"),
    "dictionary": _for_config((str,), "dynamic", "dynamic, or an ablation: static, ones, zeros"),
    "num_entries": _for_config((int, _NONE), None, "entries of the dictionary; None: one for each class"),
    "stages": _for_config((int,), 3, "interaction stages"),
    "protocol": _for_config((str,), "strict", "strict (never select on test or training data) or published"),
    "num_workers": _for_config((int, str), 2, "processes that read samples, for each device; auto: by the CPU cores"),
    "pin_memory": Setting((bool, str), "auto", "page-locked memory for batches; auto: where a GPU takes them"),
    "persistent_workers": _for_config((bool,), True, "keep the reading processes from epoch to epoch"),
    "prefetch_factor": Setting((int, _NONE), None, "batches that each reading process has ready; None: PyTorch's 2"),
    "float32_matmul_precision": Setting((str,), "highest", "highest; high: TF32 on GPUs, faster, less exact; medium"),
    "channels_last": Setting((bool,), False, "keep images and maps in NHWC memory order: faster for convolutions"),
    "compile": Setting((bool,), False, "torch.compile the network: slow first steps; slower on a CPU"),
    "checkpoint_backbone": Setting((bool,), False, "recompute the backbone's maps in the backward pass: less memory"),
    "memory_efficient": Setting((bool, str), "auto", "decoder in row chunks, in less memory: True, False, auto (CPU)"),
    "tensorboard": Setting((bool,), False, "write a TensorBoard log beside the CSV one"),
    "loggers": Setting((tuple, list), (), "logs beside the CSV one: tensorboard, wandb, mlflow, or Lightning objects"),
    "callbacks": Setting((tuple, list), (), "early_stopping, or Lightning objects"),
    "net": Setting((), None, "the network", required=True),
    "loss": Setting((), None, "the loss", required=True),
    "train_dataset": Setting((), None, "training set", required=True),
    "val_dataset": Setting((), None, "validation set", required=True),
    "test_dataset": Setting((), None, "test set"),
    "train_loader": Setting((), None, "loader of training batches", required=True),
    "val_loader": Setting((), None, "loader of validation batches", required=True),
    "optimizer": Setting((), None, "the optimiser", required=True),
    "lr_scheduler": Setting((), None, "the schedule of the learning rate"),
    "lr_scheduler_interval": Setting((str,), "epoch", "when the schedule moves: epoch or step"),
}


_CHOICES = {
    "protocol": PROTOCOLS, "monitor": MONITORS, "monitor_mode": ("max", "min"), "num_workers": ("auto",),
    "float32_matmul_precision": MATMUL_PRECISIONS, "lr_scheduler_interval": ("epoch", "step"), "pin_memory": ("auto",),
    "class_weights": ("balanced",), "sampler": ("rare_classes",),
}  # fmt: skip
"""Settings that, as text, take one of a few values."""


def check_type(name: str, value: Any, where: str, like: Any = None) -> None:
    """Compare a value with its setting's types, or with the type of `like` where it is no known setting.

    Whole numbers pass for fractions, True and False not for numbers.
    """
    if name in SETTINGS:
        types = SETTINGS[name].types
    else:
        types = () if like is None else (tuple, list) if isinstance(like, tuple | list) else (type(like),)
    if not types or (isinstance(value, types) and not (isinstance(value, bool) and bool not in types)):
        return
    if float in types and isinstance(value, int) and not isinstance(value, bool):
        return
    expected = " or ".join("None" if kind is _NONE else kind.__name__ for kind in types)
    raise ConfigError(f"{name}={value!r} ({where}): expected {expected}, found {type(value).__name__}.")


def check_contradictions(settings: Any) -> None:
    """Refuse settings that are out of range or do not go together, each quoted as the user wrote it."""

    def refuse(wrong: bool, name: str, reason: str) -> None:
        if wrong:
            raise ConfigError(f"{settings.path}: {name}={getattr(settings, name)!r}: {reason}.")

    for name in ("max_epoch", "train_batch_size", "val_batch_size", "check_val_every_n_epoch", "num_nodes",
                 "accumulate_grad_batches", "num_classes", "prefetch_factor", "test_window"):  # fmt: skip
        value = getattr(settings, name)
        refuse(value is not None and value < 1, name, "expected at least 1")
    for name in ("num_workers", "seed", "save_every_n_steps", "max_skipped_batches"):
        value = getattr(settings, name)
        refuse(isinstance(value, int) and value < 0, name, "expected at least 0")
    for name, choices in _CHOICES.items():
        value = getattr(settings, name)
        refuse(isinstance(value, str) and value not in choices, name, f"expected one of {', '.join(choices)}")
    refuse(settings.seed >= 2**32, "seed", "expected less than 2**32")
    refuse(settings.save_top_k < -1, "save_top_k", "expected a number, or -1 for all")
    refuse(settings.weights_name == "last", "weights_name", "this is the name of the last checkpoint")
    refuse(settings.deterministic not in (True, False, "warn"), "deterministic", "True, False or 'warn'")
    refuse(not 0 <= settings.test_overlap <= 0.9, "test_overlap", "expected a share from 0 to 0.9")
    better = "smaller" if settings.monitor.endswith("loss") else "larger"
    wrong_mode = (settings.monitor_mode == "min") != (better == "smaller")
    refuse(wrong_mode, "monitor_mode", f"monitor={settings.monitor!r} is better when it is {better}")
    classes = len(settings.classes)
    refuse(classes != settings.num_classes, "num_classes", f"classes names {classes}: {settings.classes}")
    refuse(settings.ignore_index in range(classes), "ignore_index", f"it is one of the {classes} classes")
    for owner, name in (("net", "num_classes"), ("loss", "ignore_index")):
        theirs = getattr(getattr(settings, owner), name, None)
        refuse(theirs not in (None, getattr(settings, name)), name, f"{owner} was built with {name}={theirs}")
    for split in ("train", "val", "test"):
        spec = getattr(getattr(settings, f"{split}_dataset"), "spec", None)
        if spec is not None:
            found = (spec.num_classes, spec.ignore_index)
            refuse(
                found != (settings.num_classes, settings.ignore_index), "num_classes",
                f"{split}_dataset ({spec.name}) has {found[0]} classes and ignore_index={found[1]}; the config says "
                f"ignore_index={settings.ignore_index}",
            )  # fmt: skip
    for name in ("save_every_n_steps", "auto_resume"):
        needs_last = bool(getattr(settings, name)) and not settings.save_last
        refuse(needs_last, name, "it needs the last checkpoint: set save_last=True")
    # A schedule may move by another count, or follow the monitor in the wrong direction.
    mode, steps = (getattr(settings.lr_scheduler, name, None) for name in ("mode", "total_steps"))
    wrong_mode = mode in ("min", "max") and mode != settings.monitor_mode
    refuse(wrong_mode, "monitor_mode", f"lr_scheduler follows {settings.monitor} with mode={mode!r}")
    by_epoch = steps is not None and settings.lr_scheduler_interval == "epoch" and steps != settings.max_epoch
    refuse(
        by_epoch, "lr_scheduler_interval",
        f"lr_scheduler ends after total_steps={steps}, and it moves max_epoch={settings.max_epoch} times. Set "
        "lr_scheduler_interval='step' for a schedule that counts steps",
    )  # fmt: skip
    clip = settings.gradient_clip_val
    refuse(clip is not None and clip <= 0, "gradient_clip_val", "expected a norm above 0, or None")
