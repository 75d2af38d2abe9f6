"""What all LFS objects of one transfer share: whether it may go on, how far it is, how long to wait."""

from __future__ import annotations

import threading

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Kind, Meter, Progress, Way
from mirror_sync.errors import Interrupted, MirrorSyncError, UpstreamUnavailable
from mirror_sync.ports import Clock, Telemetry

PROGRESS_SECONDS = 0.5
STUCK_OBJECTS = 8
"""So many objects in a row given up without a byte between them, and the server is down, not the objects."""

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0


class Course:
    """One transfer under way.

    ``error`` is why nothing new is begun any more, the first reason that came up;
    what runs already may end.  ``short`` is the last refusal for want of space alone.
    """

    def __init__(
        self, mirror: MirrorName, *, clock: Clock, telemetry: Telemetry, stop: threading.Event, total: int
    ) -> None:
        self.mirror = mirror
        self.clock = clock
        self.telemetry = telemetry
        self.error: MirrorSyncError | None = None
        self.short: MirrorSyncError | None = None
        self.fetched = 0
        self._stop = stop
        self._total = total
        self._here = 0
        self._stuck = 0
        self._told_at = clock.monotonic()
        self._began_at = clock.now()
        self._meter = Meter(clock.monotonic())
        self._guard = threading.Lock()

    # -- whether to go on

    def halt(self, error: MirrorSyncError) -> None:
        """Begin nothing new; the first error stays."""
        with self._guard:
            self.error = self.error or error

    @property
    def open(self) -> bool:
        """Whether something new may begin."""
        return self.error is None and not self._stop.is_set()

    def go_on(self) -> None:
        """Raise :class:`Interrupted` when the process is stopping, or the error that halted the transfer."""
        self.check_stop()
        if self.error is not None:
            raise self.error

    def check_stop(self) -> None:
        """Raise :class:`Interrupted` when the process is stopping."""
        if self._stop.is_set():
            raise Interrupted

    def wait(self, failures: int) -> None:
        """Wait before the next try after ``failures`` in a row; raises :class:`Interrupted` at once when stopping."""
        seconds = min(LONGEST_WAIT, FIRST_WAIT * 3.0 ** max(0, failures - 1))
        self.pause(seconds * (0.5 + 0.5 * self.clock.chance()))

    def pause(self, seconds: float) -> None:
        """Wait; raises :class:`Interrupted` at once when stopping."""
        if self.clock.sleep(seconds, stop=self._stop):
            raise Interrupted

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
        with self._guard:
            self.fetched += received
            self._here += kept
            self._stuck = 0
            now = self.clock.monotonic()
            if now - self._told_at < PROGRESS_SECONDS:
                return
            self._told_at = now
        self.tell()

    def tell(self) -> None:
        """Tell people how far it is."""
        now = self.clock.now()
        self._meter.add(self.fetched - self._meter.received, self.clock.monotonic())
        progress = Progress(
            Kind.LFS,
            Way.PARTS,
            done=self._here,
            total=self._total,
            received=self.fetched,
            rate=self._meter.rate(self.clock.monotonic()),
            connections=0,
            cuts=0,
            began_at=self._began_at,
            at=now,
        )
        self.telemetry.progress(self.mirror, progress)
