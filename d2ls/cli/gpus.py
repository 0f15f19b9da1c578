"""Processes on several GPUs of one machine, one for each."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

import torch

from d2ls.cli import common as cli
from d2ls.errors import ConfigError, DataError


def run_processes(
    gpus: Sequence[str | None], work: Callable[..., int], arguments: Sequence[Any],
    *, together: bool = False, watch: Callable[[], None] = lambda: None,
) -> int:  # fmt: skip
    """Run a function in a process for each GPU (see `choose_gpus`); returns the highest exit code.

    `work` is called with the number of its process, from 0, and `arguments`, which can be pickled or are shared; it
    gives the exit code, and its errors are told as those of a script. With `together`, the others are stopped as soon
    as one fails. `watch` is called a few times a second until all have ended.

    Raises:
        DataError: a process ended before its work.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_main, args=(gpu, work, number, arguments), daemon=True)
        for number, gpu in enumerate(gpus)
    ]
    for process in processes:
        process.start()
    while running := [process for process in processes if process.exitcode is None]:
        wait([process.sentinel for process in running], timeout=0.2)
        watch()
        if together and (failed := [process.exitcode for process in processes if process.exitcode]):
            for process in running:
                process.terminate()
                process.join()
            processes = [process for process in processes if process.exitcode == failed[0]]
    watch()
    codes = [process.exitcode or 0 for process in processes]
    if broken := [code for code in codes if code not in (0, cli.EXIT_BAD_INPUT)]:
        raise DataError(
            f"{len(broken)} of {len(gpus)} processes ended early (exit code {broken[0]}). What they had not finished "
            "is missing: run the same command again with --resume."
        )
    return max(codes)


def choose_gpus(options: argparse.Namespace) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each process, of the options `gpus`, a number or "all", and `device`; None on the CPU."""
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


def _main(gpu: str | None, work: Callable[..., int], number: int, arguments: Sequence[Any]) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    sys.exit(cli.run_main(lambda _: work(number, *arguments), []))
