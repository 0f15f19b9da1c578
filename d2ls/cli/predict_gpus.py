"""The run of predict.py on several GPUs: a process for each, which takes the next raster that none has taken."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from d2ls.cli import common as cli
from d2ls.cli.predict_run import load_job, predict_rasters, rasters_of, tell
from d2ls.errors import ConfigError, D2LSError, DataError


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Segment the rasters of this machine's share; arguments and exit code as of `d2ls.cli.predict_run.run`.

    Raises:
        ConfigError: fewer GPUs than asked for.
        DataError: a process ended before its work.
    """
    gpus, rasters = _gpus(options), rasters_of(options)
    context = multiprocessing.get_context("spawn")
    taken: Any = context.Value("l", 0)
    processes = [
        context.Process(target=_work, args=(options, command, rasters, taken, gpu, number == 0), daemon=True)
        for number, gpu in enumerate(gpus[: len(rasters)])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    if broken := [code for code in codes if code not in (0, cli.EXIT_BAD_INPUT)]:
        raise DataError(
            f"{len(broken)} of {len(codes)} processes ended early (exit code {broken[0]}). Their rasters are not "
            "finished: run the same command again with --resume."
        )
    return max(code or 0 for code in codes)


def _gpus(options: argparse.Namespace) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each process; None of processes on the CPU.

    Raises:
        ConfigError: fewer than asked for, or another device is asked for.
    """
    if options.device == "cpu" and options.gpus != "all":
        return [None] * int(options.gpus)
    if options.device not in ("auto", "cuda"):
        raise ConfigError(f"--gpus {options.gpus} --device {options.device}: expected cuda, or cpu and a number.")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    wanted = count if options.gpus == "all" else int(options.gpus)
    if not 1 <= wanted <= count:
        raise ConfigError(f"--gpus {options.gpus}: this machine shows {count} GPUs.")
    return [*(visible.split(",") if visible else map(str, range(count)))][:wanted]


def _work(
    options: argparse.Namespace, command: list[str], rasters: list[Path], taken: Any, gpu: str | None, loud: bool
) -> None:
    """Work of one process; ends it with its exit code. `loud` tells an error that all processes have."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used

    def main(_: Sequence[str] | None) -> int:
        try:
            job = load_job(options, command)
        except D2LSError:
            if loud:
                raise
            return cli.EXIT_BAD_INPUT
        if loud and job.opening:
            tell(job.opening)
        return predict_rasters(job, _next(rasters, taken))

    sys.exit(cli.run_main(main, []))


def _next(rasters: list[Path], taken: Any) -> Iterator[Path]:
    """Rasters that no other process has taken, one by one."""
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(rasters):
            return
        yield rasters[number]
