"""A time limit on a socket that a trickle of bytes cannot renew, and an end to what waits once it is to stop.

A socket time-out starts anew with every byte.  One thread watches all connections of
the process and shuts down those whose limit has passed, or whose owner is to stop, so
the blocked reader fails.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

from mirror_sync.ports import Clock

LOOK_SECONDS = 0.25
"""How often it is looked whether somebody is to stop, as long as anybody might."""


class Limit:
    """One limit in force; ``passed`` tells afterwards whether it struck."""

    __slots__ = ("_sock", "done", "passed")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.done = False
        self.passed = False

    def strike(self) -> None:
        """Shut the connection down unless its owner is done."""
        if not self.done:
            self.passed = True
            with contextlib.suppress(OSError):
                # OSError: the peer or the owner was faster, which is all that was wanted.
                self._sock.shutdown(socket.SHUT_RDWR)


class Watch:
    """Something that is broken off once ``stop`` is set, unless it is ``done`` before."""

    __slots__ = ("_break_off", "_stop", "done")

    def __init__(self, stop: threading.Event, break_off: Callable[[], None]) -> None:
        self._stop = stop
        self._break_off = break_off
        self.done = False

    def look(self) -> bool:
        """Break it off if it is to stop; tell whether there is no more to watch."""
        if not self.done and self._stop.is_set():
            self.done = True
            self._break_off()
        return self.done


class Deadlines:
    """Limits in order of time, what may be stopped, and the thread that waits for both."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._wake = threading.Condition()
        self._heap: list[tuple[float, int, Limit]] = []
        self._order = itertools.count()
        self._watches: list[Watch] = []
        self._stopping = threading.local()
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self, sock: socket.socket, seconds: float) -> Limit:
        """Limit what ``sock`` waits for from now on; set ``done`` on the result when it came."""
        limit = Limit(sock)
        at = self._clock.monotonic() + seconds
        with self._wake:
            if len(self._heap) > 1024:
                self._heap = [item for item in self._heap if not item[2].done]
                heapq.heapify(self._heap)
            earliest = not self._heap or at < self._heap[0][0]
            heapq.heappush(self._heap, (at, next(self._order), limit))
            stop: threading.Event | None = getattr(self._stopping, "event", None)
            if stop is not None:
                self._watches.append(Watch(stop, limit.strike))
            self._rouse(notify=earliest or stop is not None)
        return limit

    @contextlib.contextmanager
    def stopped_by(self, stop: threading.Event | None) -> Iterator[None]:
        """Let ``stop`` end what this thread begins to wait for meanwhile, as if its limit had passed."""
        self._stopping.event = stop
        try:
            yield
        finally:
            self._stopping.event = None

    def watch(self, stop: threading.Event, break_off: Callable[[], None]) -> Watch:
        """Call ``break_off`` soon after ``stop`` is set; set ``done`` on the result when there is nothing to break off."""
        watch = Watch(stop, break_off)
        with self._wake:
            self._watches.append(watch)
            self._rouse(notify=len(self._watches) == 1)
        return watch

    def _rouse(self, *, notify: bool) -> None:
        if self._thread is None or not self._thread.is_alive():
            # Also after a fork, which takes no threads along.
            self._closed = False
            self._thread = threading.Thread(target=self._run, name="upstream-deadlines", daemon=True)
            self._thread.start()
        elif notify:
            self._wake.notify()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(5.0)

    def _run(self) -> None:
        with self._wake:
            while not self._closed:
                self._watches = [watch for watch in self._watches if not watch.look()]
                while self._heap and self._heap[0][2].done:
                    heapq.heappop(self._heap)
                now = self._clock.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2].strike()
                    continue
                left = self._heap[0][0] - now if self._heap else None
                if self._watches:
                    left = LOOK_SECONDS if left is None else min(left, LOOK_SECONDS)
                self._wake.wait(left)
