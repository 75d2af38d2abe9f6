"""The syncs that run now: their leases are renewed, their stop events set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mirror_sync.domain.runs import Lease
from mirror_sync.errors import LeaseLost, MirrorSyncError
from mirror_sync.worker.work import Work

RENEWALS_PER_LEASE = 3
LEAVING_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Running:
    """One sync in progress, with the App it began under."""

    app: Work
    lease: Lease
    stop: threading.Event = field(default_factory=threading.Event)
    lost: bool = False
    """Whether its lost lease was reported."""


class Leases:
    """Every sync of this worker that is in progress.

    ``on_change`` is called, outside any lock, whenever one has ended.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._running: set[Running] = set()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return len(self._running)

    def begin(self, app: Work, lease: Lease) -> Running:
        """Take a lease into care."""
        running = Running(app, lease)
        with self._changed:
            self._running.add(running)
        return running

    def end(self, running: Running) -> None:
        """Leave a lease to itself: its sync has recorded how it ended."""
        with self._changed:
            self._running.discard(running)
            self._changed.notify_all()
        self._on_change()

    def renew(self) -> None:
        """Extend every lease; stop the syncs whose lease is lost or has run out unrenewed."""
        with self._changed:
            running = list(self._running)
        trouble: MirrorSyncError | None = None
        for one in running:
            try:
                self._renew(one)
            except MirrorSyncError as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def _renew(self, one: Running) -> None:
        seconds = one.app.settings.workers.lease_seconds
        asked_at = one.app.clock.now()
        try:
            one.app.state.renew(one.lease, lease_seconds=seconds)
        except LeaseLost:
            self._stop(one, why="another worker has taken over")
        except MirrorSyncError:
            if asked_at >= one.lease.until:
                self._stop(one, why="the lease ran out and could not be renewed")
            raise
        else:
            one.lease = replace(one.lease, until=asked_at + seconds)

    def _stop(self, one: Running, *, why: str) -> None:
        one.stop.set()
        with self._changed:
            # a sync that has just recorded its end has no lease any more and is about to leave: no loss
            left = self._changed.wait_for(lambda: one not in self._running, timeout=LEAVING_SECONDS)
        if not left and not one.lost:
            one.lost = True
            one.app.telemetry.event("lease_lost", mirror=one.lease.mirror.name, why=why, level="warning")

    def stop_all(self) -> None:
        """Ask every sync to end at the next point where it can go on later."""
        with self._changed:
            for one in self._running:
                one.stop.set()

    def names(self) -> list[str]:
        """Return the mirrors being synced now."""
        with self._changed:
            return sorted(one.lease.mirror.name for one in self._running)
