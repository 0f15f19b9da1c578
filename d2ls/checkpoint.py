"""Checkpoints: their content, networks built from them, the record of a run's best one.

No code in a weight file is run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from d2ls.data.io import write_bytes
from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError, ConfigError
from d2ls.models import DynamicDictionaryLearning, deferred_weights, hub, load_reference_weights
from d2ls.models.peers import SMPNetwork
from d2ls.models.weight_files import load_file, state_dict_of

FOLDER_WEIGHTS, FOLDER_CONFIG = hub.WEIGHTS, hub.CONFIG
ARCHITECTURE = "d2ls"  # in its config.json
KEY = "d2ls"  # where a checkpoint carries our description
NETWORKS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (DynamicDictionaryLearning, SMPNetwork)}
"""Networks that a checkpoint can name, as "network" among their arguments."""
_UNNAMED: dict[str, Any] = {"network": DynamicDictionaryLearning.__name__}
_DESCRIBED = ("network", "decoder", "backbone", "num_classes", "stages", "dictionary")  # compared first
_SAME_TENSORS = ("drop_path_rate", "freeze_backbone", "memory_efficient")  # arguments that change no tensor


@dataclass(frozen=True)
class BestRecord:
    """The best checkpoint of the last run in a folder."""

    file: str  # its name in the folder
    epoch: int  # after which it was saved, from 1
    monitor: str  # name of the score that chose it
    score: float


def best_record_of(folder: Path) -> Path:
    """The record of a folder of checkpoints, beside it; absent where no run has begun since there are records."""
    return folder.with_name(f"{folder.name}.best.json")


def write_best(folder: Path, record: BestRecord | None) -> None:
    """Record the best checkpoint of a folder's run; None: the run has begun, and has none yet."""
    path = best_record_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(None if record is None else asdict(record), indent=1).encode())


