"""Trained networks in the hands of a program: load one from its checkpoint, segment an image."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from d2ls.checkpoint import read_checkpoint
from d2ls.data.augment import normalise
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.inference.predictor import Network, choose_device, views_by_windows
from d2ls.inference.sliding_window import Windows, window_for
from d2ls.inference.tta import NONE


def load_model(path: str | Path, device: str = "auto") -> nn.Module:
    """Load a trained network from a checkpoint of ours; no code in the file is run.

    Args:
        path: the checkpoint, such as `model_weights/<data set>/<name>/<name>.ckpt`, a model folder, or
            `hf-hub:owner/name` on the Hugging Face hub.
        device: "auto" (the accelerator, else the CPU), "cpu", "cuda:1", ...

    Returns:
        The network, in evaluation, on the device: float images (B, bands, H, W), normalised, to logits (B, K, H, W).
        Attributes that it has beside its own: `spec` (DatasetSpec), `classes` (K names), `colours` (K RGB tuples),
        `bands` (names, in the order of the input), `mean` and `std` (of each band, in the unit of its
        values, 0..255 for 8 bits), `window` (side in pixels of the windows that `predict` takes).

    Raises:
        CheckpointError: unreadable, or the file does not name the network or its classes.
        ConfigError: no such device.
    """
    checkpoint = read_checkpoint(path)
    spec = checkpoint.spec_or("Build the network from its config and load the weights with load_reference_weights.")
    net = checkpoint.build().to(choose_device(device))
    for name in ("classes", "colours", "bands", "mean", "std"):
        setattr(net, name, getattr(spec, name))
    net.spec, net.window = spec, window_for(checkpoint.train_size)  # type: ignore[assignment]
    return net


def predict(
    model: nn.Module, image: NDArray[np.uint8], window: int | None = None, overlap: float = 0.25
) -> NDArray[np.uint8]:
    """Segment an image.

    Args:
        model: from `load_model`.
        image: RGB values 0..255, uint8 (H, W, 3), of any size.
        window: side of the windows in which a larger image is segmented, in pixels; None: `model.window`.
        overlap: share of a window that its neighbour covers too, 0 to 0.9.

    Returns:
        Class indices, uint8 (H, W).

    Raises:
        DataError: an array of another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"an array of {image.dtype} {image.shape}; expected RGB pixels, uint8 (H, W, 3).")
    spec = model.spec
    assert isinstance(spec, DatasetSpec)
    network = Network(model, next(model.parameters()).device, "32-true")
    side = window or int(model.window)  # type: ignore[arg-type]
    segment = views_by_windows(network, NONE, spec.num_classes, Windows(side, side, overlap), 1)
    return segment(torch.from_numpy(normalise(image))[None])[0].get().numpy()
