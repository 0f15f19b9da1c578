"""Images and network of a test run, from a config, a checkpoint, or both."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from d2ls.checkpoint import BestRecord, Checkpoint, best_record_of, load_weights, read_best, read_checkpoint
from d2ls.config import Settings
from d2ls.data import sets
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.spec import DatasetSpec
from d2ls.errors import CheckpointError, ConfigError


class Trained(NamedTuple):
    """A network with its weights, and lines about how they were found."""

    net: nn.Module
    checkpoint: Checkpoint
    notes: list[str]


def test_images(name: str, settings: Settings | None, *, validation: bool = False) -> SegmentationDataset:
    """The images of the test script of a data set: those of the config, else those of the data set."""
    split = "val" if validation else "test"
    if settings is None:
        facts = sets.find(name)
        return facts.val() if validation else facts.test()
    dataset = getattr(settings, f"{split}_dataset")
    if not isinstance(dataset, SegmentationDataset):
        raise ConfigError(
            f"{settings.path}: {split}_dataset={dataset!r}; expected a data set, such as {name}.{split}()."
        )
    if dataset.spec.name != name and dataset.spec.name in sets.names():
        raise ConfigError(
            f"{settings.path} is of {dataset.spec.name}, this script tests {name}. Use test_{dataset.spec.name}.py, "
            f"whose views are right for it, or a config of {name}."
        )
    return dataset


def trained_network(settings: Settings | None, weights: Path | None, spec: DatasetSpec) -> Trained:
    """The network that is tested on images of the spec's classes.

    The config builds it, else what the checkpoint says; `weights` is the checkpoint, else it is the config's.
    """
    notes: list[str] = []
    record = None
    if weights is None:
        if settings is None:
            raise ConfigError(
                "nothing says which network to test: give a config with -c, a checkpoint with -w, or both."
            )
        weights, record = _weights_of(settings, notes)
    checkpoint = read_checkpoint(weights)
    notes.append(_described(checkpoint, record))
    if checkpoint.spec is not None and checkpoint.spec.classes != spec.classes:
        raise CheckpointError(
            f"{weights} was trained on the classes {', '.join(checkpoint.spec.classes)} ({checkpoint.spec.name}); the "
            f"images have {', '.join(spec.classes)} ({spec.name}). Use a checkpoint and a config of one data set."
        )
    if settings is None:
        net = checkpoint.build()
    else:
        if settings.num_classes != spec.num_classes:
            raise ConfigError(
                f"{settings.path} has {settings.num_classes} classes, {', '.join(settings.classes)}; the masks have "
                f"{spec.num_classes}, {', '.join(spec.classes)}. Choose a config and colours of the same classes."
            )
        net = settings.net
        if left_out := load_weights(net, checkpoint):
            notes.append(
                f"{weights} has the reference's names; {len(left_out)} tensors that are never used are left out"
            )
    return Trained(net, checkpoint, notes)


def _weights_of(settings: Settings, notes: list[str]) -> tuple[Path, BestRecord | None]:
    """The checkpoint that a config names: the last run's best one with its record, or a file by its name."""
    folder = Path(settings.weights_path)
    named, last = folder / f"{settings.test_weights_name}.ckpt", folder / "last.ckpt"
    if settings.test_weights_name == settings.weights_name and best_record_of(folder).is_file():
        record = read_best(folder)
        path = None if record is None else folder / record.file
        if path is not None and path.is_file():
            return path, record
        what = "has no best checkpoint yet" if path is None else f"had its best checkpoint in {path}, which is gone"
        there = (
            f" Its newest state is {last}: test it with -w, or" if last.is_file() else " Name a checkpoint with -w, or"
        )
        raise CheckpointError(
            f"{folder}: the last training run {what}.{there} go on with that run (auto_resume=True) until it is "
            "validated. Checkpoints of earlier runs lie in sub-folders named by their time."
        )
    if named.is_file():
        return named, None
    if last.is_file():
        notes.append(f"no {named}; testing {last}")
        return last, None
    raise CheckpointError(f"neither {named} nor {last} is there. Train first, or name a checkpoint with -w.")


def _described(checkpoint: Checkpoint, record: BestRecord | None) -> str:
    """File, epoch and score of the weights, in words; a file of another epoch than the record says is refused."""
    epochs = f", after {checkpoint.epochs} epochs" if checkpoint.epochs is not None else ""
    if record is None:
        return f"weights: {checkpoint.path}{epochs}"
    if checkpoint.epochs not in (None, record.epoch):
        raise CheckpointError(
            f"{checkpoint.path} is of epoch {checkpoint.epochs}, its record says {record.epoch}: the run was stopped "
            "while it saved. Go on with that run (auto_resume=True), or name the checkpoint with -w."
        )
    return f"weights: {checkpoint.path}, the best of its run: epoch {record.epoch}, {record.monitor} {record.score:.4f}"
