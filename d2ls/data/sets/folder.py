"""Any folder of images and masks as a data set, without code: its layout is recognised, its classes stand in a table.

Layouts, where `val` and `test` may be missing and masks of `test` too:

    <folder>/{train,val,test}/{images,masks}     each split has its folders
    <folder>/{images,masks}/{train,val,test}     each folder has its splits
    <folder>/{images,masks}                      split by train.txt, val.txt, test.txt (a stem a line), else by blocks
    <folder>/{train,val,test}, or <folder>       images and masks side by side, told apart by their suffixes

Stems match without the suffixes of SUFFIX: `12_sat.jpg` and `12_mask.png` are a pair.
"""

import csv
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from d2ls.data.augment import Augmentation
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.labels import read_colour_mask, read_index_mask
from d2ls.data.pairs import Pair, list_images
from d2ls.data.spec import IGNORE, Colour, DatasetSpec
from d2ls.errors import ConfigError, DataError

CLASSES = "classes.csv"
SPLITS = ("train", "val", "test")
IMAGES = ("images", "image", "imgs", "img", "img_dir")
MASKS = ("masks", "mask", "labels", "label", "annotations", "ann_dir", "gt")
IMAGE_SUFFIX = re.compile(r"[_-](sat|img|image|rgb|ortho)$", re.IGNORECASE)
MASK_SUFFIX = re.compile(r"[_-](masks?|labels?|gt|seg|annotations?)$", re.IGNORECASE)
BLOCKS, VALIDATION_BLOCK = 10, 4  # of ten blocks of successive names, those numbered 4 and 9 validate
IGNORE_INDEX = 255
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (120, 94, 240), (254, 97, 0), (100, 143, 255), (220, 38, 127), (102, 166, 30),
)  # fmt: skip
"""Colours of classes whose masks hold values: the first are told apart by colour-blind people, too."""


class Entry(NamedTuple):
    """A row of the table of classes.

    Attributes:
        value: in masks of values, 0..255; None in masks of colours.
        colour: in masks of colours, or the one to show; None for one of PALETTE.
        name: of the class; "ignore" for pixels that count nowhere. Several rows may have one name.
        scored: whether the class counts in mIoU and mean F1.
    """

    value: int | None
    colour: Colour | None
    name: str
    scored: bool = True


class OwnSplits(ABC):
    """The splits of a user's own data."""

    @abstractmethod
    def dataset(self, split: str, augmentation: Augmentation | None = None) -> SegmentationDataset:
        """The images of a split: "train", "val" or "test"."""

    def train(self, augmentation: Augmentation | None = None, **changes: Any) -> SegmentationDataset:
        """Training images, with the fields of an augmentation that `changes` names, such as `crop=256`."""
        return self.dataset("train", replace(augmentation or Augmentation(crop=256), **changes))

    def val(self) -> SegmentationDataset:
        """Validation images."""
        return self.dataset("val")

    def test(self) -> SegmentationDataset:
        """Test images; the validation images where there are none."""
        return self.dataset("test")


class FolderDataset(OwnSplits):
    """The splits of a folder.

    Args:
        folder: in one of the layouts above, with a table `classes.csv`.
        classes: another table.

    Raises:
        ConfigError: no folder, no table, or one that cannot be read; says what makes it.
    """

    def __init__(self, folder: Path | str, classes: Path | str | None = None) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ConfigError(f"data={str(folder)!r}: no such folder. Give the folder of your images and masks.")
        table = Path(classes) if classes is not None else self.folder / CLASSES
        self.spec, self._read_mask = spec_of(read_classes(table), name=self.folder.resolve().name)

    def dataset(self, split: str, augmentation: Augmentation | None = None) -> SegmentationDataset:
        """The images of a split."""
        listing = partial(pairs_of, self.folder, split)
        return SegmentationDataset(self.spec, listing, read_mask=self._read_mask, augmentation=augmentation)


