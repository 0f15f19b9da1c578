"""Time the Potsdam split on drawn tiles against a straightforward conversion, one comparison per class.

    python benchmarks/patch_split.py [--tiles 4] [--side 6000] [--workers 2] [--json]

Both sides cut training patches (1024 px, stride 1024, three variants) of the same files with the same number of
processes, end to end: reading, converting, cutting, writing. The plain side makes each variant of the colour tile, pads
it, compares it with every class and writes patches as OpenCV does by default (LZW TIFF), the order in which the
earlier tools work; the second plain side converts only once a tile. All masks are compared with ours.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from d2ls.data.labels import index_to_colours
from d2ls.data.sets import isprs, potsdam
from d2ls.data.sets.layout import OriginalTile
from d2ls.data.sets.potsdam import SPEC
from d2ls.preparation import pool
from d2ls.preparation.steps import split_all
from d2ls.synthetic import draw_scene

SIZE = STRIDE = 1024
FLIPS = (np.s_[:, :], np.s_[:, ::-1], np.s_[::-1, :])


def draw_tiles(folder: Path, number: int, side: int) -> None:
    """Tiles under official names: drawn scenes side by side, a little noise on top, LZW TIFF as they are published."""
    pieces = [draw_scene(1000, seed) for seed in range(4)]
    for at in range(number):
        rng = np.random.default_rng(at)
        image, mask = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
        for top in range(0, side, 1000):
            for left in range(0, side, 1000):
                pixels, labels = pieces[rng.integers(4)]
                turns, place = int(rng.integers(4)), np.s_[top : top + 1000, left : left + 1000]
                height, width = mask[place].shape
                image[place] = np.rot90(pixels, turns)[:height, :width]
                mask[place] = np.rot90(labels, turns)[:height, :width]
        image ^= rng.integers(4, size=image.shape, dtype=np.uint8)
        tile = f"top_potsdam_2_{10 + at}"
        for name, array in ((f"images/{tile}_RGB", image), (f"masks/{tile}_label", index_to_colours(mask, SPEC))):
            path = folder / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path, compression="tiff_lzw")


def plain(original: OriginalTile, images: Path, masks: Path, *, once: bool) -> int:
    """Cut one tile in the straightforward way; `once` converts the mask before the variants are made."""
    image = np.array(Image.open(original.image).convert("RGB"))
    mask = np.array(Image.open(original.mask).convert("RGB"))
    if once:
        mask = compare_colours(mask)
    written = 0
    for variant, flip in enumerate(FLIPS):
        up, left = -image.shape[0] % SIZE, -image.shape[1] % SIZE
        pixels = np.pad(image[flip], ((up, 0), (left, 0), (0, 0)))
        labels = np.pad(mask[flip], ((up, 0), (left, 0), (0, 0))[: mask.ndim], constant_values=6 if once else 0)
        if not once:
            labels = compare_colours(labels)
        number = 0
        for y in range(0, labels.shape[0], STRIDE):
            for x in range(0, labels.shape[1], STRIDE):
                patch, target = pixels[y : y + SIZE, x : x + SIZE], labels[y : y + SIZE, x : x + SIZE]
                if target.shape == (SIZE, SIZE):
                    name = f"{original.stem}_{variant}_{number}"
                    cv2.imwrite(str(images / f"{name}.tif"), patch[..., ::-1])
                    cv2.imwrite(str(masks / f"{name}.png"), target)
                    written += 1
                number += 1
    return written


def compare_colours(mask: np.ndarray) -> np.ndarray:
    """Class indices by one comparison of the whole tile per class."""
    index = np.full(mask.shape[:2], SPEC.ignore_index, np.uint8)
    for value, colour in enumerate(SPEC.colours):
        index[np.all(mask == np.array(colour), axis=-1)] = value
    return index


def run_plain(originals: list[OriginalTile], folder: Path, workers: int, *, once: bool) -> None:
    """Cut all tiles in the straightforward way, in the same processes as ours."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    list(pool.run(partial(plain, images=images, masks=masks, once=once), originals, workers, "plain"))


def run_ours(originals: list[OriginalTile], folder: Path, workers: int) -> None:
    """Cut all tiles as tools/potsdam_patch_split.py does."""
    tiling = potsdam.tiling(
        training=True, images=folder / "images", masks=folder / "masks",
        size=(SIZE, SIZE), stride=(STRIDE, STRIDE), variants=3,
    )  # fmt: skip
    split_all(originals, tiling, workers)


def timed(function: Callable[[Path], None], folder: Path) -> float:
    """Seconds of one run into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    function(folder)
    return time.perf_counter() - begin


def main() -> None:
    """Draw the tiles, time the three ways in turn, compare their masks and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--side", type=int, default=6000, help="px")
    parser.add_argument("--workers", type=int, default=pool.default_workers())
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_tiles(folder, options.tiles, options.side)
        naming = potsdam.naming(rgb=True, eroded=False)
        originals = isprs.tiles(folder / "images", folder / "masks", naming)
        ways: dict[str, Callable[[Path], None]] = {
            "ours": lambda out: run_ours(originals, out, options.workers),
            "plain, every variant": lambda out: run_plain(originals, out, options.workers, once=False),
            "plain, once a tile": lambda out: run_plain(originals, out, options.workers, once=True),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeat):
            for way, function in ways.items():
                seconds[way].append(timed(function, folder / way))
        compare_masks(*(folder / way / "masks" for way in ways))
    tell({way: statistics.median(runs) for way, runs in seconds.items()}, options)


def compare_masks(ours: Path, *others: Path) -> None:
    """Stop where the ways disagree: same names, same labels."""
    for other in others:
        if {path.name for path in ours.iterdir()} != {path.name for path in other.iterdir()}:
            raise SystemExit(f"{other} has other patches than {ours}")
        for path in ours.iterdir():
            if not np.array_equal(*(cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (path, other / path.name))):
                raise SystemExit(f"{other / path.name} has other labels than {path}")


def tell(medians: dict[str, float], options: argparse.Namespace) -> None:
    """Print seconds and ratios."""
    ours = medians["ours"]
    if options.json:
        ratios = {way: value / ours for way, value in medians.items()}
        print(json.dumps({"seconds": medians, "ratio_to_ours": ratios, **vars(options)}, indent=2))
        return
    table = Table(title=f"Potsdam split: {options.tiles} tiles of {options.side} px, {options.workers} processes")
    for column in ("", "seconds", "times ours"):
        table.add_column(column, justify="right" if column else "left")
    for way, value in medians.items():
        table.add_row(way, f"{value:.1f}", f"{value / ours:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
