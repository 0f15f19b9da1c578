"""Weight files of any origin, read without running code from them, and only if they are what was written."""

import contextlib
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from d2ls.errors import CheckpointError

# Parts of the interaction by the names in older checkpoints, and today's.
OLD_NAMES = {
    "tokens_read": "token_to_image_attn", "pixels_read": "image_to_token_attn",
    "last_read": "final_attn", "last_norm": "final_norm",
}  # fmt: skip
_OLD = re.compile(rf"(\binteraction\.(?:stages\.\d+\.)?)({'|'.join(OLD_NAMES)})\b")
DIGEST = "sha256"  # what a safetensors file of ours calls the checksum of its tensors


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .pth, .pt, .ckpt or .safetensors file, read without running code from it."""
    return state_dict_of(load_file(path), str(path))


def load_file(path: Path) -> Any:
    """The content of a weight file, read without running code from it."""
    if not path.is_file():
        raise CheckpointError(f"no weight file {path}.")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):  # files of old versions of torch are none, and have no checksums
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # torch.load would not notice: a weight would have another value
                    raise zipfile.BadZipFile(f"it is damaged: the checksum of its part {damaged} does not hold")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a weight file ({summary(error)}). "
            "Expected tensors by name, saved by torch.save or safetensors, and nothing that needs code to load."
        ) from error


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, types and shapes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors under "state_dict", and the file's own remarks beside them; what was written as JSON is read as such."""
    content: dict[str, Any] = {}
    with safetensors.safe_open(path, framework="pt") as file:
        for name, remark in (file.metadata() or {}).items():
            content[name] = remark
            with contextlib.suppress(ValueError):
                content[name] = json.loads(remark)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    if content.get(DIGEST, digest := digest_of(tensors)) != digest:  # files of other programs have none
        raise ValueError("it is damaged: its checksum does not hold")
    return content | {"state_dict": tensors}


def state_dict_of(content: object, origin: str) -> dict[str, Tensor]:
    """The tensors of a state dict or of a checkpoint that holds one under state_dict, model_state_dict or model."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {current_name(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{origin} holds no tensors by name: expected a state dict or a checkpoint with one.")
    return tensors


def current_name(name: Any) -> Any:
    """The name of today for a tensor of an older checkpoint of ours; others stay as they are."""
    return _OLD.sub(lambda match: match[1] + OLD_NAMES[match[2]], name) if isinstance(name, str) else name


def summary(error: Exception) -> str:
    """Kind and first line of an error of another library; some have no text."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
