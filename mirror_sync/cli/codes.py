"""What the exit status means; part of the published contract."""

from __future__ import annotations

from mirror_sync.errors import (
    AddressRefused,
    ConfigError,
    Conflict,
    MirrorSyncError,
    NotFound,
    StateUnavailable,
    StorageForeign,
    UsageError,
)

DONE = 0
FAILED = 1
USAGE = 2
PARTLY = 3
NOT_FOUND = 5
CONFLICT = 6
UNREACHABLE = 7
CONFIG = 8
TIMED_OUT = 9
UNHEALTHY = 10
INTERRUPTED = 130

_BY_CLASS: tuple[tuple[type[MirrorSyncError], int], ...] = (
    (ConfigError, CONFIG),
    (UsageError, USAGE),
    (AddressRefused, USAGE),
    (NotFound, NOT_FOUND),
    (Conflict, CONFLICT),
    (StorageForeign, CONFLICT),
    (StateUnavailable, UNREACHABLE),
)


class NoWorker(MirrorSyncError):
    """No worker is running."""

    code = "MS-D001"


class WaitedTooLong(MirrorSyncError):
    """The time given to wait is over."""

    code = "MS-D009"


def exit_status(error: MirrorSyncError) -> int:
    """Return the exit status that tells a script what kind of error this is."""
    if isinstance(error, NoWorker):
        return UNREACHABLE
    if isinstance(error, WaitedTooLong):
        return TIMED_OUT
    return next((status for kind, status in _BY_CLASS if isinstance(error, kind)), FAILED)
