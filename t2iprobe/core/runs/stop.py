"""Whether a run is to stop: :class:`Stop`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether to stop once the unit in flight is done; within :meth:`listening`, SIGINT and SIGTERM ask for it.

    A run within a run listens in place of the outer one, and passes on what it hears.

    Args:
        on_asked: is called when a stop is asked for.
    """

    def __init__(self, on_asked: Callable[[], None] = lambda: None) -> None:
        self.asked, self._on_asked = False, on_asked
        self.signal: int = signal.SIGINT  # the signal that asked
        self._outer: Stop | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let a first signal ask to stop and a second one stop at once. Outside the main thread this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._interrupted) for number in SIGNALS}
        heard = getattr(before[signal.SIGINT], "__self__", None)
        if isinstance(heard, Stop) and heard is not self:
            self._outer = heard
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        one: Stop | None = self
        while one is not None:
            one.asked, one.signal = True, number
            one = one._outer
        self._on_asked()
