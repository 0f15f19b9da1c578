"""Training samples per second, against the straightforward order in which earlier tools (GeoSeg) make them.

    python benchmarks/loader.py                       the recipes of Vaihingen and LoveDA, 1 and 2 workers
    python benchmarks/loader.py --profile             where a sample's time goes
    python benchmarks/loader.py --resize pillow       the plain side resizes with Pillow, as earlier tools do

Both sides read the same synthetic 1024 px tiles through a DataLoader, of one distribution. The plain side decodes
whole images, builds the whole mosaic, resizes it whole and then crops, up to ten times, counting all labels each time;
it does so with OpenCV and albumentations. Patches are of two kinds: as OpenCV writes them by default, which the
earlier tools leave it to (LZW TIFF), and as our split tools write them.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from d2ls.cli.common import parser, run_main
from d2ls.data import dataset as segmentation
from d2ls.data import io as files
from d2ls.data.dataset import SegmentationDataset
from d2ls.data.loaders import training_loader
from d2ls.data.mosaic import Mosaic
from d2ls.data.pairs import Pair
from d2ls.data.sets import loveda, vaihingen
from d2ls.synthetic import draw_scene
from tests.plain_augmentation import SIZE, PlainAugmentation

RECIPES: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "vaihingen": (vaihingen, ("lzw", "ours")),
    "loveda": (loveda, ("png",)),
}
FORMS = {"lzw": "as earlier tools (GeoSeg) leave them", "ours": "as our split tools write them", "png": "as published"}
SIDES = ("plain", "ours")
STAGES = ("decode image", "decode mask", "mosaic", "resize", "crop", "augment", "normalise")


def draw(folder: Path, tiles: int, samples: int) -> dict[str, list[Pair]]:
    """Tiles in each form, named as often as an epoch has samples."""
    found: dict[str, list[Pair]] = {}
    for seed in range(tiles):
        image, mask = draw_scene(SIZE, seed)
        pairs = {
            form: Pair(folder / f"{form}_{seed}.{suffix}", folder / f"{form}_{seed}_mask.png", str(seed))
            for form, suffix in (("lzw", "tif"), ("ours", "tif"), ("png", "png"))
        }
        cv2.imwrite(str(pairs["lzw"].image), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        files.write_tiff(pairs["ours"].image, image)
        Image.fromarray(image).save(pairs["png"].image)
        for form, pair in pairs.items():
            if form == "ours":
                files.write_png(Path(str(pair.mask)), mask)
            else:
                cv2.imwrite(str(pair.mask), mask)
            found.setdefault(form, []).append(pair)
    return {form: (pairs * -(-samples // tiles))[:samples] for form, pairs in found.items()}


def datasets(name: str, form: str, drawn: dict[str, list[Pair]], options: argparse.Namespace) -> dict[str, Any]:
    """The data set of each side."""
    module, pairs = RECIPES[name][0], drawn[form]
    plain = PlainAugmentation(pairs, module.AUGMENTATION, module.SPEC.ignore_index, pillow=options.resize == "pillow")
    return {
        "plain": plain,
        "ours": SegmentationDataset(module.SPEC, partial(list, pairs), augmentation=module.AUGMENTATION),
    }


def loader(side: str, dataset: Any, workers: int, batch: int) -> DataLoader[Any]:
    """The loader of a side; both keep OpenCV's threads out of their workers."""
    if side == "ours":
        return training_loader(dataset, batch, num_workers=workers)
    return DataLoader(
        dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True,
        worker_init_fn=one_thread,
    )  # fmt: skip


def one_thread(_: int) -> None:
    """Start of a plain worker."""
    cv2.setNumThreads(0)


class Contender:
    """A loader with workers of its own, and what each of its epochs took."""

    def __init__(self, side: str, dataset: Any, workers: int, options: argparse.Namespace) -> None:
        self.loader = loader(side, dataset, workers, options.batch)
        self.workers, self.cpu = workers, options.cpu
        others = set(multiprocessing.active_children())
        self._epoch()  # starts the workers; does not count
        self.processes = set(multiprocessing.active_children()) - others
        self.seconds: list[float] = []

    def run(self) -> None:
        """One epoch: seconds of one worker for one sample."""
        before = self._clock()
        samples = self._epoch()
        self.seconds.append((self._clock() - before) / samples)

    @property
    def rate(self) -> float:
        """Samples per second and worker."""
        return 1 / statistics.median(self.seconds)

    def times(self, other: "Contender") -> float:
        """How many times faster than another one."""
        return statistics.median(theirs / ours for theirs, ours in zip(other.seconds, self.seconds, strict=True))

    def _epoch(self) -> int:
        return sum(len(batch["image"]) for batch in self.loader)

    def _clock(self) -> float:
        """Seconds on the clock times workers, or CPU seconds of the workers together (proc(5), fields 14 and 15)."""
        if not self.cpu:
            return time.perf_counter() * self.workers
        stats = [Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split() for process in self.processes]
        return sum(int(ticks) for words in stats for ticks in words[11:13]) / os.sysconf("SC_CLK_TCK")


