"""Time, threads and who wakes whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Clock(Protocol):
    """Wall time, monotonic time, sleep and chance."""

    def now(self) -> float:
        """Return Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""

    def sleep(self, seconds: float, *, stop: threading.Event | None = None) -> bool:
        """Wait; return ``True`` when ``stop`` was set meanwhile."""

    def chance(self) -> float:
        """Return a uniform number in [0, 1)."""


class Parallel(Protocol):
    """Runs one function over many items at once."""

    def each(self, function: Callable[[T], R], items: Iterable[T], *, limit: int) -> Iterator[tuple[T, R | Exception]]:
        """Yield ``(item, result or MirrorSyncError)`` as each finishes, at most ``limit`` at once, in any order.

        Any other exception is raised after the running ones have ended.
        """


class Waker(Protocol):
    """Rouses the worker at once when something became due."""

    def poke(self) -> None:
        """Wake whoever waits; never blocks and never fails loudly: the worker looks every second anyway."""

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``; return ``True`` when poked."""

    def close(self) -> None:
        """Release the socket or connection."""
