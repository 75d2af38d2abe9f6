"""What the database says went wrong, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from mirror_sync.errors import MirrorSyncError, SchemaOutdated, StateUnavailable

UPGRADE = "mirror-sync db upgrade, as the user that runs the daemon; the systemd units do it when they start"

_NO_TABLE = frozenset({"42P01", "42703"})
_DAMAGED = ("malformed", "not a database")


@contextmanager
def door() -> Iterator[None]:
    """Translate what SQLAlchemy and the drivers raise inside into :mod:`mirror_sync.errors`."""
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError) as error:
        known = translated(error)
        if known is None:
            raise
        raise known from error


def translated(error: exc.SQLAlchemyError) -> MirrorSyncError | None:
    """Return our error for a foreign one, or ``None`` for a fault of ours that nobody should catch."""
    if isinstance(error, exc.TimeoutError):
        return StateUnavailable(why="every database connection is in use")
    if not isinstance(error, exc.DBAPIError):
        return None
    why = _first_line(error.orig)
    if getattr(error.orig, "sqlstate", None) in _NO_TABLE or "no such table" in why or "no such column" in why:
        return SchemaOutdated("The database has not the tables this version needs", why=why, remedy=UPGRADE)
    if any(word in why for word in _DAMAGED):
        return StateUnavailable(
            "The database file is damaged",
            why=why,
            remedy="restore it from a backup; refs and LFS objects on disk are not affected",
            code="MS-D004",
        )
    if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError):
        return StateUnavailable(why=why, remedy="check that the database runs, and its disk, address and password")
    return None


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
