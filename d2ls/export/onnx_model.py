"""Running an exported ONNX file with onnxruntime; needs no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError, ConfigError, DataError, require

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
METADATA = "d2ls"  # key of the model's facts in the file
EXTRA = "'d2ls[onnx]'"  # the packages for ONNX


class OnnxModel:
    """An ONNX file of `tools/export_model.py --onnx` as a function of images.

    Args:
        path: the file.
        providers: onnxruntime's execution providers in order of preference, each a name or a pair of name and options;
            CUDA, then the processor, by default.
        threads: of the processor; onnxruntime's choice by default.

    Attributes:
        facts: what `config.json` of the model folder says.
        spec: classes, colours, bands and type of the images.
        classes: class names, in index order.
        colours: RGB, one for each class.
        bands: names of the image bands, in the order of the input.
        window: side of the images it was trained for, in pixels.
        resolution: ground size of a pixel in metres; None if unknown.
        provider: the execution provider that is used.

    Raises:
        ConfigError: onnxruntime is not installed, or without the providers.
        CheckpointError: no such file, not readable, not written by `tools/export_model.py`, or a tile for map software.
    """

    def __init__(self, path: str | Path, *, providers: list[Any] | None = None, threads: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"no file {self.path}.")
        onnxruntime = require("onnxruntime", f"{path}: running ONNX", install=EXTRA)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            options.intra_op_num_threads = threads
        installed = onnxruntime.get_available_providers()
        chosen = providers or [name for name in PROVIDERS if name in installed]
        names = [entry if isinstance(entry, str) else entry[0] for entry in chosen]
        if missing := [name for name in names if name not in installed]:
            raise ConfigError(f"{path}: this onnxruntime has no {missing[0]}, only {', '.join(installed)}.")
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=chosen)
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's own kinds
            raise CheckpointError(f"{path} cannot be read as an ONNX model: {error}") from error
        try:
            self.facts: dict[str, Any] = json.loads(metadata[METADATA])
            self.spec = DatasetSpec.from_dict(self.facts["dataset"])
        except (KeyError, ValueError, ConfigError) as error:
            raise CheckpointError(
                f"{path} does not say what its classes and bands are ({error}). Expected a file that "
                "tools/export_model.py --onnx wrote."
            ) from error
        self.provider: str = self._session.get_providers()[0]
        if providers and self.provider != names[0]:
            raise ConfigError(f"{path}: {names[0]} cannot be used on this machine; onnxruntime offers {self.provider}.")
        if any(isinstance(side, int) for side in self._session.get_inputs()[0].shape[2:]):
            raise CheckpointError(
                f"{path} takes tiles of one size, for map software; --onnx writes a file for images of any size."
            )
        self.classes, self.colours, self.bands = self.spec.classes, self.spec.colours, self.spec.bands
        self.window: int = self.facts["pretrained_cfg"]["input_size"][-1]
        self.resolution: float | None = self.facts["ground_resolution"]

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Class probabilities (B, K, H, W) of images (B, C, H, W) as their files hold them, of any size.

        Raises:
            DataError: another type or number of bands than the model was trained on.
        """
        if images.ndim != 4 or images.shape[1] != len(self.bands) or images.dtype != self.spec.dtype or not images.size:
            raise DataError(
                f"an array of {images.dtype} {images.shape}; {self.path.name} takes {self.spec.dtype} images "
                f"(B, {len(self.bands)}, H, W) with the bands {', '.join(self.bands)}."
            )
        result: NDArray[np.float32] = self._session.run(None, {self._session.get_inputs()[0].name: images})[0]
        return result
