"""Work done in the background while the next image is segmented."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Writer(Generic[Item]):
    """A thread that works through items in the order in which they were put; use it in a `with` block.

    Leaving the block waits for the last item. An error in the thread is raised by the next `put` or on leaving; after
    it, and where the block itself is left by an error, items that wait are dropped.

    Args:
        work: done for each item, in the thread.
        waiting: items that may wait; `put` blocks while there are so many, so memory stays bounded.
    """

    def __init__(self, work: Callable[[Item], None], waiting: int = 4) -> None:
        self._work = work
        self._queue: queue.Queue[Item | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._run, name="d2ls-writer", daemon=True)

    def __enter__(self) -> "Writer[Item]":
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand an item over.

        Raises:
            BaseException: what `work` raised for an earlier item.
        """
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dropping = error is not None
        self._queue.put(None)  # the thread takes items to the end even after an error, so this never blocks for good
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None and not self._dropping:
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error