def read_classes(path: Path) -> list[Entry]:
    """Read a table of classes: a CSV file with the columns `value` or `colour`, `name` and, if wanted, `scored`.

    Colours are `#rrggbb` or `r g b`; `scored` is 1 or 0.

    Raises:
        ConfigError: no such file, or a row that means nothing; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no table of classes. Write one with the columns value,name, a line for each value of the masks, "
            "such as 1,crop; the name ignore stands for pixels that count nowhere. For a folder of images and masks, "
            f"tools/describe_data.py {path.parent} --write makes one."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise ConfigError(f"{path}: cannot be read as CSV: {problem}.") from problem
    entries = []
    for line, row in enumerate(rows, 2):
        texts = ((name or "", text) for name, text in row.items() if isinstance(text, str))
        cells = {name.strip().lower(): text.strip() for name, text in texts}
        try:
            value = int(cells["value"]) if cells.get("value") else None
            colour = parse_colour(cells["colour"]) if cells.get("colour") else None
            scored = {"": True, "1": True, "0": False}[cells.get("scored", "")]
        except (ValueError, KeyError) as problem:
            expected = "a value of 0 to 255, a colour such as #3c1098, scored 1 or 0"
            raise ConfigError(f"{path}, line {line}: {problem}; expected {expected}.") from problem
        if not cells.get("name") or (value is None and colour is None):
            raise ConfigError(f"{path}, line {line}: expected a name, and a value or a colour, found {cells}.")
        entries.append(Entry(value, colour, cells["name"], scored))
    return entries


def format_classes(entries: Iterable[Entry], **further: Iterable[Any]) -> str:
    """A table of classes as `read_classes` takes it; entries without a colour get one of PALETTE.

    Args:
        entries: the rows.
        further: columns of notes, by their names.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("value", "colour", "name", "scored", *further))
    for at, (entry, *notes) in enumerate(zip(entries, *further.values(), strict=True)):
        colour = hex_of(entry.colour or PALETTE[at % len(PALETTE)])
        table.writerow((entry.value, colour, entry.name, int(entry.name != IGNORE), *notes))
    return stream.getvalue()


def hex_of(colour: Colour) -> str:
    """A colour as `#rrggbb`."""
    return f"#{bytes(colour).hex()}"


def spec_of(entries: Iterable[Entry], name: str) -> tuple[DatasetSpec, Any]:
    """The description that a table of classes stands for, and what reads its masks.

    Raises:
        ConfigError: values and colours are mixed, or contradict each other.
    """
    listed = list(entries)
    by_value = {entry.value is not None for entry in listed}
    if len(by_value) != 1:
        raise ConfigError(f"{name}: the table of classes must have a value in every row, or a colour in every row.")
    classes = tuple(dict.fromkeys(entry.name for entry in listed if entry.name != IGNORE))
    first = {entry.name: entry for entry in reversed(listed)}
    shown = [first[one].colour or PALETTE[place % len(PALETTE)] for place, one in enumerate(classes)]
    common: dict[str, Any] = {
        "name": name, "classes": classes, "ignore_index": IGNORE_INDEX,
        "scored": tuple(place for place, one in enumerate(classes) if first[one].scored),
    }  # fmt: skip
    if by_value == {True}:
        values = {int(entry.value or 0): entry.name for entry in listed}
        if len(values) < len(listed):
            raise ConfigError(f"{name}: the table of classes has a value twice.")
        return DatasetSpec(**common, colours=_distinct(shown), values=values), read_index_mask
    ignored = tuple(entry.colour for entry in listed if entry.name == IGNORE and entry.colour)
    further = {entry.colour: classes.index(entry.name) for entry in listed if entry.name != IGNORE and entry.colour}
    for colour in shown:
        further.pop(colour, None)
    return DatasetSpec(**common, colours=tuple(shown), ignore_colours=ignored, also_read=further), read_colour_mask


