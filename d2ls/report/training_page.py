"""`report.html` of a training run: curves, samples as the network sees them, settings, machine, time per phase."""

import platform
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from d2ls.config import Settings
from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.metrics import MEANS
from d2ls.report import page, pictures
from d2ls.version import __version__

NAME = "report.html"
SAMPLES = 6  # crops that the page shows
PHASES = ("loading", "training", "validation")


class TrainingPage(Callback):
    """Copies the config beside the log, and writes the page after each epoch; a resumed run goes on with its curves."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self._epochs: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []
        self._start_clock()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Write `config.py`, a config that repeats the run: as it runs, overrides included."""
        self._start_clock()
        if trainer.is_global_zero:
            changed = " ".join(f"{name}={value!r}" for name, value in self.settings.overrides.items())
            header = f"# {self.settings.path}" + (f" with {changed}" if changed else "")
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.py").write_text(f"{header}\n{self.settings.source}\n", encoding="utf-8")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of an epoch."""
        self._start_clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count the time since the last step as loading; keep the first crops."""
        self._lap("loading")
        if not self._samples and trainer.is_global_zero:
            self._samples = samples_of(batch, getattr(self.settings.train_dataset, "spec", None))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the time of a step."""
        self._lap("training")

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock of a validation."""
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Count the time of a validation."""
        self._lap("validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Add the epoch and write the page."""
        wanted = ("train_",) if pl_module.scores is None else ("train_", "val_")
        found = trainer.callback_metrics.items()
        metrics = {name: value.item() for name, value in found if name.startswith(wanted)}
        rates = {f"lr {number}": group["lr"] for number, group in enumerate(trainer.optimizers[0].param_groups, 1)}
        epoch = {"epoch": trainer.current_epoch + 1, "metrics": metrics, "lr": rates, "seconds": dict(self.seconds)}
        self._epochs = [one for one in self._epochs if one["epoch"] < epoch["epoch"]] + [epoch]
        if trainer.is_global_zero:
            write_bytes(self.folder / NAME, self._render(trainer).encode())

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"epochs": self._epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of the run that was stopped."""
        self._epochs = list(state_dict["epochs"])

    def _start_clock(self) -> None:
        self.seconds, self._since = dict.fromkeys(PHASES, 0.0), time.perf_counter()  # of the epoch so far

    def _lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now

    def _render(self, trainer: Trainer) -> str:
        settings = self.settings
        total = {phase: sum(one["seconds"][phase] for one in self._epochs) for phase in PHASES}
        content = {
            "settings": settings,
            "title": "/".join(filter(None, (settings.path.parent.name, settings.path.stem))),
            "epochs": trainer.max_epochs,
            "done": self._epochs[-1]["epoch"],
            "charts": charts(self._epochs, settings.classes),
            "samples": self._samples,
            "overrides": dict(settings.overrides),
            "source": settings.source,
            "machine": machine(trainer),
            "total": total,
            "share": {phase: seconds / max(sum(total.values()), 1e-9) for phase, seconds in total.items()},
        }
        return page.render(content, "training.html", "training.js")


def charts(epochs: list[dict[str, Any]], classes: Any) -> list[dict[str, Any]]:
    """The charts of a page: title, unit, and series of (epoch, value) by name; a chart without values is left out."""

    def series(names: Mapping[str, str], part: str = "metrics", factor: float = 1.0) -> dict[str, list[list[float]]]:
        found = {}
        for name, shown in names.items():
            known = [(one["epoch"], one[part][name]) for one in epochs if np.isfinite(one[part].get(name, np.nan))]
            found[shown] = [[epoch, value * factor] for epoch, value in known]
        return {shown: points for shown, points in found.items() if points}

    metrics = [name for one in epochs for name in one["metrics"] if name.startswith("train_")]
    terms = {name: name.removeprefix("train_").removesuffix("_epoch") for name in metrics}
    rates = {name: name for name in epochs[-1]["lr"]}
    plans = (
        ("Training loss, by term", series(terms)),
        ("Validation loss", series({"val_loss": "loss"})),
        ("Validation scores, per cent", series({f"val_{name}": name for name in MEANS}, factor=100)),
        ("IoU of each class, per cent", series({f"val_IoU/{name}": name for name in classes}, factor=100)),
        ("Learning rate", series(rates, "lr")),
        ("Seconds of an epoch", series({phase: phase for phase in PHASES}, "seconds")),
    )
    return [{"title": title, "series": found} for title, found in plans if found]


def samples_of(batch: Mapping[str, Any], spec: DatasetSpec | None) -> list[dict[str, Any]]:
    """Training samples as the network sees them, stretched to what a screen shows, and their labels where a spec tells.

    The batch has "image", float (B, C, H, W), "mask", (B, H, W), and "name".
    """
    shown = []
    names = batch.get("name", [""] * len(batch["image"]))
    for image, mask, name in zip(batch["image"][:SAMPLES], batch["mask"], names, strict=False):
        labels = mask.cpu().numpy().astype(np.uint8)
        classes = () if spec is None else spec.classes
        shares = [(label, float((labels == index).mean())) for index, label in enumerate(classes)]
        drawn = None if spec is None else pictures.class_map(labels, spec)
        largest = sorted((pair for pair in shares if pair[1]), key=lambda pair: -pair[1])
        picture = pictures.photograph(_as_picture(image, spec))
        shown.append({"name": name, "image": picture, "labels": drawn, "shares": largest})
    return shown


def machine(trainer: Trainer) -> dict[str, str]:
    """Versions, state of the working tree and hardware, as a paper's appendix lists them."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "d2ls": f"{__version__}, {_git_state()}",
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "Lightning": version("pytorch_lightning"),
        "device": f"{device.type}: {name}",
        "processes": str(trainer.world_size),
        "CPU threads": str(torch.get_num_threads()),
        "precision": str(trainer.precision),
        "system": platform.platform(),
    }


@cache
def _git_state() -> str:
    """Commit of the package's checkout, and whether files differ from it."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = len(ask("status", "--porcelain", "--untracked-files=no").splitlines())
        commit = f"commit {ask('rev-parse', '--short=12', 'HEAD')}"
    except (OSError, subprocess.SubprocessError):
        return "not in a git checkout"
    return f"{commit} with {changed} changed files" if changed else commit


def _as_picture(image: Tensor, spec: DatasetSpec | None) -> NDArray[np.uint8]:
    """Bands (C, H, W) as RGB (H, W, 3): red, green and blue where the spec names them, else the first three."""
    named = spec.rgb if spec is not None and len(spec.bands) == len(image) else None
    indices = named or [min(band, len(image) - 1) for band in range(3)]
    values = image[list(indices)].float().cpu().numpy().transpose(1, 2, 0)
    low, high = np.quantile(values, [0.005, 0.995])
    stretched = (values - low) / max(float(high - low), 1e-6) * 255
    return stretched.clip(0, 255).astype(np.uint8)
