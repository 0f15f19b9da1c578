"""Facts that travel with a network's weights: the `config.json` of a model folder."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch

from d2ls.checkpoint import ARCHITECTURE, Checkpoint
from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError, ConfigError
from d2ls.metrics import MEANS
from d2ls.models.pretrained import licence_note
from d2ls.version import __version__

NOMINAL_SIZE = 512  # in the layout of timm's models, where the size of the training samples is unknown


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Everything that a user of a network needs beside its weights; None where it is unknown."""

    arguments: Mapping[str, Any]  # of the network's constructor
    spec: DatasetSpec  # classes, colours, bands and normalisation
    window: int | None = None  # largest side of the training samples, px, from which windows of predictions follow
    resolution: float | None = None  # ground size of a pixel in metres
    licence: str | None = None  # SPDX identifier of the weights' licence
    scores: Mapping[str, Any] | None = None  # of a test run: means, 95 % intervals, each class, the run's record
    further: Mapping[str, Any] = field(default_factory=dict)  # of a `config.json`, unknown to this version, and kept

    @property
    def network(self) -> str:
        """Name of the network and its backbone, in words."""
        return f"{self.arguments.get('decoder', 'D2LS')} ({self.arguments.get('backbone')})"

    @property
    def backbone_note(self) -> str | None:
        """Licence of the backbone's pretrained weights, where it restricts the use of the model."""
        return licence_note(str(self.arguments.get("backbone")))

    def to_config(self) -> dict[str, Any]:
        """The content of `config.json`, in the layout of timm's models on the Hugging Face hub."""
        channels, side = len(self.spec.bands), self.window or NOMINAL_SIZE
        return {
            **self.further,
            "architecture": ARCHITECTURE,
            "num_classes": self.spec.num_classes,
            "model_args": dict(self.arguments),
            "pretrained_cfg": {
                "input_size": [channels, side, side],
                "fixed_input_size": False,
                "mean": list(self.spec.mean),
                "std": list(self.spec.std),
                "value_range": list(self.spec.value_range) if self.spec.value_range else None,
                "label_names": list(self.spec.classes),
                "license": self.licence,
            },
            "dataset": self.spec.to_dict(),
            "train_size": self.window,
            "ground_resolution": self.resolution,
            "scores": self.scores,
            "versions": {
                "d2ls": __version__, "torch": torch.__version__, "timm": timm.__version__,
                "python": platform.python_version(),
            },
        }  # fmt: skip

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **changes: Any) -> "ModelFacts":
        """Facts that a checkpoint or model folder carries, with `changes` in place of what it says."""
        if checkpoint.arguments is None or checkpoint.spec is None:
            raise CheckpointError(
                f"{checkpoint.path} does not say how its network was built and on which classes (it was not written by "
                "a d2ls training run). Name the config that describes both with -c."
            )
        known = cls(arguments={}, spec=checkpoint.spec).to_config()
        carried = checkpoint.facts
        cfg = carried.get("pretrained_cfg") or {}
        facts: dict[str, Any] = {
            "arguments": checkpoint.arguments,
            "spec": checkpoint.spec,
            "window": checkpoint.train_size,
            "resolution": carried.get("ground_resolution"),
            "licence": cfg.get("license"),
            "scores": carried.get("scores"),
            "further": {name: value for name, value in carried.items() if name not in known},
        }
        return cls(**facts | {name: value for name, value in changes.items() if value is not None})


def read_scores(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The summary of a test run's `metrics.json`, without the scores of each image; of this checkpoint alone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        run = content["run"]
        summary = {name: content[name] for name in (*MEANS, "intervals", "per_class")}
        summary["images"] = len(content["images"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"{path}: not the metrics.json of a test run ({problem}).") from problem
    if run.get("checkpoint_sha256") != checkpoint.sha256:
        raise ConfigError(
            f"{path}: these are scores of the checkpoint {str(run.get('checkpoint_sha256'))[:12]}..., "
            f"{checkpoint.path} has {checkpoint.sha256[:12]}.... Test this checkpoint first, or export the other."
        )
    told = ("command", "dataset", "views", "windows", "checkpoint_sha256")
    return summary | {"run": {name: run[name] for name in told if name in run}}
