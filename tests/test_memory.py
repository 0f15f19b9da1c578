"""Freed memory that stays with the process, in processes of their own: the setting holds until their end."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from d2ls.memory import mapped_array

PROGRAM = """
import resource, sys
import torch
from d2ls.memory import keep_freed_memory

kept = keep_freed_memory() if "keep" in sys.argv else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10 * 2**20)  # 40 MB, freed at once: more than glibc ever keeps by itself
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc: nothing to set")


def run(*words, **variables):
    """What `keep_freed_memory` gave, and how many pages the tensors had to ask for."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=environment | variables, capture_output=True, text=True, check=True
    )
    kept, pages = found.stdout.split()
    return kept, int(pages)


@glibc
def test_the_next_tensor_takes_the_memory_of_the_last():
    kept, pages = run("keep")
    assert kept == "True"
    assert pages < run()[1] / 2


@glibc
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_set_stays(name):
    kept, pages = run("keep", **{name: "2" if name.startswith("MALLOC") else "glibc.malloc.arena_max=2"})
    assert kept == "False"
    assert pages > run("keep")[1] * 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="not Linux: memory is not told")
def test_a_mapped_array_goes_back_to_the_system_with_its_last_view():
    array = mapped_array((3, 1 << 20), "uint16")
    assert (array.shape, array.dtype, array.any()) == ((3, 1 << 20), np.uint16, False)
    array[:] = 7
    pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])  # noqa: E731
    part, held = array[1, ::2], pages()
    del array
    assert part.sum() == 7 << 19
    assert held - pages() < 100
    del part
    assert held - pages() > 1000  # of 1536
