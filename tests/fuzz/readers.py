"""Reads damaged images and masks in a process of its own, whose end the test watches: python -m tests.fuzz.readers.

Prints counts as JSON. A mask in a format with checksums must come back exact or not at all; any other picture must be
refused with the file's name, or be pixels of the size that its header gives.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from d2ls.data import io as files
from d2ls.errors import DataError
from tests.data.folders import labels, picture
from tests.data.test_io import GOOD
from tests.fuzz.mutate import MUTATIONS, Rng, flip_bits, overwrite, with_checksums

SHAPE = (40, 60)
INDEX = labels(*SHAPE, 0)
COLOURS = np.array([(0, 0, 0), (128, 0, 0), (64, 0, 128)], np.uint8)[INDEX]
RGB = cv2.resize(picture(20, 30, 0), SHAPE[::-1])
MASKS: dict[str, tuple[Callable[[Path], object], Callable[[Path], files.Pixels]]] = {
    "index png": (lambda path: files.write_png(path, INDEX), files.read_index),
    "index png of Pillow": (lambda path: Image.fromarray(INDEX).save(path), files.read_index),
    "palette png": (lambda path: Image.fromarray(COLOURS).quantize(4).save(path), files.read_index),
    "colour png": (lambda path: files.write_png(path, COLOURS), files.read_colours),
    "colours of a palette png": (lambda path: Image.fromarray(COLOURS).quantize(4).save(path), files.read_colours),
    "deflated index tiff": (
        lambda path: Image.fromarray(INDEX).save(path, format="TIFF", compression="tiff_adobe_deflate"),
        files.read_index,
    ),
    "deflated colour tiff": (
        lambda path: Image.fromarray(COLOURS).save(path, format="TIFF", compression="tiff_adobe_deflate"),
        files.read_colours,
    ),
}


def damaged(data: bytes, rng: Rng, *, strip: bool) -> bytes:
    """Damage of any kind; with `strip` in the pixels' part of a TIFF of Pillow's, which lies between two headers."""
    if strip:
        begin, end = 8, int.from_bytes(data[4:8], "little")
        if end <= 8:  # the directory comes first: the pixels are what lies behind it
            begin, end = len(data) - 200, len(data)
        return data[:begin] + (flip_bits if rng.random() < 0.7 else overwrite)(data[begin:end], rng) + data[end:]
    name = list(MUTATIONS)[int(rng.integers(len(MUTATIONS)))]
    return MUTATIONS[name](data, rng)


def fuzz_masks(folder: Path, rng: Rng, cases: int, counts: Counter[str]) -> None:
    """Masks whose format has checksums."""
    for kind, (save, read) in MASKS.items():
        path = folder / "mask.png"
        save(path)
        whole, exact = path.read_bytes(), read(path)
        for _ in range(cases):
            data = damaged(whole, rng, strip="tiff" in kind)
            path.write_bytes(data)
            try:
                pixels = read(path)
            except DataError as error:
                counts["refused" if str(error).startswith(f"{path}: ") else f"unnamed in {kind}"] += 1
            else:
                counts["exact" if np.array_equal(pixels, exact) else f"wrong {kind}"] += 1


def fuzz_images(folder: Path, rng: Rng, cases: int, counts: Counter[str]) -> None:
    """Images of every kind that is read, whole and by a window; PNGs also with their checksums mended."""
    for kind, save in GOOD.items():
        for path in folder.iterdir():
            path.unlink()
        save(folder, RGB)
        (path,) = folder.iterdir()
        whole = path.read_bytes()
        for _ in range(cases):
            data = damaged(whole, rng, strip=False)
            path.write_bytes(with_checksums(data) if rng.random() < 0.5 and data.startswith(b"\x89PNG") else data)
            try:
                if rng.random() < 0.3:
                    pixels, size = files.read_window(path, 3, 5, 20, 30), (20, 30)
                elif rng.random() < 0.2:
                    pixels = files.read_index(path)[..., None].repeat(3, -1)
                    size = files.read_size(path)
                else:
                    pixels, size = files.read_image(path), files.read_size(path)
            except DataError as error:
                counts["refused" if str(error).startswith(f"{path}: ") else f"unnamed in {kind}"] += 1
            else:
                fits = pixels.shape == (*size, 3) and pixels.dtype == np.uint8
                counts["read" if fits else f"of wrong shape {kind}"] += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cases", type=int, required=True, help="of each kind")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        fuzz_masks(Path(scratch), np.random.default_rng(options.seed), options.cases, counts)
        fuzz_images(Path(scratch), np.random.default_rng(options.seed + 1), options.cases, counts)
    print(json.dumps({"cases": counts.total(), **counts}))
