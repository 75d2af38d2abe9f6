"""Transactions on the database, and the time that leases go by."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Double, Row, Table, bindparam, cast, extract, func, select
from sqlalchemy.sql import ColumnElement

from mirror_sync.domain.runs import Lease, MirrorId
from mirror_sync.errors import LeaseLost, NotFound, SchemaOutdated, StateUnavailable
from mirror_sync.ports import Clock
from mirror_sync.state.door import UPGRADE, door
from mirror_sync.state.engine import (
    READ_ONLY,
    Password,
    no_password,
    open_engine,
    parse_database_url,
    sqlite_path,
)
from mirror_sync.state.models import Count, MirrorRow, table
from mirror_sync.state.schema import check_schema

AnyRow = Row[Any]

mirrors = table(MirrorRow)
counters = table(Count)


class Database:
    """One database with its schema checked before the first use.

    On Postgres its own clock decides about leases, so that workers on several hosts
    agree; ``database_clock=False`` takes the given clock there too, as SQLite does.
    ``timeout`` bounds in seconds how long a call waits for locks and connections.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        password: Password = no_password,
        database_clock: bool = True,
        timeout: float = 5.0,
    ) -> None:
        self._clock = clock
        self._url = parse_database_url(url)
        self._timeout = timeout
        self._postgres = sqlite_path(self._url) is None
        self._engine = open_engine(self._url, password=password, timeout=timeout)
        self._reader = self._engine.execution_options(**{READ_ONLY: True})
        self._one_writer = None if self._postgres else threading.Lock()
        self._schema_known = False
        self._now: ColumnElement[float] = (
            # a subquery, so that the planner takes it for one value and can use an index
            select(cast(extract("epoch", func.clock_timestamp()), Double)).scalar_subquery()
            if self._postgres and database_clock
            else bindparam("clock_now", callable_=clock.now, type_=Double)
        )
        added = self._insert(counters)
        self._add_count = added.on_conflict_do_update(
            index_elements=[counters.c.metric, counters.c.label],
            set_={"value": counters.c.value + added.excluded.value},
        )
        self._rows = select(mirrors, self._now.label("now"))
        self._lock_row = self._rows.where(mirrors.c.id == bindparam("mirror")).with_for_update(of=mirrors)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with door():
            self._know_schema()
            with self._reader.connect() as connection:
                yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """Yield a transaction that is durable once the block is left, and undone when it raises."""
        with door():
            self._know_schema()
            if self._one_writer is None:
                with self._engine.begin() as connection:
                    yield connection
                return
            # our own threads queue here: SQLite's waiting sleeps in steps and is not fair
            if not self._one_writer.acquire(timeout=self._timeout):
                raise StateUnavailable(why="other writers hold the database")
            try:
                with self._engine.begin() as connection:
                    yield connection
            finally:
                self._one_writer.release()

    def _know_schema(self) -> None:
        if not self._schema_known:
            self.check()
            self._schema_known = True

    def check(self) -> None:
        """Raise unless the database answers and its schema is the one needed."""
        path = sqlite_path(self._url)
        if path is not None and not path.exists():
            raise SchemaOutdated("there is no database yet", why=f"{path} does not exist", remedy=UPGRADE)
        with door(), self._reader.connect() as connection:
            check_schema(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _insert(self, into: Table) -> Any:
        """Return an INSERT that knows ON CONFLICT; both dialects spell it the same."""
        if self._postgres:
            from sqlalchemy.dialects.postgresql import (
                insert,
            )  # it takes memory, and most installations have no Postgres

            return insert(into)
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        return insert_sqlite(into)

    def _count(self, connection: Connection, counts: Mapping[tuple[str, str], int]) -> None:
        """Add to the counts kept in the database; the last thing a transaction does, since all share these rows."""
        values = [
            {"metric": metric, "label": label, "value": value}
            for (metric, label), value in sorted(counts.items())
            if value
        ]
        if values:
            connection.execute(self._add_count, values)

    # -- one mirror's row
    def _locked(self, connection: Connection, mirror_id: MirrorId) -> AnyRow:
        """Return a mirror's row with ``now``, locked until the end of the transaction; raises :class:`NotFound`."""
        row = connection.execute(self._lock_row, {"mirror": mirror_id}).first()
        if row is None:
            raise NotFound(f"no mirror has the number {mirror_id}")
        return row

    def _fenced(self, connection: Connection, lease: Lease) -> AnyRow:
        """Return the row of a lease that is the mirror's latest and has not expired; else raise :class:`LeaseLost`."""
        row = connection.execute(self._lock_row, {"mirror": lease.mirror.id}).first()
        if row is None or row.lease_token != lease.token or not row.leased_by or row.lease_until <= row.now:
            raise LeaseLost
        return row
