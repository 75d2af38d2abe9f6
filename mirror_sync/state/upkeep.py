"""Hosts that asked us to wait, workers' signs of life, counts, and what is forgotten in time."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, Table, and_, case, delete, func, or_, select, update

from mirror_sync.domain.standing import CLOCK_BACK_SECONDS
from mirror_sync.state.database import Database, counters, mirrors
from mirror_sync.state.models import DeliveryRow, Host, LfsAsked, Meta, MirrorLfs, Run, Worker, table

m = mirrors.c
hosts = table(Host)
asked = table(LfsAsked)
workers = table(Worker)
meta = table(Meta)
deliveries = table(DeliveryRow)
runs = table(Run)

WORKER_MEMORY_SECONDS = 7 * 86400.0
PRUNE_ROWS = 5000
CLOCK = "clock"
SET_BACK = (
    (
        table(MirrorLfs),
        ("retry_at", "leased_until"),
    ),
    (
        mirrors,
        (
            "due_at",
            "pending_at",
            "lease_until",
            "chore_after",
            "lfs_due_at",
            "observed_at",
            "confirmed_at",
            "known_behind_since",
            "evidence_first",
            "evidence_last",
        ),
    ),
    (hosts, ("blocked_until",)),
    (asked, ("asked_at", "asked_until", "failed_until")),
)
"""Times that we set, or that would make the lag look too small."""


class Upkeep(Database):
    """What belongs to no single mirror."""

    def host_blocked_until(self, host: str) -> float:
        """Implement :meth:`mirror_sync.ports.StateStore.host_blocked_until`."""
        with self._read() as connection:
            until = connection.execute(select(hosts.c.blocked_until).where(hosts.c.host == host)).scalar()
        return until or 0.0

    def block_host(self, host: str, *, until: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.block_host`."""
        put = self._insert(hosts).values(host=host, blocked_until=until)
        longer = put.on_conflict_do_update(
            index_elements=[hosts.c.host],
            set_={"blocked_until": put.excluded.blocked_until},
            where=hosts.c.blocked_until < put.excluded.blocked_until,
        )
        with self._write() as connection:
            connection.execute(longer)

    def prune(self, *, deliveries_before: float, runs_before: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.prune`, a few thousand rows at a time."""
        self._prune(deliveries, deliveries.c.received_at < deliveries_before)
        self._prune(runs, and_(runs.c.finished_at.is_not(None), runs.c.finished_at < runs_before))
        with self._write() as connection:
            now = connection.execute(select(self._now)).scalar_one()
            connection.execute(delete(workers).where(workers.c.beat_at < now - WORKER_MEMORY_SECONDS))
            connection.execute(delete(hosts).where(hosts.c.blocked_until < now))
            connection.execute(delete(asked).where(asked.c.asked_until < now, asked.c.failed_until < now))

    def _prune(self, old: Table, where: ColumnElement[bool]) -> None:
        page = select(old.c.id).where(where).limit(PRUNE_ROWS)
        while True:
            with self._write() as connection:
                gone = connection.execute(delete(old).where(old.c.id.in_(page))).rowcount
            if gone < PRUNE_ROWS:
                return

    def beat(self, worker: str) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.beat`.

        Beats also notice that the clock went back by more than a minute: then every time
        that lies ahead moves along, else nothing would be due for as long.
        """
        put = self._insert(workers)
        with self._write() as connection:
            now, latest = connection.execute(
                select(self._now, select(meta.c.value).where(meta.c.key == CLOCK).scalar_subquery())
            ).one()
            if latest is not None and float(latest) - now > CLOCK_BACK_SECONDS:
                self._set_back(connection, now=now, latest=latest)
            connection.execute(
                put.on_conflict_do_update(index_elements=[workers.c.name], set_={"beat_at": put.excluded.beat_at}),
                {"name": worker, "beat_at": now},
            )
            clock = self._insert(meta)
            connection.execute(
                clock.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": clock.excluded.value}),
                {"key": CLOCK, "value": repr(now)},
            )

    def _set_back(self, connection: Connection, *, now: float, latest: str) -> None:
        # one of several workers sees it: the others find the new time there
        seen = connection.execute(
            update(meta).where(meta.c.key == CLOCK, meta.c.value == latest).values(value=repr(now))
        )
        if seen.rowcount != 1:
            return
        by = float(latest) - now
        for kept, names in SET_BACK:
            columns = [kept.c[name] for name in names]
            moved = {column.name: case((column > now, column - by), else_=column) for column in columns}
            connection.execute(update(kept).where(or_(*(column > now for column in columns))).values(moved))

    def workers(self) -> Mapping[str, float]:
        """Implement :meth:`mirror_sync.ports.StateStore.workers`."""
        with self._read() as connection:
            return {row.name: row.beat_at for row in connection.execute(select(workers))}

    def counters(self) -> Mapping[tuple[str, str], int]:
        """Implement :meth:`mirror_sync.ports.StateStore.counters`.

        Unchanged runs are counted on each mirror's own row, so that polls never wait for each other.
        """
        with self._read() as connection:
            counts = {(row.metric, row.label): row.value for row in connection.execute(select(counters))}
            polls = connection.execute(select(func.sum(m.unchanged_runs))).scalar()
        if polls:
            counts["runs", "unchanged"] = counts.get(("runs", "unchanged"), 0) + int(polls)
        return counts

    def identity(self) -> str:
        """Implement :meth:`mirror_sync.ports.StateStore.identity`."""
        with self._read() as connection:
            return str(connection.execute(select(meta.c.value).where(meta.c.key == "identity")).scalar_one())
