"""SIGTERM, with which clusters announce that they will kill a process, as a wish that is met at a good moment."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Termination:
    """Notes SIGTERM while it is entered; several processes must agree before one of them acts on it."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGTERM)
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def listen(self) -> None:
        """Take the signal, from whoever has taken it since."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, _: int, __: FrameType | None) -> None:
        self.asked = True
