"""How a process on a CPU treats memory that it has freed."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for the next allocation in the place of returning it to the system.

    A step on a CPU frees and asks for gigabytes in blocks of some megabytes. glibc maps such blocks anew each time, and
    the system clears each page when it is first touched: on virtual machines that costs more than the arithmetic.
    The process then stays at its peak of memory until it ends.

    Returns:
        Whether it was asked: not where the C library has no such setting, or where the environment variables MALLOC_*
        or GLIBC_TUNABLES say what is wanted.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
