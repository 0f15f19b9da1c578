"""Model folders: weights, `config.json` and a model card, on the disk and on the Hugging Face hub."""

import json
from pathlib import Path

from jinja2 import Environment, PackageLoader
from torch import nn

from d2ls.checkpoint import FOLDER_CONFIG, FOLDER_WEIGHTS, Checkpoint, read_checkpoint
from d2ls.data.io import write_bytes
from d2ls.errors import CheckpointError, ConfigError, require
from d2ls.export.facts import ModelFacts
from d2ls.export.weights import export_weights
from d2ls.metrics import MEANS, PER_CLASS, percent
from d2ls.models import hub
from d2ls.models.weight_files import summary


def write_folder(net: nn.Module, facts: ModelFacts, folder: Path, *, half: bool = False) -> None:
    """Write a model folder that `d2ls.checkpoint.read_checkpoint` reads like a checkpoint; `half`: weights in float16.

    Files of an earlier export in the folder are replaced, others stay.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected the name of a folder to write the model to.")
    folder.mkdir(parents=True, exist_ok=True)
    export_weights(net, facts.spec, folder / FOLDER_WEIGHTS, half=half, train_size=facts.window)
    config = json.dumps(facts.to_config(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(folder / FOLDER_CONFIG, config.encode())
    write_bytes(folder / hub.CARD, _model_card(facts, folder.resolve().name).encode())


def _model_card(facts: ModelFacts, name: str) -> str:
    """The text of the model card, with the hub's metadata and the score table, for a folder of that name."""
    environment = Environment(loader=PackageLoader("d2ls.export"), autoescape=False, trim_blocks=True)
    environment.filters |= {"json": json.dumps, "percent": percent}  # JSON strings are YAML strings
    return environment.get_template("card.md").render(
        facts=facts, spec=facts.spec, net=facts.arguments, name=name, means=MEANS, per_class=PER_CLASS,
        scores=facts.scores, run=(facts.scores or {}).get("run") or {}, paper="2503.06683",
    )  # fmt: skip


def push_to_hub(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a model folder to the repository "owner/name" of the Hugging Face hub, which is made; gives its URL."""
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
    """Read a model folder, or else download "owner/name", of a branch, tag or commit, from the hub and read it."""
    if Path(source).exists() or str(source).count("/") != 1:
        return read_checkpoint(source)
    return read_checkpoint(f"{hub.PREFIX}{source}" + (f"@{revision}" if revision else ""))