def read_best(folder: Path) -> BestRecord | None:
    """Read the record of a folder; None where its run has no best checkpoint yet."""
    path = best_record_of(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return None if content is None else BestRecord(**content)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a record of a best checkpoint: {error}.") from error


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A weight file in memory; None stands for what it does not say, such as all of a reference checkpoint."""

    path: Path
    weights: dict[str, Tensor]  # by name, without the `net.` of Lightning
    arguments: dict[str, Any] | None = None  # of the network's constructor, and "network", one of NETWORKS
    spec: DatasetSpec | None = None  # the data set it was trained on
    train_size: int | None = None  # largest side of the training samples, in pixels
    is_reference: bool = False  # whether the names are those of the reference implementation
    epochs: int | None = None  # finished ones of the training run that the file can resume; None: weights alone
    batches: int = 0  # of the next epoch that it has behind it, too; all of them where only its validation is left
    facts: dict[str, Any] = field(default_factory=dict)  # the content of `config.json`, of a model folder

    @cached_property
    def sha256(self) -> str:
        """Hash of the file's bytes, 64 hexadecimal digits."""
        return sha256_of(self.path)

    def spec_or(self, advice: str) -> DatasetSpec:
        """The data set it was trained on, without which `advice` is all that a user can be given."""
        if self.spec is None:
            raise CheckpointError(
                f"{self.path} does not say which classes and bands it was trained on (it was not written by a d2ls "
                f"training run). {advice}"
            )
        return self.spec

    def build(self) -> nn.Module:
        """The network of this checkpoint, with its weights, in evaluation.

        Raises:
            CheckpointError: the file does not say how its network was built, or cannot mean what it says.
        """
        if self.arguments is None:
            raise CheckpointError(
                f"{self.path} does not say how its network was built (it was not written by a d2ls training run). "
                "Name the config that describes it with -c."
            )
        arguments = _UNNAMED | self.arguments
        name = str(arguments.pop("network"))
        if name not in NETWORKS:
            raise CheckpointError(
                f"{self.path}: its network is a {name:.60}, this version knows {', '.join(NETWORKS)}. Name the config "
                "that describes it with -c."
            )
        try:
            with deferred_weights():
                net = NETWORKS[name](**arguments)
        except Exception as error:  # whatever comes of arguments that were not ours
            raise CheckpointError(
                f"{self.path}: the network that it describes ({KEY}, model) cannot be built: {error}."
            ) from error
        load_weights(net, self)
        return net.eval()


def describe(net: nn.Module, spec: DatasetSpec | None, train_size: int | None = None) -> dict[str, Any]:
    """Description of a network for its checkpoint, of plain values, under the key KEY."""
    dataset, model = spec and spec.to_dict(), getattr(net, "arguments", None)
    return {"format": 1, "model": model, "dataset": dataset, "train_size": train_size}


def position_of(content: Any) -> dict[str, Any]:
    """Progress of the run that wrote the content of a checkpoint file; empty where that cannot resume a run.

    It has "epochs", finished ones; "batches" of the next that are behind it, and "order", what these depend on.
    """
    if KEY not in content or not content.get("optimizer_states"):
        return {}
    # Checkpoints of the first versions stand at the end of an epoch.
    whole = {"epochs": content.get("epoch", -1) + 1, "batches": 0, "order": None}
    return {**whole, **(content[KEY].get("position") or {})}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours or of the reference, a bare state dict of either, or a model folder.

    No code in it is run.

    Args:
        path: of the file or folder; `hf-hub:owner/name` downloads a model folder from the Hugging Face hub.

    Raises:
        CheckpointError: no such file, or not readable as weights; the hub cannot be reached.
        ConfigError: the hub is asked for and huggingface_hub is not installed.
    """
    path = hub.download(path) if str(path).startswith(hub.PREFIX) else Path(path)
    if path.is_dir():
        return _read_folder(path)
    content = load_file(path)
    tensors = state_dict_of(content, str(path))
    # Lightning puts the network's tensors under "net."; what stands beside them is the loss's.
    weights = {name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")} or tensors
    carried, position = _description(content, path), position_of(content)
    return Checkpoint(
        path, weights, arguments=carried.get("model"), spec=carried.get("dataset"),
        train_size=carried.get("train_size"),
        is_reference=not carried and any(name.startswith(("decoder.", "linear_c.")) for name in weights),
        epochs=position.get("epochs"), batches=position.get("batches", 0),
    )  # fmt: skip


def _read_folder(folder: Path) -> Checkpoint:
    """Read `model.safetensors` and `config.json`; entries that this version does not know stay in `facts`."""
    path = folder / FOLDER_CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"no weight file {folder}: a folder without {FOLDER_CONFIG}. Expected a checkpoint, or a model folder "
            "that tools/export_model.py wrote."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        architecture, arguments, dataset = facts["architecture"], facts["model_args"], facts["dataset"]
        known = {entry.name for entry in fields(DatasetSpec)}
        spec = DatasetSpec.from_dict({name: value for name, value in dataset.items() if name in known})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder} is not a model folder: {FOLDER_CONFIG} cannot be read ({type(error).__name__}: {error}). "
            f"Expected a folder that tools/export_model.py wrote, with {FOLDER_CONFIG} and {FOLDER_WEIGHTS}."
        ) from error
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"{path}: the architecture is {architecture!r}, expected {ARCHITECTURE!r}.")
    train_size = _checked_size(facts, path)
    checkpoint = read_checkpoint(folder / FOLDER_WEIGHTS)
    for name, value in (checkpoint.arguments or {}).items():
        if name in arguments and arguments[name] != value:
            raise CheckpointError(
                f"{folder}: {FOLDER_CONFIG} has {name}={arguments[name]!r}, {FOLDER_WEIGHTS} was written with "
                f"{name}={value!r}. Take both files from one export."
            )
    return replace(checkpoint, arguments=arguments, spec=spec, train_size=train_size, facts=facts)


def load_weights(net: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load a checkpoint into a network that was built from a config; one of another network is refused.

    Returned are names that were left out, of a reference checkpoint; nothing is left out of ours.
    """
    built: dict[str, Any] = getattr(net, "arguments", None) or {}
    built = built and _UNNAMED | built
    # An argument that is newer than the checkpoint had its default.
    defaults = {name: parameter.default for name, parameter in signature(type(net).__init__).parameters.items()}
    theirs = _UNNAMED | defaults | (checkpoint.arguments or {})
    for name in (*_DESCRIBED, *built):
        known = checkpoint.arguments is not None and name in built and name not in _SAME_TENSORS
        if known and theirs.get(name) != built[name]:
            raise CheckpointError(
                f"{checkpoint.path} was trained with {name}={theirs.get(name)!r}, the config has "
                f"{name}={built[name]!r}. Use the config of that run, or set {name} to what the checkpoint has."
            )
    if checkpoint.is_reference:
        return _load_reference(net, checkpoint)
    ours = net.state_dict()
    missing, unknown = sorted(ours.keys() - checkpoint.weights), sorted(checkpoint.weights.keys() - ours)
    if missing or unknown:
        raise CheckpointError(
            f"{checkpoint.path} does not fit the network: {len(missing)} tensors are missing (first: "
            f"{missing[0] if missing else '-'}), {len(unknown)} are unknown (first: {unknown[0] if unknown else '-'}). "
            "Use the config of the run that wrote it."
        )
    for name, tensor in ours.items():
        if (shape := checkpoint.weights[name].shape) != tensor.shape:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name} has shape {tuple(shape)}, the network of the config needs "
                f"{tuple(tensor.shape)}. Use the config of the run that wrote it."
            )
    net.load_state_dict(checkpoint.weights)
    return []


