"""Model folders on the Hugging Face hub: names as timm has them (`hf-hub:owner/name@revision`), files, download."""

from pathlib import Path

from d2ls.errors import CheckpointError, require
from d2ls.models.weight_files import summary

PREFIX = "hf-hub:"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"  # of a model folder, here or on the hub
FILES = [WEIGHTS, CONFIG, CARD, "*.onnx", "*.pt2", "*.json"]
"""Patterns of what a model folder on the hub may hold."""


def download(name: str | Path) -> Path:
    """Fetch the model folder `hf-hub:owner/name`, or `...@` a branch, tag or commit, into the hub's cache, once."""
    repository, _, revision = str(name).removeprefix(PREFIX).partition("@")
    hub = require("huggingface_hub", f"{name}: the Hugging Face hub")
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # requests, OS and hub errors have no common parent
        raise CheckpointError(
            f"{name}: {repository} cannot be downloaded from the Hugging Face hub ({summary(error)}). Check the name "
            f"and the network, or download {WEIGHTS} and {CONFIG} on another machine and give the path of their folder."
        ) from error
