"""What bounds the requests of this process, so that one kind never starves another."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network

from flask import Request

from mirror_sync.config import Settings
from mirror_sync.ports import Clock

RESERVED_THREADS = 16
"""Threads that streams can never take: health, metrics, pages and webhooks answer always."""

SHARE_FOR_OTHERS = 4
"""The part of the streams that no single client can take, one in so many: there is always room for somebody else."""

ASKING = 4
"""Upstreams that are asked at the same time whether they have a repository that a visitor wants."""

AWAITED_BY_ONE = 8
"""First publishes that one client waits for at the same time."""

SMALL_BODY_BYTES = 64 * 1024
"""A body up to this size is here as a whole before a thread begins (:mod:`mirror_sync.web.patient`)."""

LARGER_BODIES = 4
"""Larger bodies of webhooks and LFS batches that are read at the same time, and as many that wait."""

BODY_WAIT_SECONDS = 5.0


class Slot:
    """One place taken; released once, however often that is asked."""

    __slots__ = ("_client", "_held", "_slots")

    def __init__(self, slots: Slots, client: str) -> None:
        self._slots = slots
        self._client = client
        self._held = True

    def release(self) -> None:
        """Give the place back."""
        if self._held:
            self._held = False
            self._slots.give_back(self._client)


class Slots:
    """A number of places, of which one client has ``per_client`` at most."""

    def __init__(self, count: int, *, per_client: int | None = None) -> None:
        self._semaphore = threading.BoundedSemaphore(max(1, count))
        self._per_client = per_client
        self._clients: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, *, client: str = "", wait: float = 0.0) -> Slot | None:
        """Return a place, waiting up to ``wait`` seconds, or ``None``; without a name a client's share is not counted."""
        if client and not self._count(client):
            return None
        got = self._semaphore.acquire(timeout=wait) if wait > 0 else self._semaphore.acquire(blocking=False)
        if got:
            return Slot(self, client)
        self._discount(client)
        return None

    def give_back(self, client: str) -> None:
        """Take back a place."""
        self._discount(client)
        self._semaphore.release()

    def _count(self, client: str) -> bool:
        with self._lock:
            if self._per_client is not None and self._clients[client] >= self._per_client:
                return False
            self._clients[client] += 1
            return True

    def _discount(self, client: str) -> None:
        if not client:
            return
        with self._lock:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


def client_of(asked: Request) -> str:
    """Return whose share of what there is a request takes from: its address, of IPv6 the network.

    A machine has as many IPv6 addresses as it likes, all of one /64.
    """
    address = asked.remote_addr or ""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped or IPv6Network((found, 64), strict=False))


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
        most = settings.serve.max_streams
        self.streams = Slots(most, per_client=max(1, most - max(1, most // SHARE_FOR_OTHERS)))
        self.awaiting = Slots(max(1, most // SHARE_FOR_OTHERS), per_client=AWAITED_BY_ONE)
        self.asking = Slots(ASKING, per_client=1)
        self.strangers = Patience(clock, burst=10.0, per_second=1 / 60)
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
