"""The run of predict.py on several GPUs: each process takes the next raster that none has taken."""

import argparse
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2ls.cli import common as cli
from d2ls.cli.gpus import choose_gpus, run_processes
from d2ls.cli.predict_run import load_job, predict_rasters, rasters_of, tell
from d2ls.errors import D2LSError


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Segment the rasters of this machine's share; arguments and exit code as of `d2ls.cli.predict_run.run`.

    Raises:
        ConfigError: fewer GPUs than asked for.
        DataError: a process ended before its work.
    """
    gpus, rasters = choose_gpus(options), rasters_of(options)
    taken: Any = multiprocessing.get_context("spawn").Value("l", 0)
    return run_processes(gpus[: len(rasters)], _work, (options, command, rasters, taken))


def _work(number: int, options: argparse.Namespace, command: list[str], rasters: list[Path], taken: Any) -> int:
    """Work of one process; the first tells what all of them have to tell."""
    try:
        job = load_job(options, command)
    except D2LSError:
        if number == 0:
            raise
        return cli.EXIT_BAD_INPUT
    if number == 0 and job.opening:
        tell(job.opening)
    return predict_rasters(job, _next(rasters, taken))


def _next(rasters: list[Path], taken: Any) -> Iterator[Path]:
    """Rasters that no other process has taken, one by one."""
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(rasters):
            return
        yield rasters[number]
