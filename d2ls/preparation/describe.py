"""Description of a folder of images and masks: sizes, bands, mask values and their shares, what looks wrong."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from d2ls.data import io as files
from d2ls.data.pairs import Pair
from d2ls.data.sets.folder import PALETTE, splits_of
from d2ls.data.spec import IGNORE, Colour
from d2ls.errors import DataError

MOST_LABELS = 64  # more values or colours than this are a photograph or a lossy mask
MOST_LINES = 5  # files named of each kind of problem
RARE = 1e-4  # share of pixels below which a class can hardly be learnt
Label = int | Colour


@dataclass
class Description:
    """Content of a folder.

    Attributes:
        images, masks: number of files by split.
        kinds: images by bands and depth, such as "8-bit rgb".
        sizes: height and width of the images, and how often each occurs.
        labels: pixels by mask value, or by colour where the masks are colour pictures.
        problems: files by what is wrong with them.
    """

    images: Counter[str] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    labels: Counter[Label] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def add_problem(self, kind: str, line: str) -> None:
        """Note a file below what is wrong with it."""
        self.problems.setdefault(kind, []).append(line)


def describe(folder: Path, progress: Callable[[], object] = lambda: None) -> Description:
    """Read the headers of all images and all pixels of all masks.

    Args:
        folder: in one of the layouts of `d2ls.data.sets.folder`.
        progress: called after each pair.

    Raises:
        DataError: the folder cannot be listed, or holds no images.
    """
    splits = splits_of(folder)
    result = Description()
    for split, pairs in splits.items():
        for pair in pairs:
            result.images[split] += 1
            result.masks[split] += pair.mask is not None
            _add(result, pair, needs_mask=split != "test")
            progress()
    if not result.images:
        raise DataError(f"{folder}: no images in it. docs/your_data.md shows the layouts that are recognised.")
    return result


def count_pairs(folder: Path) -> int:
    """Number of images, for a progress bar."""
    return sum(len(pairs) for pairs in splits_of(folder).values())


def advice(found: Description) -> list[str]:
    """Sentences on what looks unusual in the labels."""
    values = sorted(label for label in found.labels if isinstance(label, int))
    colours = [label for label in found.labels if not isinstance(label, int)]
    total = max(1, sum(found.labels.values()))
    lines = []
    if values and colours:
        lines.append("Some masks hold values and others colours: make them all of one kind.")
    if max(len(values), len(colours)) > MOST_LABELS:
        lines.append(
            f"More than {MOST_LABELS} values or colours: are these photographs, or masks saved with loss (JPEG)?"
        )
        return lines
    if values == [0, 255]:
        lines.append("Masks of 0 and 255: the table names them background and foreground; rename them.")
    elif values and values[0] == 1:
        lines.append("Labels begin with 1: the table lists them as they are, nothing is shifted.")
    if len(found.labels) == 1:
        lines.append("Only one value in all masks: there is nothing to tell apart.")
    for label, pixels in found.labels.items():
        if pixels / total < RARE:
            lines.append(
                f"{_text(label)} covers {pixels / total:.4%} of the pixels: hardly enough to learn a class from "
                "(docs/your_data.md, rare classes)."
            )
    return lines


def classes_table(found: Description) -> str:
    """A ready `classes.csv`; names and `ignore` are proposals to be edited.

    Raises:
        DataError: no masks, or no masks of classes.
    """
    labels = sorted(found.labels, key=lambda label: (isinstance(label, int), label))
    if not labels or len(labels) > MOST_LABELS:
        raise DataError(
            f"{len(labels)} different mask values: expected 1 to {MOST_LABELS} to make a table of classes of."
        )
    total = sum(found.labels.values())
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("value", "colour", "name", "scored", "pixels", "share"))
    for place, label in enumerate(labels):
        value, colour = (label, PALETTE[place % len(PALETTE)]) if isinstance(label, int) else ("", label)
        name = _proposed_name(label, labels)
        share = f"{found.labels[label] / total:.6f}"
        table.writerow(
            (value, "#{:02x}{:02x}{:02x}".format(*colour), name, int(name != IGNORE), found.labels[label], share)
        )
    return stream.getvalue()


def tell(found: Description, console: Console) -> None:
    """Print the description."""
    console.print(", ".join(f"{split}: {n} images, {found.masks[split]} masks" for split, n in found.images.items()))
    console.print("images: " + ", ".join(f"{n} {kind}" for kind, n in found.kinds.most_common()))
    heights, widths = zip(*found.sizes, strict=True) if found.sizes else ((0,), (0,))
    console.print(
        f"sizes: {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)} pixels, {len(found.sizes)} different"
    )
    table = Table(title="mask pixels")
    for name in ("label", "pixels", "share"):
        table.add_column(name, justify="right")
    total = max(1, sum(found.labels.values()))
    for label, pixels in found.labels.most_common(MOST_LABELS):
        table.add_row(_text(label), f"{pixels:,}", f"{pixels / total:.3%}")
    console.print(table)
    for kind, lines in found.problems.items():
        console.print(f"{len(lines)} {kind}:", style="bold red", highlight=False)
        for line in lines[:MOST_LINES]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > MOST_LINES:
            console.print(f"  and {len(lines) - MOST_LINES} more")
    for line in advice(found):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)


def _add(result: Description, pair: Pair, *, needs_mask: bool) -> None:
    sizes = []
    for path in filter(None, (pair.image, pair.mask)):
        try:
            header = files.read_kind(path)
        except DataError as problem:
            result.add_problem("unreadable files", str(problem))
            return
        sizes.append((header.height, header.width))
        if path == pair.image:
            result.kinds[f"{header.bits}-bit {header.kind}"] += 1
            result.sizes[sizes[0]] += 1
    if pair.mask is None:
        if needs_mask:
            result.add_problem("images without a mask", str(pair.image))
        return
    if sizes[0] != sizes[1]:
        sides = " and ".join(f"{width} x {height}" for height, width in sizes)
        result.add_problem("masks of another size than their image", f"{pair.mask}: image and mask have {sides}")
    try:
        result.labels.update(_labels(pair.mask, header.kind))
    except DataError as problem:
        result.add_problem("masks that cannot be used", str(problem))


def _labels(path: Path, kind: str) -> dict[Label, int]:
    """Pixels by value or colour."""
    if kind.startswith(("grey", "palette")):
        counts = np.bincount(files.read_index(path).ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    pixels = files.read_colours(path).reshape(-1, 3).astype(np.uint32)
    codes, counts = np.unique(pixels[:, 0] << 16 | pixels[:, 1] << 8 | pixels[:, 2], return_counts=True)
    order = np.argsort(-counts)[: MOST_LABELS + 1]
    return {
        (int(c) >> 16, int(c) >> 8 & 255, int(c) & 255): int(n)
        for c, n in zip(codes[order], counts[order], strict=True)
    }


def _proposed_name(label: Label, labels: list[Label]) -> str:
    if labels == [0, 255]:
        return "background" if label == 0 else "foreground"
    others = [other for other in labels if other != 255]
    if label == 255 and others == list(range(len(others))):
        return IGNORE
    return f"class_{labels.index(label)}" if not isinstance(label, int) else f"class_{label}"


def _text(label: Label) -> str:
    return str(label) if isinstance(label, int) else "#{:02x}{:02x}{:02x}".format(*label)
