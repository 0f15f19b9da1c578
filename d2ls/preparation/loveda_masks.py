"""LoveDA's published masks to class indices, with a coloured copy for the eye."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from d2ls.data import io as files
from d2ls.data.labels import index_to_colours
from d2ls.data.pairs import list_images
from d2ls.data.sets import loveda
from d2ls.errors import DataError
from d2ls.preparation import pool
from d2ls.preparation.patches import Report
from d2ls.preparation.splitting import clear_parts, make_folder


def coloured(folder: Path) -> Path:
    """The folder of the coloured copies of a folder of converted masks."""
    return folder.with_name(f"{folder.name}_rgb")


def convert_all(masks: Path, output: Path, workers: int, *, label: str = "Masks") -> Report:
    """Convert all masks of a folder to `output` and `coloured(output)`.

    Raises:
        DataError: the folder is missing or empty, a mask cannot be read or has values that LoveDA has not.
    """
    begin = time.time()
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder. Expected LoveDA's masks as published (masks_png).")
    found = list_images(masks)
    if not found:
        raise DataError(f"{masks}: no masks in it. Expected LoveDA's masks as published (masks_png/*.png).")
    if masks.resolve() in (output.resolve(), coloured(output).resolve()):
        raise DataError(f"{output}: converted masks would replace the published ones; choose another folder.")
    for folder in (output, coloured(output)):
        make_folder(folder)
    total = Report()
    for report in pool.run(partial(_convert, output=output), list(found.values()), workers, label):
        total.add(report)
    for folder in (output, coloured(output)):
        clear_parts(folder, found, begin)
    total.written.sort()
    return total


def _convert(path: Path, output: Path) -> Report:
    """Convert one mask."""
    index = loveda.convert(files.read_index(path), loveda.SPEC, path)
    files.write_png(output / f"{path.stem}.png", index)
    files.write_png(coloured(output) / f"{path.stem}.png", index_to_colours(index, loveda.SPEC))
    return Report([path.stem], np.bincount(index.ravel(), minlength=256))
