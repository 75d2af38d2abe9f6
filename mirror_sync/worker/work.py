"""What a worker needs of the App."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from mirror_sync.config import Settings
from mirror_sync.domain.runs import Lease, RunReport
from mirror_sync.ports import Clock, Keep, StateStore, Telemetry, Waker


class Counts(Protocol):
    """The part of the metrics that the worker itself uses."""

    def publish(self) -> None:
        """Leave this process's counts where the web finds them."""

    def config_reloaded(self, *, result: str) -> None:
        """Count one reload: ``applied``, ``unchanged`` or ``refused``."""


class Work(Protocol):
    """The part of :class:`mirror_sync.bootstrap.App` that workers use."""

    settings: Settings
    """The configuration in force; a reload replaces it, and whatever begins later obeys the new one."""

    @property
    def clock(self) -> Clock:
        """What time it is."""

    @property
    def state(self) -> StateStore:
        """The database."""

    @property
    def waker(self) -> Waker:
        """What rouses the worker."""

    @property
    def metrics(self) -> Counts:
        """What counts."""

    @property
    def telemetry(self) -> Telemetry:
        """Who hears what happens."""

    def claim(self, worker: str) -> Lease | None:
        """Take the most urgent due mirror."""

    def sync(self, lease: Lease, *, stop: threading.Event, crowded: Callable[[], bool]) -> RunReport:
        """Sync one mirror and record how it went; ``crowded`` tells whether others wait for its place."""

    def record_crash(self, lease: Lease, error: Exception) -> None:
        """Record a run that ended by a fault of our own."""

    def fetch_history(self, worker: str, *, small: bool, stop: threading.Event) -> int:
        """Fetch some LFS objects that no run is fetching, only ``small`` ones or any; return how many were tried."""

    def fetch_asked(self, *, stop: threading.Event) -> int:
        """Fetch some LFS objects that clients wait for; return how many were tried."""

    def maintain_one(self, worker: str, *, keep: Keep) -> bool:
        """Maintain one mirror that needs it; ``False`` when none does."""

    def sweep(self, worker: str, *, keep: Keep, stop: threading.Event) -> None:
        """Remove what nothing needs."""

    def remove_one(self, worker: str, *, keep: Keep) -> bool:
        """Delete one mirror whose time has come; ``False`` when there is none."""

    def declare_mirrors(self) -> None:
        """Enrol the mirrors that the configuration names."""

    def recover_all(self) -> None:
        """Make the storage ours, or refuse one that is another's."""

    def close(self) -> None:
        """Release connections and sockets."""