def pairs_of(folder: Path, split: str) -> list[Pair]:
    """Images of a split with their masks; "test" is "val" where a folder has no test images.

    Raises:
        DataError: no layout is recognised, the split is empty, or an image has no mask; says which files.
    """
    found = splits_of(folder)
    if split == "test" and not found.get("test"):
        split = "val"
    if not found.get(split):
        raise DataError(
            f"{folder}: no {split} images. Expected {split}/images and {split}/masks, or images/{split} and "
            f"masks/{split}, or images and masks with a list {split}.txt."
        )
    if split != "test" and (alone := [pair.image for pair in found[split] if pair.mask is None]):
        raise DataError(
            f"{folder}: no mask for {len(alone)} of {len(found[split])} {split} images (first: {alone[0].name}). Masks "
            "must have the stems of their images, or these with _mask, _label or _gt behind them."
        )
    return found[split]


def parse_colour(text: str) -> Colour:
    """A colour from `#rrggbb` or three numbers.

    Raises:
        ValueError: neither.
    """
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", text)
    numbers = bytes.fromhex(match[1]) if match else [int(number) for number in re.findall(r"\d+", text)]
    if len(numbers) != 3 or max(numbers) > 255:
        raise ValueError(f"{text!r} is no colour")
    return numbers[0], numbers[1], numbers[2]


def splits_of(folder: Path) -> dict[str, list[Pair]]:
    """Pairs by split, in whichever layout the folder has; an image without a mask is a pair without one."""
    images, masks = _child(folder, IMAGES), _child(folder, MASKS)
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    if images is None and splits:
        return {split: _pairs(folder / split) for split in splits}
    if images is not None and (inner := [split for split in SPLITS if (images / split).is_dir()]):
        return {split: _matched(images / split, masks and masks / split) for split in inner}
    return _split(folder, _pairs(folder))


def _pairs(folder: Path) -> list[Pair]:
    """Pairs of a folder with images/ and masks/, or of files side by side."""
    if (images := _child(folder, IMAGES)) is not None:
        return _matched(images, _child(folder, MASKS))
    files = list_images(folder)
    masks = {stem: path for stem, path in files.items() if MASK_SUFFIX.search(stem)}
    return _joined({stem: path for stem, path in files.items() if stem not in masks}, masks)


def _matched(images: Path, masks: Path | None) -> list[Pair]:
    return _joined(list_images(images), list_images(masks) if masks is not None and masks.is_dir() else {})


def _joined(images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[Pair]:
    """Each image with the mask of its stem, both with or without their suffixes."""
    plain = {MASK_SUFFIX.sub("", stem): path for stem, path in masks.items()}
    return [Pair(path, plain.get(stem) or plain.get(IMAGE_SUFFIX.sub("", stem)), stem) for stem, path in images.items()]


def _split(folder: Path, pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Split by lists of stems where there are any, else by blocks of successive names."""
    lists = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
    result: dict[str, list[Pair]] = {} if lists else {"train": [], "val": []}
    if not lists:
        for place, pair in enumerate(pairs):
            block = place * BLOCKS // len(pairs)
            result["val" if block % (BLOCKS // 2) == VALIDATION_BLOCK else "train"].append(pair)
        if not result["val"] and len(pairs) > 1:  # of fewer than five images
            result["val"].append(result["train"].pop())
    by_name = {pair.name: pair for pair in pairs} | {pair.image.name: pair for pair in pairs}
    for split, path in lists.items():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if unknown := [name for name in names if name not in by_name]:
            raise DataError(f"{path}: {len(unknown)} names have no image in {folder} (first: {unknown[0]}).")
        result[split] = [by_name[name] for name in names]
    return result


def _child(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _distinct(colours: list[Colour]) -> tuple[Colour, ...]:
    """Colours with repeated ones changed a little, so that each class has its own."""
    seen: list[Colour] = []
    for colour in colours:
        changed = colour
        while changed in seen:
            changed = (changed[0] + 37) % 256, (changed[1] + 91) % 256, (changed[2] + 53) % 256
        seen.append(changed)
    return tuple(seen)
