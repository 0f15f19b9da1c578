"""Work on many files in parallel processes, with a progress bar."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import TypeVar

import cv2
from rich.console import Console
from rich.progress import track

from d2ls.errors import D2LSError

Job = TypeVar("Job")
Result = TypeVar("Result")
_POLL = 0.2  # seconds between two checks that the parent still lives


def default_workers() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, label: str) -> Iterator[Result]:
    """Yield the results of a function for all jobs, in the order of completion; the first error stops all.

    The function and its arguments can be pickled; with 1 worker it runs in this process. The label stands beside the
    progress bar, on stderr. A process that dies is a D2LSError.
    """
    console = Console(stderr=True)
    results = map(function, jobs) if workers == 1 or len(jobs) < 2 else _together(function, jobs, workers)
    first = [*islice(results, 1)]  # the processes start before the bar's thread does
    done = chain(first, results)
    yield from track(done, label, len(jobs), console=console, disable=not console.is_terminal)


def _together(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (os.getpid(),))
    try:
        futures: list[Future[Result]] = [pool.submit(_work, function, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as problem:
        raise D2LSError(
            "A working process ended unexpectedly (killed, or out of memory?). Run the same command again; "
            "fewer processes (--workers 1) need less memory."
        ) from problem
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """State of a worker process: whether a job is running, and whether Ctrl-C was pressed."""

    busy = False
    stopped = False


def _start_worker(parent: int) -> None:
    """Stop the running job at Ctrl-C, and end when the parent process is killed."""
    signal.signal(signal.SIGINT, _stop)
    cv2.setNumThreads(0)  # no threads; 1 would wait for those of the parent, which a fork leaves behind
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _work(function: Callable[[Job], Result], job: Job) -> Result:
    if _Worker.stopped:
        raise KeyboardInterrupt
    _Worker.busy = True
    try:
        return function(job)
    finally:
        _Worker.busy = False


def _stop(*_: object) -> None:
    _Worker.stopped = True
    if _Worker.busy:
        raise KeyboardInterrupt


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)
