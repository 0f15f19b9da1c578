import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d2ls.errors import D2LSError, DataError
from d2ls.preparation import pool

ROOT = Path(__file__).resolve().parents[2]


def square(value):
    return value * value


def refuse_three(value):
    if value == 3:
        raise DataError("three is wrong")
    return value


def die(value):
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_is_done_once(workers):
    assert sorted(pool.run(square, list(range(20)), workers, "Squares")) == [n * n for n in range(20)]
    assert list(pool.run(square, [], workers, "Nothing")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_job_ends_the_run(workers):
    with pytest.raises(DataError, match="three is wrong"):
        list(pool.run(refuse_three, list(range(20)), workers, "Jobs"))


def test_a_killed_process_is_noticed():
    with pytest.raises(D2LSError, match=r"ended unexpectedly.*--workers 1"):
        list(pool.run(die, list(range(20)), 2, "Jobs"))


AFTER_THREADS = """
import cv2, numpy as np
from d2ls.preparation import pool
cv2.GaussianBlur(np.ones((5000, 5000, 3), np.float32), (0, 0), 5)  # OpenCV starts its threads
print(sum(pool.run(abs, [1, 2, 3], 2, "Jobs")))
"""


def test_workers_start_after_opencv_has_used_threads():
    finished = subprocess.run(
        [sys.executable, "-c", AFTER_THREADS], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert finished.stdout.split() == ["6"]


SLEEPERS = """
import os, sys, time
from d2ls.preparation import pool
def sleep(number):
    os.write(1, b"%d\\n" % os.getpid())  # one write: two workers share the pipe
    time.sleep(60)
list(pool.run(sleep, [1, 2], 2, "Sleep"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_do_not_outlive_a_killed_parent():
    with subprocess.Popen([sys.executable, "-c", SLEEPERS], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        parent.wait()
        end = time.monotonic() + 10
        while time.monotonic() < end and any(alive(worker) for worker in workers):
            time.sleep(0.05)
        assert not any(alive(worker) for worker in workers)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_an_interruption_ends_all_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPERS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True,
    ) as parent:  # fmt: skip
        for _ in range(2):
            parent.stdout.readline()
        begin = time.monotonic()
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        error = parent.communicate(timeout=30)[1]
    assert time.monotonic() - begin < 20, "the jobs sleep for a minute"
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert "ForkProcess" not in error
