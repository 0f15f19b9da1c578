"""Weights as safetensors: tensors and a description in JSON, nothing that could be run."""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from d2ls.checkpoint import KEY, describe
from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.models.weight_files import DIGEST, digest_of

SUFFIX = ".safetensors"


def export_weights(
    net: nn.Module, spec: DatasetSpec | None, path: Path, *, half: bool = False, train_size: int | None = None
) -> None:
    """Write a network's weights with its constructor arguments, its data set's spec and a checksum, `*.safetensors`.

    The file is written whole or not at all. `d2ls.checkpoint.read_checkpoint` reads it like a checkpoint, without a
    config. `half` stores matrices and kernels in float16; a network that loads them still computes in float32.
    `train_size` is the largest side of the training samples in pixels, where it is known.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: expected a name that ends in {SUFFIX}.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    metadata = {"format": "pt", KEY: json.dumps(describe(net, spec, train_size)), DIGEST: digest_of(tensors)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def _halved(name: str, tensor: Tensor) -> Tensor:
    """A matrix or kernel in float16; biases, norms and statistics are small and sensitive, so they stay."""
    if tensor.ndim < 2 or tensor.dtype != torch.float32 or name.endswith("gaussian"):
        return tensor
    half = tensor.half()
    if not half.isfinite().all():
        raise ConfigError(f"weight {name} reaches {tensor.abs().max():.3g}, beyond float16. Export without --half.")
    return half
