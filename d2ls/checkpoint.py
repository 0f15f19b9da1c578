"""Checkpoints: what they carry beside the weights, and how networks come back from them; no foreign code is run."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError, ConfigError
from d2ls.models import DynamicDictionaryLearning, deferred_weights, load_reference_weights
from d2ls.models.weight_files import load_file, state_dict_of

FOLDER_WEIGHTS, FOLDER_CONFIG = "model.safetensors", "config.json"  # of a model folder
ARCHITECTURE = "d2ls"  # in its config.json
KEY = "d2ls"  # where a checkpoint carries our description
_DESCRIBED = ("backbone", "num_classes", "stages", "dictionary")  # compared first: what users change most


@dataclass(frozen=True)
class Checkpoint:
    """A weight file in memory.

    Attributes:
        path: the file.
        weights: tensors by name, without the `net.` of Lightning.
        arguments: constructor arguments of the network; None where the file does not say (a reference checkpoint).
        spec: the data set it was trained on; None where the file does not say.
        is_reference: whether the names are those of the reference implementation.
        epochs: finished epochs of the training run that the file can resume; None where it holds weights alone.
        batches: batches of the next epoch that it has behind it, too; all of them where only its validation is left.
        facts: the content of `config.json`, of a model folder.
    """

    path: Path
    weights: dict[str, Tensor]
    arguments: dict[str, Any] | None = None
    spec: DatasetSpec | None = None
    is_reference: bool = False
    epochs: int | None = None
    batches: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    _digest: list[str] = field(default_factory=list, repr=False)

    @property
    def sha256(self) -> str:
        """Hash of the file's bytes, 64 hexadecimal digits."""
        if not self._digest:
            with self.path.open("rb") as file:
                self._digest.append(hashlib.file_digest(file, "sha256").hexdigest())
        return self._digest[0]

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
        try:
            with deferred_weights():
                net = DynamicDictionaryLearning(**self.arguments)
        except Exception as error:  # whatever comes of arguments that were not ours
            raise CheckpointError(
                f"{self.path}: the network that it describes ({KEY}, model) cannot be built: {error}."
            ) from error
        load_weights(net, self)
        return net.eval()


def describe(net: nn.Module, spec: DatasetSpec | None) -> dict[str, Any]:
    """What a checkpoint carries beside its tensors: plain values only, under the key KEY."""
    return {
        "format": 1,
        "model": getattr(net, "arguments", None),
        "dataset": None if spec is None else spec.to_dict(),
    }


def position_of(content: Any) -> dict[str, Any]:
    """How far the run was that wrote the content of a checkpoint file.

    Returns:
        "epochs", finished ones; "batches" of the next that are behind it, and "order", what these depend on. Empty
        where the file cannot resume a run.
    """
    if KEY not in content or not content.get("optimizer_states"):
        return {}
    # Checkpoints of the first versions stand at the end of an epoch.
    whole = {"epochs": content.get("epoch", -1) + 1, "batches": 0, "order": None}
    return {**whole, **(content[KEY].get("position") or {})}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours or of the reference, a bare state dict of either, or a model folder.

    No code in it is run.

    Raises:
        CheckpointError: no such file, or not readable as weights.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    content = load_file(path)
    tensors = state_dict_of(content, str(path))
    # Lightning puts the network's tensors under "net."; what stands beside them is the loss's.
    weights = {name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")} or tensors
    carried = _description(content, path)
    position = position_of(content)
    return Checkpoint(
        path,
        weights,
        arguments=carried.get("model"),
        spec=carried.get("dataset"),
        is_reference=not carried and any(name.startswith(("decoder.", "linear_c.")) for name in weights),
        epochs=position.get("epochs"),
        batches=position.get("batches", 0),
    )


def _read_folder(folder: Path) -> Checkpoint:
    """Read `model.safetensors` and `config.json`; entries that this version does not know stay in `facts`."""
    path = folder / FOLDER_CONFIG
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
    checkpoint = read_checkpoint(folder / FOLDER_WEIGHTS)
    for name, value in (checkpoint.arguments or {}).items():
        if name in arguments and arguments[name] != value:
            raise CheckpointError(
                f"{folder}: {FOLDER_CONFIG} has {name}={arguments[name]!r}, {FOLDER_WEIGHTS} was written with "
                f"{name}={value!r}. Take both files from one export."
            )
    return replace(checkpoint, arguments=arguments, spec=spec, facts=facts)


def load_weights(net: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load a checkpoint into a network that was built from a config.

    Returns:
        Names that were left out, of a reference checkpoint; nothing is left out of ours.

    Raises:
        CheckpointError: it was written by another network; shows both.
    """
    built: dict[str, Any] = getattr(net, "arguments", None) or {}
    for name in (*_DESCRIBED, *built):
        if checkpoint.arguments is not None and name in built and checkpoint.arguments.get(name) != built[name]:
            if name in ("drop_path_rate", "freeze_backbone"):  # training options: the tensors are the same
                continue
            raise CheckpointError(
                f"{checkpoint.path} was trained with {name}={checkpoint.arguments.get(name)!r}, the config has "
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
        if tensor.shape != checkpoint.weights[name].shape:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name} has shape {tuple(checkpoint.weights[name].shape)}, the network "
                f"of the config needs {tuple(tensor.shape)}. Use the config of the run that wrote it."
            )
    net.load_state_dict(checkpoint.weights)
    return []


def _description(content: Any, path: Path) -> dict[str, Any]:
    """What a checkpoint carries beside its tensors: "model" as a dict, "dataset" as a DatasetSpec, or None."""
    carried = content.get(KEY) or {}
    parts = [carried, *map(carried.get, ("model", "dataset"))] if isinstance(carried, dict) else [carried]
    if wrong := [part for part in parts if not isinstance(part, dict | None)]:
        raise CheckpointError(f"{path}: its description ({KEY}: model, dataset) is damaged: {wrong[0]!r:.60}.")
    if (dataset := carried.get("dataset")) is None:
        return carried
    try:
        return carried | {"dataset": DatasetSpec.from_dict(dataset)}
    except ConfigError as error:
        raise CheckpointError(f"{path}: its description ({KEY}: dataset) is damaged: {error}") from error


def _load_reference(net: nn.Module, checkpoint: Checkpoint) -> list[str]:
    stages = {int(name.split(".")[3]) for name in checkpoint.weights if name.startswith("decoder.interactor.layers.")}
    built = (getattr(net, "arguments", None) or {}).get("stages")
    if stages and getattr(net, "interaction", None) is not None and max(stages) + 1 != built:
        raise CheckpointError(
            f"{checkpoint.path} (reference names) has {max(stages) + 1} interaction stages, "
            f"the config has stages={built}."
        )
    try:
        return load_reference_weights(net, checkpoint.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
