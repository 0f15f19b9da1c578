"""Command line of comparisons."""

import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from d2ls.cli.common import EXIT_BAD_INPUT, parser, positive, run_main, shard
from d2ls.errors import ConfigError

EXAMPLES = """examples:
  python compare.py -c config/dubai/d2ls.py -c config/dubai/static.py -c config/dubai/unet.py --seeds 3
  python compare.py -c config/dubai/d2ls.py --seeds 3 max_epoch=40 --grid lr=1e-4,3e-4 stages=2,3
  python compare.py -c config/potsdam/d2ls.py --ablation --seeds 3
  python compare.py -c a.py -c b.py --seeds 4 --shard 1/2       one half of the runs; 2/2 on a second machine

Runs that are finished are kept, those that were stopped go on. When all are there, the table is written as
comparison.md, .csv, .tex (booktabs) and .html. Settings before --grid hold for all variants.
The scores are those of the checkpoint that each config names (test_weights_name=last: the last, chosen by nobody).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, make the runs that are missing, write the table."""
    options = _parser().parse_intermixed_args(arguments)
    if options.run is not None:
        from d2ls.compare.run import run  # noqa: PLC0415  (--help needs no torch)

        threading.Thread(target=_end_with_parent, daemon=True).start()
        run(options.run)
        return 0
    if not options.config:
        raise ConfigError("no config: give at least one with -c.")
    from d2ls.compare.variants import parse_grid, plan  # noqa: PLC0415
    from d2ls.config import parse_overrides  # noqa: PLC0415

    overrides, grid = parse_overrides(options.settings), parse_grid(options.grid)
    variants = plan(options.config, overrides, grid, ablation=options.ablation)
    jobs = [(variant, options.first_seed + number) for number in range(options.seeds) for variant in variants]
    share, shares = options.shard
    if failed := _run_all(options, jobs[share - 1 :: shares]):
        print(f"error: {failed} of the runs failed. Run again to go on.", file=sys.stderr)
        return EXIT_BAD_INPUT
    return _conclude(options, variants, jobs)


def _parser() -> ArgumentParser:
    result = parser("Train and test several configs with several seeds, and compare their scores.", EXAMPLES)
    add = result.add_argument
    add("-c", "--config", type=Path, action="append", default=[], metavar="FILE", help="configs, the baseline first")
    add("-o", "--output", type=Path, default="comparisons/default", metavar="DIR", help="folder (default %(default)s)")
    add("--seeds", type=positive, default=3, metavar="N", help="runs of each variant (default 3)")
    add("--first-seed", type=int, default=42, metavar="S", help="seeds are S, S + 1, ... (default 42)")
    add("--grid", nargs="+", default=[], metavar="name=a,b", help="every combination of these values is a variant")
    add("--ablation", action="store_true", help="the rows of the paper's ablation table, from no dictionary to all")
    add("--shard", type=shard, default=(1, 1), metavar="i/n", help="make only every n-th run, beginning with the i-th")
    add("--parallel", type=positive, default=1, metavar="N", help="runs at the same time, one on each GPU (default 1)")
    add("--run", type=Path, help="(for this program itself) make the run that a folder describes")
    add("settings", nargs="*", metavar="name=value", help="settings of all variants")
    return result


def _folder(options: Namespace, variant: Any, seed: int) -> Path:
    return options.output / variant.folder / f"seed{seed}"


def _run_all(options: Namespace, jobs: list[Any]) -> int:
    """Make the runs that have no result yet; gives the number of those that failed."""
    from d2ls.compare.run import fingerprint, overrides_of, read_result, write_job  # noqa: PLC0415
    from d2ls.compare.statistics import mean_iou  # noqa: PLC0415
    from d2ls.config import load_config  # noqa: PLC0415

    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(options.parallel):
        slots.put(slot)

    def make(numbered: tuple[int, Any]) -> bool:
        number, (variant, seed) = numbered
        folder = _folder(options, variant, seed)
        words = f"[{number} of {len(jobs)}] {variant.name}, seed {seed}"
        settings = load_config(variant.config, overrides_of(folder, variant, seed))
        if (result := read_result(folder)) is not None:
            if result["config_sha256"] != fingerprint(settings):
                raise ConfigError(
                    f"{folder}: the run there was made with another config or other settings than {variant.name} has "
                    "now. Remove it to make it again, or choose another folder with -o."
                )
            print(f"{words}: done before", flush=True)
            return True
        write_job(folder, variant, seed)
        slot = slots.get()
        log, begin = folder / "train.log", time.monotonic()
        print(f"{words}: running, output in {log}", flush=True)
        try:
            failed = _process(folder, slot if options.parallel > 1 else None) != 0
        finally:
            slots.put(slot)
        result = read_result(folder)
        if failed or result is None:
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            print(f"{words}: failed: {last}", flush=True)
            return False
        took = timedelta(seconds=round(time.monotonic() - begin))
        print(f"{words}: mIoU {100 * mean_iou(result):.2f} % after {took}", flush=True)
        return True

    with ThreadPoolExecutor(options.parallel) as pool:
        return sum(not succeeded for succeeded in pool.map(make, enumerate(jobs, start=1)))


def _process(folder: Path, gpu: int | None) -> int:
    """Make one run in a process of its own, which imports this very package; gives its exit code."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    command = [sys.executable, "-m", "d2ls.cli.compare", "--run", str(folder)]
    with (
        (folder / "train.log").open("ab") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment) as process,
    ):
        return process.wait()


def _end_with_parent() -> None:
    """Stop in order, as on SIGTERM, when the program that started this run is gone: it held the other end of stdin."""
    if not os.read(0, 1):
        os.kill(os.getpid(), signal.SIGTERM)


def _conclude(options: Namespace, variants: list[Any], jobs: list[Any]) -> int:
    from rich.console import Console  # noqa: PLC0415

    from d2ls.compare import tables  # noqa: PLC0415
    from d2ls.compare.run import read_result  # noqa: PLC0415

    results: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in variants}
    for variant, seed in jobs:
        if (result := read_result(_folder(options, variant, seed))) is not None:
            results[variant.name].append(result)
    if missing := len(jobs) - sum(map(len, results.values())):
        print(f"{missing} of {len(jobs)} runs are missing (other shards): the table is written when all are there.")
        return 0
    rows, notes, first = tables.rows_of(results), tables.notes_on(results), results[variants[0].name][0]
    paths = tables.write(options.output, rows, first["classes"], notes)
    title = f"{first['dataset']}: {len(first['images'])} test images, seeds: {options.seeds}, per cent"
    Console().print(tables.terminal(rows, first["classes"], title))
    for line in (*notes, f"written: {', '.join(map(str, paths))}"):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
