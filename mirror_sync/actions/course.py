"""What all LFS objects of one transfer share: whether it may go on, how far it is, how long to wait."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Kind, Meter, Progress, Way
from mirror_sync.errors import Interrupted, MirrorSyncError, Preempted, UpstreamUnavailable
from mirror_sync.ports import Clock, Telemetry

TELL_SECONDS = 1.0
STUCK_OBJECTS = 8
"""So many objects in a row given up without a byte between them, and the server is down, not the objects."""

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0


class Course:
    """One transfer under way.

    ``error`` is why nothing new is begun any more, the first reason that came up;
    what runs already may end.  ``short`` is the last reason why not everything could be
    taken though the transfer went on.
    """

    def __init__(
        self,
        mirror: MirrorName,
        *,
        clock: Clock,
        telemetry: Telemetry,
        stop: threading.Event,
        total: int,
        items: int,
        report: Callable[[Progress], None],
        yielding: Callable[[], bool],
    ) -> None:
        self.mirror = mirror
        self.clock = clock
        self.telemetry = telemetry
        self.error: MirrorSyncError | None = None
        self.short: MirrorSyncError | None = None
        self.fetched = 0
        self.stop = stop
        self._yielding = yielding
        self._report = report
        self._total = total
        self._items_total = items
        self._items = 0
        self._here = 0
        self._cuts = 0
        self._connections: Counter[str] = Counter()
        self._stuck = 0
        self._asked_at: float | None = None
        self._told_at = clock.monotonic()
        self._began_at = clock.now()
        self._meter = Meter(clock.monotonic())
        self._guard = threading.Lock()
        self._telling = threading.Lock()

    # -- whether to go on

    def halt(self, error: MirrorSyncError) -> None:
        """Begin nothing new; the first error stays."""
        with self._guard:
            self.error = self.error or error

    @property
    def open(self) -> bool:
        """Whether something new may begin."""
        return self.error is None and not self.stop.is_set()

    @property
    def over(self) -> bool:
        """Whether even what runs must end: the process is stopping, or others wait."""
        return self.stop.is_set() or isinstance(self.error, Preempted)

    def backoff(self, failures: int) -> float:
        """Return how many seconds to wait after ``failures`` in a row."""
        seconds = min(LONGEST_WAIT, FIRST_WAIT * 3.0 ** max(0, failures - 1))
        return seconds * (0.5 + 0.5 * self.clock.chance())

    def pause(self, seconds: float) -> None:
        """Wait; ends at once when stopping."""
        if self.clock.sleep(seconds, stop=self.stop):
            self.halt(Interrupted())

    def gave_up(self, error: MirrorSyncError) -> None:
        """Note that one object was given up; halts when that is all that happens any more."""
        if not isinstance(error, UpstreamUnavailable):
            return
        with self._guard:
            self._stuck += 1
            stuck = self._stuck >= STUCK_OBJECTS
        if stuck:
            self.halt(error)

    # -- how far it is

    def found(self, size: int) -> None:
        """Note bytes that were on disk already."""
        with self._guard:
            self._here += size

    def lost(self, size: int) -> None:
        """Note bytes that turned out wrong."""
        self.found(-size)

    def came(self, *, received: int, kept: int) -> None:
        """Note bytes that arrived, and how many of them were wanted; tells people now and then."""
        now = self.clock.monotonic()
        with self._guard:
            self.fetched += received
            self._here += kept
            self._stuck = 0
            self._meter.add(received, now)
        self.tick()

    def cut(self) -> None:
        """Note a connection that broke and was survived."""
        with self._guard:
            self._cuts += 1

    def arrived(self) -> None:
        """Note that one more object is here."""
        with self._guard:
            self._items += 1

    def opened(self, host: str) -> None:
        """Note a connection in use."""
        with self._guard:
            self._connections[host] += 1

    def closed(self, host: str) -> None:
        """Note the end of its use."""
        with self._guard:
            self._connections[host] -= 1

    def tick(self) -> None:
        """Ask whether others wait, and tell people how far it is, each about once a second."""
        now = self.clock.monotonic()
        ask = self._asked_at is None or now - self._asked_at >= TELL_SECONDS
        tell = now - self._told_at >= TELL_SECONDS
        if not (ask or tell) or not self._telling.acquire(blocking=False):
            return
        try:
            if ask:
                self._asked_at = now
                if self._yielding():
                    self.halt(Preempted())
            if tell:
                self._told_at = now
                self._report(self.progress())
        finally:
            self._telling.release()

    def tell(self) -> None:
        """Tell people how far it is, now."""
        with self._telling:
            self._told_at = self.clock.monotonic()
            self._report(self.progress())

    def progress(self) -> Progress:
        """Return how far it is."""
        with self._guard:
            busy = [host for host, used in self._connections.most_common() if used > 0]
            return Progress(
                Kind.LFS,
                Way.PARTS,
                done=self._here,
                total=self._total,
                received=self.fetched,
                rate=self._meter.rate(self.clock.monotonic()),
                connections=sum(self._connections[host] for host in busy),
                cuts=self._cuts,
                items=self._items,
                items_total=self._items_total,
                sources=tuple(busy),
                began_at=self._began_at,
                at=self.clock.now(),
            )
