"""Work done in the background while the next image is segmented."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Writer(Generic[Item]):
    """A thread that works through items in the order in which they were put; use it in a `with` block.

    Leaving the block waits for the last item. An error in the thread is raised by the next `put` or on leaving; after
    it, and where the block itself is left by an error, items that wait are dropped. `put` blocks while `waiting` items
    wait, so memory stays bounded.
    """

    def __init__(self, work: Callable[[Item], None], waiting: int = 4) -> None:
        self._work, self._waiting, self._failed = work, waiting, False
        self._pool = ThreadPoolExecutor(1, "d2ls-writer")
        self._unfinished: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def put(self, item: Item) -> None:
        """Hand an item over; raises what `work` raised for an earlier one."""
        while self._unfinished and (self._unfinished[0].done() or len(self._unfinished) > self._waiting):
            self._unfinished.popleft().result()
        self._unfinished.append(self._pool.submit(self._run, item))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        for future in self._unfinished if error is None else ():
            future.result()

    def _run(self, item: Item) -> None:
        if self._failed:
            return
        try:
            self._work(item)
        except BaseException:
            self._failed = True
            raise
