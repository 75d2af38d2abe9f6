"""Rousing workers of other hosts through Postgres."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mirror_sync.state.engine import Password, no_password, parse_database_url, postgres_arguments

if TYPE_CHECKING:
    import psycopg

CHANNEL = "mirror_sync_due"
POKE_PATIENCE_SECONDS = 0.5
CONNECT_SECONDS = 2.0


class PostgresWaker:
    """Wakes every worker that listens on the same database; implements :class:`mirror_sync.ports.Waker`.

    Two connections of its own, outside the pool: one listens, one notifies, and each is
    made anew when it breaks.
    """

    def __init__(self, url: str, *, password: Password = no_password) -> None:
        self._address = parse_database_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._password = password
        self._listener: psycopg.Connection | None = None
        self._notifier: psycopg.Connection | None = None
        self._poking = threading.Lock()
        self._closed = threading.Event()

    def poke(self) -> None:
        """Implement :meth:`mirror_sync.ports.Waker.poke`."""
        import psycopg  # late, as SQLite installations have no psycopg

        if self._closed.is_set() or not self._poking.acquire(timeout=POKE_PATIENCE_SECONDS):
            return  # somebody else is poking; at worst the worker's next look, a second later, finds it
        try:
            if self._notifier is None:
                self._notifier = self._connect()
            self._notifier.execute(f"NOTIFY {CHANNEL}")
        except psycopg.Error:
            _drop(self._notifier)
            self._notifier = None
        finally:
            self._poking.release()

    def wait(self, seconds: float) -> bool:
        """Implement :meth:`mirror_sync.ports.Waker.wait`."""
        import psycopg

        try:
            if self._listener is None:
                self._listener = self._connect()
                self._listener.execute(f"LISTEN {CHANNEL}")
            return any(True for _ in self._listener.notifies(timeout=seconds, stop_after=1))
        except psycopg.Error:
            _drop(self._listener)
            self._listener = None
            self._closed.wait(seconds)  # without the database there is nothing to do any sooner
            return False

    def close(self) -> None:
        """Implement :meth:`mirror_sync.ports.Waker.close`."""
        self._closed.set()
        with self._poking:
            _drop(self._notifier)
            self._notifier = None
        _drop(self._listener)
        self._listener = None

    def _connect(self) -> psycopg.Connection:
        import psycopg

        return psycopg.connect(
            self._address,
            password=self._password(),
            autocommit=True,
            **postgres_arguments(CONNECT_SECONDS),
        )


def _drop(connection: psycopg.Connection | None) -> None:
    if connection is not None:
        connection.close()
