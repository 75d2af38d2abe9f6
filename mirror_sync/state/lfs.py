"""The queue of LFS objects that mirrors want, and what became of them.

Rows are always locked in this order: LFS objects by oid, references, mirrors by
number.  That way a transfer that arrived for many mirrors never waits in a circle
with a scan or a claim.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Double, Select, bindparam, case, cast, delete, func, literal_column, select, update

from mirror_sync.domain.names import LfsOid, printable
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import LfsJob, MirrorId
from mirror_sync.state.database import AnyRow, mirrors
from mirror_sync.state.models import KNOWN_MISSING, PRESENT, WANTED
from mirror_sync.state.pointers import AT_ONCE, Pointers, objects, pieces, wants

m = mirrors.c

TURNS = 64
"""Mirrors looked at in one claim whose time turned out not to have come."""

NOT_HERE = literal_column("mirror_lfs.status") != literal_column("0")
"""As literals: the planner must see that the partial indices cover it."""


class Lfs(Pointers):
    """Which LFS objects are here, and which to fetch next."""

    # -- what arrived, was lost, or failed
    def lfs_arrived(self, oids: Sequence[LfsOid]) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_arrived`."""
        for some in pieces(sorted(set(oids)), AT_ONCE):
            with self._write() as connection:
                self._lock_objects(connection, some, present=True)
                changes = _Changes()
                for status in (WANTED, KNOWN_MISSING):
                    moved = connection.execute(
                        update(wants)
                        .where(wants.c.oid.in_(some), wants.c.status == status)
                        .values(status=PRESENT, attempts=0, leased_until=0.0, leased_by="", code="", message="")
                        .returning(wants.c.mirror_id, wants.c.size)
                    )
                    for mirror_id, size in moved:
                        changes.add(mirror_id, present=1, size=size, known_missing=-(status == KNOWN_MISSING))
                changes.write(connection)

    def lfs_lost(self, oids: Sequence[LfsOid]) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_lost`."""
        for some in pieces(sorted(set(oids)), AT_ONCE):
            with self._write() as connection:
                self._lock_objects(connection, some, present=False)
                changes = _Changes()
                moved = connection.execute(
                    update(wants)
                    .where(wants.c.oid.in_(some), wants.c.status == PRESENT)
                    .values(status=WANTED, retry_at=self._now)
                    .returning(wants.c.mirror_id, wants.c.size, wants.c.retry_at)
                )
                for mirror_id, size, retry_at in moved:
                    changes.add(mirror_id, present=-1, size=-size, known_missing=0, due_at=retry_at)
                changes.write(connection)
                unreferenced = objects.c.oid.not_in(select(wants.c.oid).where(wants.c.oid.in_(some)))
                connection.execute(delete(objects).where(objects.c.oid.in_(some), unreferenced))

    def _lock_objects(self, connection: Connection, oids: Sequence[LfsOid], *, present: bool) -> None:
        locked = select(objects.c.oid).where(objects.c.oid.in_(oids)).order_by(objects.c.oid)
        connection.execute(locked.with_for_update()).all()
        connection.execute(update(objects).where(objects.c.oid.in_(oids)).values(present=present))

    def lfs_failed(
        self, mirror_id: MirrorId, oid: LfsOid, *, code: str, message: str, known_missing: bool, retry_at: float
    ) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_failed`."""
        this = (wants.c.mirror_id == mirror_id, wants.c.oid == oid)
        with self._write() as connection:
            before = connection.execute(select(wants.c.status).where(*this).with_for_update()).scalar()
            if before is None or before == PRESENT:
                return
            values: dict[str, Any] = {
                "attempts": wants.c.attempts + 1,
                "retry_at": retry_at,
                "leased_until": 0.0,
                "leased_by": "",
            }
            newly = known_missing and before == WANTED
            if known_missing or before == WANTED:  # a broken line says nothing of what upstream lacks
                values |= {
                    "status": KNOWN_MISSING if known_missing else WANTED,
                    "code": code,
                    "message": printable(message),
                }
            connection.execute(update(wants).where(*this).values(values))
            changes = _Changes()
            changes.add(mirror_id, present=0, size=0, known_missing=int(newly), due_at=retry_at)
            changes.write(connection)

    # -- the queue
    def claim_lfs(self, worker: str, *, limit: int, lease_seconds: float) -> list[LfsJob]:
        """Implement :meth:`mirror_sync.ports.StateStore.claim_lfs`.

        Mirrors take turns: one whose objects were just claimed goes behind those that wait.
        """
        for _ in range(TURNS):
            with self._write() as connection:
                mirror = connection.execute(self._next_turn).first()
                if mirror is None:
                    return []
                jobs = self._claim_objects(
                    connection, MirrorId(mirror.id), worker, now=mirror.now, limit=limit, lease_seconds=lease_seconds
                )
                if jobs:
                    return jobs
        return []

    @cached_property
    def _next_turn(self) -> Select[Any]:
        return (
            select(m.id, self._now.label("now"))
            .where(m.lfs_ready_at <= self._now)
            .order_by(m.lfs_ready_at)
            .limit(1)
            .with_for_update(of=mirrors, skip_locked=True)
        )

    def _claim_objects(
        self,
        connection: Connection,
        mirror_id: MirrorId,
        worker: str,
        *,
        now: float,
        limit: int,
        lease_seconds: float,
    ) -> list[LfsJob]:
        mine = (wants.c.mirror_id == mirror_id, NOT_HERE)
        rows: list[AnyRow] = []
        for status in (WANTED, KNOWN_MISSING):
            ready = (
                select(wants.c.oid, wants.c.size, wants.c.attempts)
                .where(*mine, wants.c.status == status, wants.c.ready_at <= now)
                .order_by(wants.c.ready_at, wants.c.oid)
                .limit(limit - len(rows))
                .with_for_update(skip_locked=True)
            )
            if len(rows) < limit:
                rows.extend(connection.execute(ready))
        if rows:
            connection.execute(
                LEASE_OBJECT,
                [
                    {"mirror": mirror_id, "this": row.oid, "until": now + lease_seconds, "worker": worker}
                    for row in rows
                ],
            )
        left = [
            connection.execute(select(func.min(wants.c.ready_at)).where(*mine, wants.c.status == status)).scalar()
            for status in (WANTED, KNOWN_MISSING)
        ]
        due = min((time for time in left if time is not None), default=None)
        if due is not None and rows:
            due = max(due, now)  # behind the mirrors that have waited
        connection.execute(update(mirrors).where(m.id == mirror_id).values(lfs_due_at=due))
        return [LfsJob(mirror_id, row.oid, row.size, row.attempts) for row in rows]

    # -- asking
    def lfs_refers(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, int]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_refers`."""
        found: dict[LfsOid, int] = {}
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(wants.c.oid, wants.c.size).where(wants.c.mirror_id == mirror_id, wants.c.oid.in_(some))
                found.update((oid, size) for oid, size in connection.execute(query))
        return found

    def lfs_missing(self, mirror_id: MirrorId, *, after: str = "", limit: int = 100) -> list[tuple[Pointer, str, str]]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_missing`."""
        query = select(wants.c.oid, wants.c.size, wants.c.code, wants.c.message).where(
            wants.c.mirror_id == mirror_id, NOT_HERE, wants.c.oid > after
        )
        with self._read() as connection:
            rows = connection.execute(query.order_by(wants.c.oid).limit(limit)).all()
        return [(Pointer(row.oid, row.size), row.code, row.message) for row in rows]

    def lfs_unreferenced(self, oids: Sequence[LfsOid]) -> set[LfsOid]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_unreferenced`."""
        left = set(oids)
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(wants.c.oid).where(wants.c.oid.in_(some)).distinct()
                left.difference_update(connection.execute(query).scalars())
        return left


class _Changes:
    """What a change of some references makes of the counts of their mirrors."""

    def __init__(self) -> None:
        self._by_mirror: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._due: dict[int, float] = {}

    def add(self, mirror_id: int, *, present: int, size: int, known_missing: int, due_at: float | None = None) -> None:
        """Add one reference's change; ``due_at`` is when it wants fetching."""
        sums = self._by_mirror[mirror_id]
        sums[0] += present
        sums[1] += size
        sums[2] += known_missing
        if due_at is not None:
            self._due[mirror_id] = min(due_at, self._due.get(mirror_id, due_at))

    def write(self, connection: Connection) -> None:
        """Add the sums to the mirrors, in the order of their numbers."""
        values = [
            {
                "mirror": mirror_id,
                "more_present": present,
                "more_bytes": size,
                "more_known_missing": known_missing,
                "due": self._due.get(mirror_id, math.inf),
            }
            for mirror_id, (present, size, known_missing) in sorted(self._by_mirror.items())
        ]
        if values:
            connection.execute(CHANGE, values)


_DUE = bindparam("due", type_=Double)

CHANGE = (
    update(mirrors)
    .where(m.id == bindparam("mirror"))
    .values(
        lfs_present=m.lfs_present + bindparam("more_present"),
        lfs_present_bytes=m.lfs_present_bytes + bindparam("more_bytes"),
        lfs_known_missing=m.lfs_known_missing + bindparam("more_known_missing"),
        lfs_due_at=case(
            (cast(_DUE, Double) < func.coalesce(m.lfs_due_at, math.inf), cast(_DUE, Double)), else_=m.lfs_due_at
        ),
    )
)

LEASE_OBJECT = (
    update(wants)
    .where(wants.c.mirror_id == bindparam("mirror"), wants.c.oid == bindparam("this"))
    .values(leased_until=bindparam("until"), leased_by=bindparam("worker"))
)
