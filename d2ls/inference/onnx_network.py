"""An exported ONNX file in the place of a network; onnxruntime computes it, without a network of PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2ls.checkpoint import FOLDER_WEIGHTS
from d2ls.errors import ConfigError
from d2ls.export.onnx_model import PROVIDERS, OnnxModel


def onnx_file(path: Path) -> Path | None:
    """The ONNX file that a path names: itself, or the only one in a folder without weights; None if it names none."""
    if path.is_dir() and not (path / FOLDER_WEIGHTS).exists():
        found = list(path.glob("*.onnx"))
        path = found[0] if len(found) == 1 else path
    return path if path.suffix.lower() == ".onnx" else None


class OnnxNetwork:
    """A file of `tools/export_model.py --onnx` as a function of images.

    It runs on the `device` "auto" (CUDA where this onnxruntime has it, else the CPU), "cpu", "cuda" or "cuda:1".
    """

    device = torch.device("cpu")  # of the images and logits

    def __init__(self, path: Path, device: str = "auto") -> None:
        self._model = OnnxModel(path, providers=_providers(device), threads=torch.get_num_threads())
        self.spec = self._model.spec
        self.train_size: int | None = self._model.facts.get("train_size")
        self.provider = self._model.provider
        self._range = np.iinfo(self.spec.dtype) if self.spec.dtype != "float32" else None
        self._mean = torch.tensor(self.spec.mean)[:, None, None]

    def prepare(self, pixels: NDArray[Any]) -> Tensor:
        """Values (C, h, w) of a raster as this network takes them: as they are, NaN replaced by the band's mean."""
        values = torch.from_numpy(pixels.astype(np.float32))
        return values if self._range else torch.where(values.isfinite(), values, self._mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Logarithms of the probabilities, (B, K, H, W): logits but for a summand at each pixel.

        Of images from `prepare`, float32 (B, C, H, W), in whole numbers again where a view has resized them.
        """
        if self._range:
            images = images.round().clamp(self._range.min, self._range.max)
        found = self._model(images.numpy().astype(self.spec.dtype))
        return torch.from_numpy(found).clamp_min_(torch.finfo(torch.float32).tiny).log_()


def _providers(device: str) -> list[Any] | None:
    """Execution providers of a device's name; None leaves the choice to the model."""
    if device == "auto":
        return None
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return [PROVIDERS[1]]
    if kind != "cuda":
        raise ConfigError(f"--device {device}: an ONNX file runs on auto, cpu, cuda, cuda:1.")
    return [(PROVIDERS[0], {"device_id": index or "0"})]
