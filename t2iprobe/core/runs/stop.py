"""Whether a run shall stop: :class:`Stop`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether to stop once the unit in flight is done; within :meth:`listening`, SIGINT and SIGTERM ask for it.

    A run within a run listens in the place of the outer one, and hands on what it hears.

    Args:
        on_asked: is told.
    """

    def __init__(self, on_asked: Callable[[], None] = lambda: None) -> None:
        self.asked, self._on_asked = False, on_asked
        self.signal: int = signal.SIGINT  # that asked
        self._outer: Stop | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The first signal asks to stop, a second one stops at once. Elsewhere than in the main thread: nothing."""
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
