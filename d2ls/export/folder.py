"""Model folders: weights, `config.json` and a model card, on the disk and on the Hugging Face hub."""

import json
from pathlib import Path

from torch import nn

from d2ls.checkpoint import FOLDER_CONFIG, FOLDER_WEIGHTS, Checkpoint, read_checkpoint
from d2ls.data.io import write_bytes
from d2ls.errors import CheckpointError, ConfigError, require
from d2ls.export.card import model_card
from d2ls.export.facts import ModelFacts
from d2ls.export.weights import export_weights
from d2ls.models import hub
from d2ls.models.weight_files import summary


def write_folder(net: nn.Module, facts: ModelFacts, folder: Path, *, half: bool = False) -> None:
    """Write a model folder that `d2ls.checkpoint.read_checkpoint` reads like a checkpoint; `half`: weights in float16.

    Files of an earlier export in the folder are replaced, others stay.

    Raises:
        ConfigError: `folder` is a file, or float16 cannot hold a weight.
        DataError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected the name of a folder to write the model to.")
    folder.mkdir(parents=True, exist_ok=True)
    export_weights(net, facts.spec, folder / FOLDER_WEIGHTS, half=half, train_size=facts.window)
    config = json.dumps(facts.to_config(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(folder / FOLDER_CONFIG, config.encode())
    write_bytes(folder / hub.CARD, model_card(facts, folder.resolve().name).encode())


def push_to_hub(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a model folder to the repository "owner/name" of the Hugging Face hub, which is made; gives its address.

    Raises:
        ConfigError: no model folder, or no huggingface_hub.
        CheckpointError: the hub cannot be reached or refuses.
    """
    read_checkpoint(folder)  # whole, and ours
    api = require("huggingface_hub", "the Hugging Face hub")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=hub.FILES))
    except Exception as error:  # requests, OS and hub errors have no common parent
        raise CheckpointError(
            f"{repository}: cannot be uploaded to the Hugging Face hub ({summary(error)}). Check the network and "
            "the name (owner/name), and log in with `hf auth login`. The folder can also be uploaded by hand."
        ) from error


def from_pretrained(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Read a model folder, or else download "owner/name", of a branch, tag or commit, from the hub and read it.

    Raises:
        ConfigError: no huggingface_hub.
        CheckpointError: no such folder, the hub cannot be reached, or what it has is no model folder.
    """
    if Path(source).exists() or str(source).count("/") != 1:
        return read_checkpoint(source)
    return read_checkpoint(f"{hub.PREFIX}{source}" + (f"@{revision}" if revision else ""))
