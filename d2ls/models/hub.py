"""Download of model folders from the Hugging Face hub, by names as timm has them: `hf-hub:owner/name@revision`."""

from pathlib import Path

from d2ls.errors import CheckpointError, require

PREFIX = "hf-hub:"
FILES = ["model.safetensors", "config.json", "README.md", "*.onnx", "*.pt2", "*.json"]
"""Patterns of what a model folder on the hub may hold."""


def is_on_hub(path: str | Path) -> bool:
    """Whether a path names a model on the hub."""
    return str(path).startswith(PREFIX)


def download(name: str | Path) -> Path:
    """Fetch a model folder, once; it then stays in the hub's cache.

    Args:
        name: `hf-hub:owner/name`, with `@` and a branch, tag or commit if not the newest is wanted.

    Returns:
        The folder in the cache.

    Raises:
        ConfigError: huggingface_hub is not installed.
        CheckpointError: no such repository, or the hub cannot be reached.
    """
    repository, _, revision = str(name).removeprefix(PREFIX).partition("@")
    hub = require("huggingface_hub", f"{name}: the Hugging Face hub")
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # requests, OS and hub errors have no common parent
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{name}: {repository} cannot be downloaded from the Hugging Face hub ({reason}). Check the name and the "
            f"network, or download {FILES[0]} and {FILES[1]} on another machine and give the path of their folder."
        ) from error
