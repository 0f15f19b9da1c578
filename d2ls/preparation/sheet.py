"""Contact sheet of a data set: random images, the same overlaid with their labels, and a legend."""

import random

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from d2ls.data import io as files
from d2ls.data.labels import index_to_colours
from d2ls.data.spec import DatasetSpec
from d2ls.errors import DataError
from d2ls.preparation.check import Job, read_mask

Pixels = NDArray[np.uint8]
_CELL, _GAP, _TEXT, _COLUMNS = 300, 10, 18, 3  # px, px, px, pairs in a row
_PAIRS = 12
_MOST_LETTERS = 80  # of a name, that fit above its pair
_OPACITY = 0.5  # of the labels' colours over the image
_BACKGROUND, _FOREGROUND = (250, 250, 250), (30, 30, 30)


def contact_sheet(jobs: list[Job], spec: DatasetSpec) -> Pixels:
    """Draw random pairs of images and masks, RGB (H, W, 3), of those that can be read (raises DataError: none)."""
    candidates = [job for job in jobs if job.masks and job.folder.family not in (None, "originals")]
    candidates = candidates or [job for job in jobs if job.masks]
    random.Random(0).shuffle(candidates)
    cells: list[tuple[str, Pixels, Pixels]] = []
    for job in candidates:
        if len(cells) == _PAIRS:
            break
        try:
            image, mask = files.read_image(job.image), read_mask(*job.masks[0], spec)
        except DataError:
            continue
        if image.shape[:2] == mask.shape:
            cells.append((f"{job.folder.split}: {job.stem}", *_overlaid(image, mask, spec)))
    if not cells:
        raise DataError(f"No image of {spec.name} with a mask could be read, so there is nothing to draw.")
    return _draw(cells, spec)


def _overlaid(image: Pixels, mask: Pixels, spec: DatasetSpec) -> tuple[Pixels, Pixels]:
    """The image, and the image overlaid with its labels, both resized to a cell; ignored pixels are striped."""
    scale = _CELL / max(mask.shape)
    size = tuple(max(1, round(side * scale)) for side in reversed(mask.shape))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    labels = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    colours = index_to_colours(labels, spec)
    rows, columns = np.indices(labels.shape)
    colours[(labels == spec.ignore_index) & ((rows + columns) // 6 % 2 == 0)] = 90
    mixed = cv2.addWeighted(small, 1 - _OPACITY, colours, _OPACITY, 0)
    mixed[labels == spec.ignore_index] = colours[labels == spec.ignore_index]
    return small, mixed


def _draw(cells: list[tuple[str, Pixels, Pixels]], spec: DatasetSpec) -> Pixels:
    font = ImageFont.load_default(size=_TEXT - 5)
    entries = [*zip(spec.classes, spec.colours, strict=True), ("ignore (striped)", (90, 90, 90))]
    columns = min(_COLUMNS, len(cells))
    across, down = 2 * _CELL + 2 * _GAP, _CELL + _TEXT + _GAP
    width, entry = columns * across + _GAP, max(int(font.getlength(name)) for name, _ in entries) + _TEXT + 3 * _GAP
    per_line = max(1, width // entry)
    below = -(-len(entries) // per_line) * (_TEXT + _GAP) + _GAP
    sheet = Image.new("RGB", (width, below + -(-len(cells) // columns) * down), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (name, colour) in enumerate(entries):
        x, y = _GAP + number % per_line * entry, _GAP + number // per_line * (_TEXT + _GAP)
        draw.rectangle((x, y, x + _TEXT, y + _TEXT - 2), colour, _FOREGROUND)
        draw.text((x + _TEXT + 6, y), name, _FOREGROUND, font)
    for number, (name, image, mixed) in enumerate(cells):
        left, top = _GAP + number % columns * across, below + number // columns * down
        draw.text((left, top), name[-_MOST_LETTERS:], _FOREGROUND, font)
        for offset, pixels in ((0, image), (_CELL + 2, mixed)):
            sheet.paste(Image.fromarray(pixels), (left + offset, top + _TEXT))
    return np.asarray(sheet)
