"""What follows once the originals are in place: patches, converted masks, and the union of train and val."""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from d2ls.data.io import write_bytes
from d2ls.data.pairs import list_images
from d2ls.data.sets import loveda, potsdam, uavid, vaihingen
from d2ls.errors import DataError
from d2ls.preparation.loveda_masks import coloured, convert_all
from d2ls.preparation.originals import Naming, pair_frames, pair_tiles
from d2ls.preparation.patches import Cutting, Report
from d2ls.preparation.placing import link_all
from d2ls.preparation.splitting import split_all

SIDE = 1024  # of patches
UAVID_CANVAS = (2048, 4096)  # frames are 3840 or 4096 x 2160
_JOURNAL = ".d2ls_prepared.json"
_VERSION = 1  # another one makes all steps run again


@dataclass(frozen=True)
class Step:
    """One conversion of a prepared data set.

    Attributes:
        name: what it makes, for the user.
        inputs, outputs: folders that it reads and that it alone fills.
        run: takes the number of processes.
    """

    name: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    run: Callable[[int], Report]

    @property
    def ready(self) -> bool:
        """Whether its input is there at all."""
        return all(folder.is_dir() for folder in self.inputs)


class Journal:
    """Which steps are done, on which input and with which output; a file in the data set's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _JOURNAL
        self.done: dict[str, str] = {}
        with suppress(OSError, ValueError):  # a journal that is lost or damaged: every step is looked at again
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self.done = found if isinstance(found, dict) else {}

    def has(self, step: Step) -> bool:
        """Whether a step was done, and neither its input nor its output has changed since."""
        return self.done.get(step.name) == _state(step)

    def begin(self, step: Step) -> None:
        """Note that the output folders are ours from now on.

        Raises:
            DataError: there are files in them that no run of ours has written.
        """
        if step.name not in self.done:
            for folder in step.outputs:
                if found := [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]:
                    raise DataError(
                        f"{folder}: holds {len(found)} files that prepare_data has not made (first: {found[0].name}). "
                        "They are not overwritten: move the folder away and run this again, or use it as it is."
                    )
        self._note(step, "begun")

    def add(self, step: Step) -> None:
        """Note that a step is done."""
        self._note(step, _state(step))

    def _note(self, step: Step, state: str) -> None:
        self.done[step.name] = state
        write_bytes(self.path, json.dumps(self.done, indent=1).encode())


def steps(name: str, root: Path) -> list[Step]:
    """The steps of a data set, in order; empty where the originals are what is trained on."""
    makers = {"vaihingen": _isprs, "potsdam": _isprs, "loveda": _loveda, "uavid": _uavid}
    return makers[name](name, root) if name in makers else []


def _isprs(name: str, root: Path) -> list[Step]:
    """Training patches (Vaihingen overlapping by half), test patches of eroded labels, their full colour masks."""
    home = root / name
    made = []
    for split, masks, output in (
        ("train", "train_masks", "masks_1024"),
        ("test", "test_masks_eroded", "masks_1024"),
        ("test", "test_masks", "masks_1024_rgb"),
    ):
        training, eroded, colours = split == "train", masks.endswith("eroded"), output.endswith("rgb")
        if name == "vaihingen":
            spec, stride, naming = vaihingen.SPEC, SIDE // 2 if training else SIDE, Naming.vaihingen(eroded=eroded)
        else:
            spec, stride, naming = potsdam.SPEC, SIDE, Naming.potsdam(rgb=True, eroded=eroded)
        cutting = Cutting(
            spec=spec,
            images=home / split / "images_1024",
            masks=home / split / output,
            size=(SIDE, SIDE),
            stride=(stride, stride),
            variants=3 if training else 1,
            crowds=spec.classes.index("Car") if training and name == "vaihingen" else None,
            colours=colours,
        )
        inputs = home / f"{split}_images", home / masks
        outputs = (cutting.masks,) if colours else (cutting.images, cutting.masks)
        made.append(Step(f"{name}/{split}/{output}", inputs, outputs, _splitting(cutting, inputs, naming)))
    return made


def _splitting(cutting: Cutting, inputs: tuple[Path, Path], naming: Naming) -> Callable[[int], Report]:
    return lambda workers: split_all(pair_tiles(*inputs, naming), cutting, workers, label=cutting.masks.parent.name)


def _loveda(name: str, root: Path) -> list[Step]:
    """Converted masks of Train and Val, and `train_val` of both."""
    home, made = root / "LoveDA", []
    kinds = ("images_png", "masks_png", "masks_png_convert", "masks_png_convert_rgb")
    for split in ("Train", "Val"):
        for area in loveda.AREAS:
            masks, output = home / split / area / "masks_png", home / split / area / "masks_png_convert"

            def convert(workers: int, masks: Path = masks, output: Path = output) -> Report:
                return convert_all(masks, output, workers)

            outputs = (output, coloured(output))
            made.append(Step(f"{name}/{split}/{area}/masks_png_convert", (masks,), outputs, convert))
    for area in loveda.AREAS:
        sources = {kind: [home / split / area / kind for split in ("Train", "Val")] for kind in kinds}
        made.append(_union(f"{name}/train_val/{area}", sources, home / "train_val" / area))
    return made


def _uavid(name: str, root: Path) -> list[Step]:
    """`uavid_train_val` of both, patches of train and val, and `train_val` of both."""
    home, made = root / "uavid", []
    for split in ("train", "val"):
        cutting = Cutting(
            spec=uavid.SPEC,
            images=home / split / "images",
            masks=home / split / "masks",
            size=(SIDE, SIDE),
            stride=(SIDE, SIDE),
            canvas=UAVID_CANVAS,
            suffix=".png",
        )

        def cut(workers: int, cutting: Cutting = cutting, source: Path = home / f"uavid_{split}") -> Report:
            return split_all(pair_frames(source), cutting, workers, label=cutting.masks.parent.name)

        outputs = cutting.images, cutting.masks
        made.append(Step(f"{name}/{split}", (home / f"uavid_{split}",), outputs, cut))
    sources = {kind: [home / split / kind for split in ("train", "val")] for kind in ("images", "masks")}
    made.append(_union(f"{name}/train_val", sources, home / "train_val"))
    frames = [home / f"uavid_{split}" for split in ("train", "val")]
    target = home / "uavid_train_val"
    made.append(Step(f"{name}/uavid_train_val", tuple(frames), (target,), lambda _: _join_sequences(frames, target)))
    return made


def _union(name: str, sources: dict[str, list[Path]], target: Path) -> Step:
    """Hard links of the files of several folders in one, for each kind of file."""

    def run(_: int) -> Report:
        written: list[str] = []
        for kind, folders in sources.items():
            found = [path for folder in folders if folder.is_dir() for path in list_images(folder).values()]
            if len({path.name for path in found}) < len(found):
                raise DataError(f"{target / kind}: train and val have files of the same name; they must differ.")
            link_all(found, target / kind)
            written += [f"{kind}/{path.name}" for path in found]
        return Report(written)

    inputs = tuple(folder for folders in sources.values() for folder in folders)
    return Step(name, inputs, tuple(target / kind for kind in sources), run)


def _join_sequences(splits: Iterable[Path], target: Path) -> Report:
    """All sequences of several folders in one, by hard links."""
    written = []
    for split in splits:
        for folder in sorted(split.glob("*/*")):
            if folder.name in ("Images", "Labels"):
                found = list(list_images(folder).values())
                link_all(found, target / folder.parent.name / folder.name)
                written += [f"{folder.parent.name}/{folder.name}/{path.name}" for path in found]
    return Report(written)


def _state(step: Step) -> str:
    """A fingerprint of the files that a step reads and has written: names, sizes and, of the input, times."""
    digest = hashlib.sha256(f"{_VERSION}".encode())
    for folders, timed in ((step.inputs, True), (step.outputs, False)):
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    facts = path.stat()
                    time = facts.st_mtime_ns if timed else 0
                    digest.update(f"{path.relative_to(folder)}|{facts.st_size}|{time}\n".encode())
    return digest.hexdigest()
