"""A time limit on a socket that a trickle of bytes cannot renew.

A socket time-out starts anew with every byte.  One thread watches all connections of
the process and shuts down those whose limit has passed, so the blocked reader fails.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading

from mirror_sync.ports import Clock


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


class Deadlines:
    """Limits in order of time, and the thread that waits for them."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._wake = threading.Condition()
        self._heap: list[tuple[float, int, Limit]] = []
        self._order = itertools.count()
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
            if self._thread is None or not self._thread.is_alive():
                # Also after a fork, which takes no threads along.
                self._closed = False
                self._thread = threading.Thread(target=self._watch, name="upstream-deadlines", daemon=True)
                self._thread.start()
            elif earliest:
                self._wake.notify()
        return limit

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(5.0)

    def _watch(self) -> None:
        with self._wake:
            while not self._closed:
                while self._heap and self._heap[0][2].done:
                    heapq.heappop(self._heap)
                now = self._clock.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2].strike()
                    continue
                self._wake.wait(self._heap[0][0] - now if self._heap else None)
