"""What bounds the requests of this process, so that one kind never starves another."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from mirror_sync.config import Settings
from mirror_sync.ports import Clock

RESERVED_THREADS = 16
"""Threads that streams can never take: health, metrics, pages and webhooks answer always."""

SMALL_BODY_BYTES = 64 * 1024
"""A body up to this size is here as a whole before a thread begins (:mod:`mirror_sync.web.patient`)."""

LARGER_BODIES = 4
"""Larger bodies of webhooks and LFS batches that are read at the same time, and as many that wait."""

BODY_WAIT_SECONDS = 5.0


class Slot:
    """One place taken; released once, however often that is asked."""

    __slots__ = ("_held", "_semaphore")

    def __init__(self, semaphore: threading.Semaphore) -> None:
        self._semaphore = semaphore
        self._held = True

    def release(self) -> None:
        """Give the place back."""
        if self._held:
            self._held = False
            self._semaphore.release()


class Slots:
    """A number of places."""

    def __init__(self, count: int) -> None:
        self._semaphore = threading.BoundedSemaphore(max(1, count))

    def take(self, *, wait: float = 0.0) -> Slot | None:
        """Return a place, waiting up to ``wait`` seconds, or ``None``."""
        got = self._semaphore.acquire(timeout=wait) if wait > 0 else self._semaphore.acquire(blocking=False)
        return Slot(self._semaphore) if got else None


class Patience:
    """A token bucket per source address for requests that turned out bad.

    Good requests cost nothing, so a burst of genuine deliveries is never refused.
    Remembers a bounded number of sources.
    """

    def __init__(self, clock: Clock, *, burst: float = 20.0, per_second: float = 0.5, sources: int = 10_000) -> None:
        self._clock = clock
        self._burst = burst
        self._per_second = per_second
        self._sources = sources
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def exhausted(self, source: str) -> bool:
        """Tell whether this source has used up its patience just now."""
        with self._lock:
            return self._level(source) < 1.0

    def failed(self, source: str) -> None:
        """Count one bad request."""
        with self._lock:
            level = self._level(source)
            self._spent[source] = (max(0.0, level - 1.0), self._clock.monotonic())
            self._spent.move_to_end(source)
            while len(self._spent) > self._sources:
                self._spent.popitem(last=False)

    def _level(self, source: str) -> float:
        level, at = self._spent.get(source, (self._burst, 0.0))
        return min(self._burst, level + (self._clock.monotonic() - at) * self._per_second)


class Limits:
    """Everything that is counted."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.streams = Slots(settings.serve.max_streams)
        self._bodies = Slots(LARGER_BODIES)
        self._line = Slots(LARGER_BODIES)
        self.patience = Patience(clock)

    @contextmanager
    def body_place(self, length: int | None) -> Iterator[bool]:
        """Hold a place for reading a body of ``length`` bytes (``None``: chunked); yields whether there is one.

        A small body needs none.  Only a few requests wait, so that bodies which drip
        in never take all threads.
        """
        if length is not None and length <= SMALL_BODY_BYTES:
            yield True
            return
        waiting = self._line.take()
        if waiting is None:
            yield False
            return
        place = self._bodies.take(wait=BODY_WAIT_SECONDS)
        waiting.release()
        try:
            yield place is not None
        finally:
            if place is not None:
                place.release()


def thread_count(settings: Settings) -> int:
    """Return how many threads the server needs: every stream one, and some that streams cannot take."""
    return max(settings.serve.threads, settings.serve.max_streams + RESERVED_THREADS)
