"""Description of a folder of images and masks: sizes, bands, mask values and their shares, what looks wrong."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from d2ls.data import io as files
from d2ls.data.labels import count_colours, count_values
from d2ls.data.pairs import Pair
from d2ls.data.sets.folder import Entry, format_classes, hex_of, splits_of
from d2ls.data.spec import IGNORE, Colour
from d2ls.errors import DataError
from d2ls.preparation.check import print_problems

MOST_LABELS = 64  # more values or colours than this are a photograph or a lossy mask
RARE = 1e-4  # share of pixels below which a class can hardly be learnt
Label = int | Colour


@dataclass
class Description:
    """Content of a folder."""

    images: Counter[str] = field(default_factory=Counter)  # number of files by split
    masks: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # images by bands and depth, such as "8-bit rgb"
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # images by height and width
    labels: Counter[Label] = field(default_factory=Counter)  # pixels by value, or by colour of colour masks
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # files by what is wrong


def describe(folder: Path, bar: Progress | None = None) -> Description:
    """Read the headers of all images and all pixels of all masks, in one of the layouts of `d2ls.data.sets.folder`."""
    listed = [(split, pair) for split, pairs in splits_of(folder).items() for pair in pairs]
    if not listed:
        raise DataError(f"{folder}: no images in it. docs/your_data.md shows the layouts that are recognised.")
    result = Description()
    for split, pair in bar.track(listed, description="reading") if bar else listed:
        result.images[split] += 1
        result.masks[split] += pair.mask is not None
        _add(result, pair, needs_mask=split != "test")
    return result


def advice(found: Description) -> list[str]:
    """Sentences on what looks unusual in the labels."""
    values = sorted(label for label in found.labels if isinstance(label, int))
    colours = [label for label in found.labels if not isinstance(label, int)]
    total = max(1, sum(found.labels.values()))
    lines = []
    if values and colours:
        lines.append("Some masks hold values and others colours: make them all of one kind.")
    if max(len(values), len(colours)) > MOST_LABELS:
        return [*lines, f"More than {MOST_LABELS} values or colours: photographs, or masks saved with loss (JPEG)?"]
    if values == [0, 255]:
        lines.append("Masks of 0 and 255: the table names them background and foreground; rename them.")
    elif values and values[0] == 1:
        lines.append("Labels begin with 1: the table lists them as they are, nothing is shifted.")
    if len(found.labels) == 1:
        lines.append("Only one value in all masks: there is nothing to tell apart.")
    why = "of the pixels: hardly enough to learn a class from (docs/your_data.md, rare classes)."
    shares = ((label, pixels / total) for label, pixels in found.labels.items())
    return lines + [f"{_text(label)} covers {share:.4%} {why}" for label, share in shares if share < RARE]


def classes_table(found: Description) -> str:
    """A ready `classes.csv`; names and `ignore` are proposals (raises DataError: no masks, or no masks of classes)."""
    labels = sorted(found.labels, key=lambda label: (isinstance(label, int), label))
    if not labels or len(labels) > MOST_LABELS:
        raise DataError(f"{len(labels)} different mask values: expected 1 to {MOST_LABELS} for a table of classes.")
    total = sum(found.labels.values())
    names = [_proposed_name(label, labels) for label in labels]
    entries = [
        Entry(label, None, name) if isinstance(label, int) else Entry(None, label, name)
        for label, name in zip(labels, names, strict=True)
    ]
    pixels = [found.labels[label] for label in labels]
    return format_classes(entries, pixels=pixels, share=[f"{number / total:.6f}" for number in pixels])


def tell(found: Description, console: Console) -> None:
    """Print the description."""
    console.print(", ".join(f"{split}: {n} images, {found.masks[split]} masks" for split, n in found.images.items()))
    console.print("images: " + ", ".join(f"{n} {kind}" for kind, n in found.kinds.most_common()))
    heights, widths = zip(*found.sizes, strict=True) if found.sizes else ((0,), (0,))
    console.print(
        f"sizes: {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)} pixels, {len(found.sizes)} different"
    )
    table = Table(*(Column(name, justify="right") for name in ("label", "pixels", "share")), title="mask pixels")
    total = max(1, sum(found.labels.values()))
    for label, pixels in found.labels.most_common(MOST_LABELS):
        table.add_row(_text(label), f"{pixels:,}", f"{pixels / total:.3%}")
    console.print(table)
    print_problems(found.problems, console, more="")
    for line in advice(found):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)


def _add(result: Description, pair: Pair, *, needs_mask: bool) -> None:
    sizes = []
    for path in filter(None, (pair.image, pair.mask)):
        try:
            header = files.read_kind(path)
        except DataError as problem:
            result.problems["unreadable files"].append(str(problem))
            return
        sizes.append((header.height, header.width))
        if path == pair.image:
            result.kinds[f"{header.bits}-bit {header.kind}"] += 1
            result.sizes[sizes[0]] += 1
    if pair.mask is None:
        if needs_mask:
            result.problems["images without a mask"].append(str(pair.image))
        return
    if sizes[0] != sizes[1]:
        sides = " and ".join(f"{width} x {height}" for height, width in sizes)
        result.problems["masks of another size than their image"].append(f"{pair.mask}: image and mask have {sides}")
    try:
        result.labels.update(_labels(pair.mask, header.kind))
    except DataError as problem:
        result.problems["masks that cannot be used"].append(str(problem))


def _labels(path: Path, kind: str) -> Mapping[Any, int]:
    if kind.startswith(("grey", "palette")):
        return {value: count for value, count in enumerate(count_values(files.read_index(path)).tolist()) if count}
    return count_colours(files.read_colours(path), MOST_LABELS + 1)


def _proposed_name(label: Label, labels: list[Label]) -> str:
    if labels == [0, 255]:
        return "background" if label == 0 else "foreground"
    others = [other for other in labels if other != 255]
    if label == 255 and others == list(range(len(others))):
        return IGNORE
    return f"class_{labels.index(label)}" if not isinstance(label, int) else f"class_{label}"


def _text(label: Label) -> str:
    return str(label) if isinstance(label, int) else hex_of(label)
