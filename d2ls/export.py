"""Weights for others: a safetensors file that holds tensors, what builds the network, and nothing that could be run."""

import json
from pathlib import Path

import safetensors.torch
from torch import nn

from d2ls.checkpoint import KEY, describe
from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import ConfigError
from d2ls.models.weight_files import DIGEST, digest_of


def export_weights(net: nn.Module, spec: DatasetSpec | None, path: Path) -> None:
    """Write a network's weights with its constructor arguments, its classes and a checksum; whole or not at all.

    `d2ls.checkpoint.read_checkpoint` reads the file like a checkpoint, without a config.

    Args:
        net: the network.
        spec: the data set that it was trained on.
        path: the file, `*.safetensors`.

    Raises:
        ConfigError: another ending.
        DataError: it cannot be written.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: expected a name that ends in .safetensors.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    described = {"format": "pt", KEY: json.dumps(describe(net, spec)), DIGEST: digest_of(tensors)}
    write_bytes(path, safetensors.torch.save(tensors, described))
