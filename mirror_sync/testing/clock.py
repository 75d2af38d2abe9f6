"""A clock turned by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable


class HandClock:
    """Time that moves only when told to, or when somebody sleeps; implements :class:`mirror_sync.ports.Clock`.

    ``on_sleep`` hears every sleep before time moves, so that a test can let the world
    change meanwhile.
    """

    def __init__(self, now: float = 1_700_000_000.0, *, chance: float = 0.5) -> None:
        self.chances = chance
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], None] | None = None
        self._now = now
        self._monotonic = 0.0
        self._guard = threading.Lock()

    def now(self) -> float:
        with self._guard:
            return self._now

    def monotonic(self) -> float:
        with self._guard:
            return self._monotonic

    def sleep(self, seconds: float, *, stop: threading.Event | None = None) -> bool:
        if stop is not None and stop.is_set():
            return True
        self.slept.append(seconds)
        if self.on_sleep is not None:
            self.on_sleep(seconds)
        self.advance(seconds)
        return stop is not None and stop.is_set()

    def chance(self) -> float:
        return self.chances

    def advance(self, seconds: float) -> None:
        """Let both clocks go on by ``seconds``."""
        with self._guard:
            self._now += seconds
            self._monotonic += max(0.0, seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP might; monotonic time does not notice."""
        with self._guard:
            self._now += seconds
