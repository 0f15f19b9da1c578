"""Memory that the allocator of glibc retains once it is freed, and arrays that lie outside of its heap."""

import ctypes
import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8  # parameters of glibc's mallopt
_LARGEST_THRESHOLD = 32 << 20  # the most that every glibc takes
_MAPS = 65536  # blocks that may be mapped: glibc's default, which a parent may have changed


def keep_freed_memory(most: int | None = None) -> bool:
    """Ask glibc to retain freed memory for the next allocation instead of returning it to the system.

    A training step or a test image on a CPU frees and asks for gigabytes in blocks of some megabytes. glibc maps such
    blocks anew each time, and the system clears each page when it is first touched: on a virtual machine that can cost
    more than the arithmetic. The process then stays near its peak of memory until it ends. `most` is the number of
    bytes that are retained, by all threads together, for processes of which there are many; None: all.

    Returns whether it was asked: not where the C library has no such setting (it is not glibc), or where an environment
    variable MALLOC_* or GLIBC_TUNABLES configures the allocator.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
    if most is not None:
        settings = {_MMAP_MAX: _MAPS, _MMAP_THRESHOLD: min(most, _LARGEST_THRESHOLD), _TRIM_THRESHOLD: most}
        settings[_ARENA_MAX] = 1
    return all(mallopt(parameter, value) for parameter, value in settings.items())


def mapped_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros in pages of its own, which are returned to the system with it.

    For large arrays that outlive many calls of a network: among the blocks of the heap that come and go with each call
    they leave holes, and how many depends on the moment of each allocation.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, mmap.mmap(-1, max(1, size)))