def load_fitting_weights(net: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load the tensors whose name and shape fit, for fine-tuning to other classes.

    Returned is the rest, one line each: name, shape in the checkpoint, shape in the network.
    """
    if checkpoint.is_reference:
        raise CheckpointError(f"{checkpoint.path} has the reference's names: it cannot be loaded in part.")
    ours, theirs = net.state_dict(), checkpoint.weights
    shapes = [{name: tuple(tensor.shape) for name, tensor in side.items()} for side in (theirs, ours)]
    fitting = {name: tensor for name, tensor in theirs.items() if name in ours and tensor.shape == ours[name].shape}
    if not fitting:
        raise CheckpointError(f"{checkpoint.path}: none of its {len(theirs)} tensors fits the network.")
    net.load_state_dict(fitting, strict=False)
    rest = [name for name in {**ours, **theirs} if name not in fitting]
    return [f"{name}: {' in the checkpoint, '.join(str(side.get(name, 'absent')) for side in shapes)} in the network"
            for name in rest]  # fmt: skip


def _description(content: Any, path: Path) -> dict[str, Any]:
    """Description in a checkpoint's content: "model" as a dict, "dataset" as a DatasetSpec, or None."""
    carried = content.get(KEY) or {}
    parts = [carried, *map(carried.get, ("model", "dataset"))] if isinstance(carried, dict) else [carried]
    if wrong := [part for part in parts if not isinstance(part, dict | None)]:
        raise CheckpointError(f"{path}: its description ({KEY}: model, dataset) is damaged: {wrong[0]!r:.60}.")
    _checked_size(carried, path)
    if (dataset := carried.get("dataset")) is None:
        return carried
    try:
        return carried | {"dataset": DatasetSpec.from_dict(dataset)}
    except ConfigError as error:
        raise CheckpointError(f"{path}: its description ({KEY}: dataset) is damaged: {error}") from error


def _checked_size(description: Mapping[str, Any], path: Path) -> int | None:
    """The size of the training samples in a description, pixels; None where it has none."""
    size = description.get("train_size")
    if size is not None and (type(size) is not int or size < 1):
        raise CheckpointError(f"{path}: train_size is {size!r:.60}; expected pixels, 1 or more, or none.")
    return size


def _load_reference(net: nn.Module, checkpoint: Checkpoint) -> list[str]:
    stages = {int(name.split(".")[3]) for name in checkpoint.weights if name.startswith("decoder.interactor.layers.")}
    built = (getattr(net, "arguments", None) or {}).get("stages")
    if stages and getattr(net, "interaction", None) is not None and max(stages) + 1 != built:
        found = f"{checkpoint.path} (reference names) has {max(stages) + 1} interaction stages"
        raise CheckpointError(f"{found}, the config has stages={built}.")
    try:
        return load_reference_weights(net, checkpoint.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