def measure(name: str, drawn: dict[str, list[Pair]], workers: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Epochs of both sides on all forms of the files, in turn."""
    forms = RECIPES[name][1]
    running = {
        (side, form): Contender(side, dataset, workers, options)
        for form in forms
        for side, dataset in datasets(name, form, drawn, options).items()
    }
    for _ in range(options.repeats):
        for contender in running.values():
            contender.run()
    earlier = running["plain", forms[0]]
    return [
        {
            "recipe": name,
            "files": FORMS[form],
            "workers": workers,
            "plain": running["plain", form].rate,
            "ours": running["ours", form].rate,
            "ours / plain": running["ours", form].times(running["plain", form]),
            "ours / earlier tools": running["ours", form].times(earlier),
        }
        for form in forms
    ]


class Stages:
    """CPU seconds of named stages; what one stage asks of another counts for the other alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open = ["rest"]
        self._since = time.process_time()

    def counted(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The function, its calls counted as a stage."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._open.append(stage)
            result = function(*args, **kwargs)
            self._turn()
            self._open.pop()
            return result

        return call

    def read(self) -> dict[str, float]:
        """What was counted since the beginning."""
        self._turn()
        return dict(self.seconds)

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now


def watched(side: str, dataset: Any) -> list[tuple[Any, str, str]]:
    """Owner and name of the functions that do the work of each stage."""
    if side == "plain":
        own = [(dataset, name, name) for name in STAGES[2:]]
        return [(dataset, "read_image", STAGES[0]), (dataset, "read_mask", STAGES[1]), *own]
    return [
        (files, "read_window", "decode image"),
        (dataset, "read_mask", "decode mask"),
        (Mosaic, "_image", "mosaic"),
        (Mosaic, "_mask", "mosaic"),
        (Mosaic, "_scaled_image", "resize"),
        (Mosaic, "_scaled_mask", "resize"),
        (Mosaic, "_choose", "crop"),
        (segmentation, "random_rotate_flip", "augment"),
        (segmentation, "random_colours", "augment"),
        (segmentation, "normalise", "normalise"),
    ]


def profile(name: str, form: str, drawn: dict[str, list[Pair]], options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of CPU time that a sample takes in each stage, in this process."""
    result: dict[str, Any] = {"recipe": name, "files": FORMS[form]}
    for side, dataset in datasets(name, form, drawn, options).items():
        dataset[0]  # imports and tables
        stages = Stages()
        with ExitStack() as stack:
            for owner, function, stage in watched(side, dataset):
                counted = stages.counted(getattr(owner, function), stage)
                stack.enter_context(mock.patch.object(owner, function, counted))
            torch.manual_seed(0)
            for index in range(options.samples):
                dataset[index]
            found = stages.read()
        result[side] = {stage: 1e3 * found.get(stage, 0.0) / options.samples for stage in (*STAGES, "rest")}
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and measure."""
    command = parser(str(__doc__))
    command.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=tuple(RECIPES))
    command.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    for name, default in (("tiles", 8), ("samples", 96), ("batch", 4), ("repeats", 5)):
        command.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    command.add_argument("--resize", choices=("opencv", "pillow"), default="opencv", help="of the plain side")
    command.add_argument(
        "--cpu", action="store_true", help="CPU seconds of the workers rather than the clock's (Linux)"
    )
    command.add_argument("--profile", action="store_true", help="where a sample's time goes")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = command.parse_args(arguments)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw(Path(folder), options.tiles, options.samples)
        if options.profile:
            rows = [profile(name, form, drawn, options) for name in options.recipes for form in RECIPES[name][1]]
        else:
            runs = [measure(name, drawn, workers, options) for name in options.recipes for workers in options.workers]
            rows = [row for run in runs for row in run]
    (tell_profile if options.profile else tell)(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def tell(rows: list[dict[str, Any]]) -> None:
    """Print rates and ratios."""
    words = ("recipe", "files")
    table = Table(title="samples per second and worker", title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in words else "right")
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    print('"ours / earlier tools": against the plain order on the files of the recipe\'s first line')


def tell_profile(rows: list[dict[str, Any]]) -> None:
    """Print the stages of a sample."""
    for row in rows:
        table = Table(title=f"{row['recipe']}, files {row['files']}: CPU milliseconds a sample", title_justify="left")
        for heading in ("stage", *SIDES):
            table.add_column(heading, justify="left" if heading == "stage" else "right")
        for stage in (*STAGES, "rest"):
            table.add_row(stage, *(f"{row[side][stage]:.2f}" for side in SIDES))
        table.add_row("all", *(f"{sum(row[side].values()):.2f}" for side in SIDES))
        Console().print(table)


if __name__ == "__main__":
    sys.exit(run_main(main))
