"""The queue of LFS objects that mirrors want, and what became of them.

Rows are always locked in this order: LFS objects by oid, references, mirrors by
number.  That way a transfer that arrived for many mirrors never waits in a circle
with a scan or a claim.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Select,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from mirror_sync.domain.names import LfsOid, printable
from mirror_sync.domain.pointers import MOST_COUNTED_BYTES, Pointer
from mirror_sync.domain.runs import HISTORY_RANK, LEFT_OUT_RANK, TIP_RANK, Lease, LfsJob, MirrorId, Trigger
from mirror_sync.domain.standing import Due
from mirror_sync.state.calls import Calls
from mirror_sync.state.database import AnyRow, mirrors
from mirror_sync.state.models import KNOWN_MISSING, LEFT_OUT, PRESENT, WANTED
from mirror_sync.state.pointers import AT_ONCE, Pointers, objects, pieces, pointers, wants

m = mirrors.c

TURNS = 64
"""Mirrors looked at in one claim whose time turned out not to have come."""

VERDICTS_AT_ONCE = 5000
"""Objects judged in one transaction, so that a changed selection holds up nobody."""

NOT_HERE = literal_column("mirror_lfs.status") != literal_column("0")
"""As literals: the planner must see that the partial indices cover it."""

due_time = wants.c.ready_at + 0.0
"""As a sum, so that no index by time is used where the one by rank and size gives the order."""

FOR_REFS, FOR_HISTORY = wants.c.rank < HISTORY_RANK, wants.c.rank == HISTORY_RANK
"""Asked apart: of the many objects of history, an index finds the small ones only when their rank is one."""


class Lfs(Pointers, Calls):
    """Which LFS objects are here, and which to fetch next."""

    # -- what arrived, was lost, or failed
    def lfs_arrived(
        self, oids: Sequence[LfsOid], *, sizes: Mapping[LfsOid, int] | None = None, told_by: MirrorId | None = None
    ) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_arrived`."""
        for some in pieces(sorted(set(oids)), AT_ONCE):
            with self._write() as connection:
                self._lock_objects(connection, some, present=True)
                changes = _Changes()
                served: set[tuple[int, int]] = set()
                for status in (WANTED, KNOWN_MISSING, LEFT_OUT):
                    moved = connection.execute(
                        update(wants)
                        .where(wants.c.oid.in_(some), wants.c.status == status)
                        .values(status=PRESENT, attempts=0, leased_until=0.0, leased_by="", code="", message="")
                        .returning(wants.c.mirror_id, wants.c.size, wants.c.rank)
                    )
                    for mirror_id, size, rank in moved:
                        changes.move(mirror_id, size, status, PRESENT)
                        if rank < TIP_RANK and mirror_id != told_by:
                            served.add((mirror_id, rank))
                self._correct(connection, {oid: sizes[oid] for oid in some if oid in sizes} if sizes else {}, changes)
                changes.write(connection)
                self._call_those_served(connection, served)

    def _correct(self, connection: Connection, sizes: Mapping[LfsOid, int], changes: _Changes) -> None:
        """Give objects that are here the size they have, where a pointer had claimed another."""
        if not sizes:
            return
        mine = (wants.c.oid.in_(sizes), wants.c.status == PRESENT)
        for row in connection.execute(select(wants.c.mirror_id, wants.c.oid, wants.c.size).where(*mine)).all():
            if row.size != sizes[row.oid]:
                this = (wants.c.mirror_id == row.mirror_id, wants.c.oid == row.oid)
                connection.execute(update(wants).where(*this).values(size=sizes[row.oid]))
                changes.resize(row.mirror_id, PRESENT, row.size, sizes[row.oid])

    def _call_those_served(self, connection: Connection, served: set[tuple[int, int]]) -> None:
        """Make mirrors due of which a waiting ref's last object has arrived."""
        complete = set()
        for mirror_id, rank in served:
            left = select(wants.c.oid).where(
                wants.c.mirror_id == mirror_id, NOT_HERE, wants.c.status == WANTED, wants.c.rank == rank
            )
            if connection.execute(left.limit(1)).first() is None:
                complete.add(mirror_id)
        for mirror_id in sorted(complete):
            row = self._locked(connection, MirrorId(mirror_id))
            self._call(connection, row, Due(row.now, Trigger.POLL))

    def lfs_lost(self, oids: Sequence[LfsOid]) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_lost`."""
        for some in pieces(sorted(set(oids)), AT_ONCE):
            with self._write() as connection:
                self._lock_objects(connection, some, present=False)
                changes = _Changes()
                for status, whose in ((LEFT_OUT, wants.c.rank == LEFT_OUT_RANK), (WANTED, wants.c.status == PRESENT)):
                    moved = connection.execute(
                        update(wants)
                        .where(wants.c.oid.in_(some), wants.c.status == PRESENT, whose)
                        .values(status=status, retry_at=self._now)
                        .returning(wants.c.mirror_id, wants.c.size, wants.c.retry_at)
                    )
                    for mirror_id, size, retry_at in moved:
                        changes.move(mirror_id, size, PRESENT, status, due_at=retry_at if status == WANTED else None)
                changes.write(connection)
                unreferenced = objects.c.oid.not_in(select(wants.c.oid).where(wants.c.oid.in_(some)))
                connection.execute(delete(objects).where(objects.c.oid.in_(some), unreferenced))

    def _lock_objects(self, connection: Connection, oids: Sequence[LfsOid], *, present: bool) -> None:
        locked = select(objects.c.oid).where(objects.c.oid.in_(oids)).order_by(objects.c.oid)
        connection.execute(locked.with_for_update()).all()
        connection.execute(update(objects).where(objects.c.oid.in_(oids)).values(present=present))

    def lfs_failed(
        self,
        mirror_id: MirrorId,
        oid: LfsOid,
        *,
        code: str,
        message: str,
        known_missing: bool,
        retry_at: float,
        size: int | None = None,
        then: int | None = None,
    ) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_failed`."""
        this = (wants.c.mirror_id == mirror_id, wants.c.oid == oid)
        with self._write() as connection:
            row = connection.execute(select(wants.c.status, wants.c.size).where(*this).with_for_update()).first()
            if row is None or row.status not in (WANTED, KNOWN_MISSING):
                return
            if size is not None and row.size != min(size, MOST_COUNTED_BYTES):
                return
            before = row.status
            values: dict[str, Any] = {
                "attempts": wants.c.attempts + 1,
                "retry_at": retry_at,
                "leased_until": 0.0,
                "leased_by": "",
            }
            after = KNOWN_MISSING if known_missing else before
            if known_missing or before == WANTED:  # a broken line says nothing of what upstream lacks
                values |= {"status": after, "code": code, "message": printable(message)}
            connection.execute(update(wants).where(*this).values(values))
            changes = _Changes()
            changes.move(mirror_id, row.size, before, after, due_at=retry_at)
            if then is not None:
                connection.execute(update(wants).where(*this).values(size=min(then, MOST_COUNTED_BYTES)))
                changes.resize(mirror_id, after, row.size, min(then, MOST_COUNTED_BYTES))
            changes.write(connection)

    def lfs_sizes(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, list[int]]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_sizes`."""
        found: dict[LfsOid, set[int]] = defaultdict(set)
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(pointers.c.oid, pointers.c.size).where(
                    pointers.c.mirror_id == mirror_id, pointers.c.oid.in_(some)
                )
                for oid, size in connection.execute(query.distinct()):
                    found[oid].add(min(size, MOST_COUNTED_BYTES))
        return {oid: sorted(sizes) for oid, sizes in found.items() if len(sizes) > 1}

    # -- what a mirror wants, and in which order
    def judge_lfs(self, lease: Lease, verdicts: Mapping[LfsOid, str], *, selection: str | None = None) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.judge_lfs`."""
        for some in pieces(sorted(verdicts), VERDICTS_AT_ONCE):
            by_reason: dict[str, list[LfsOid]] = defaultdict(list)
            for oid in some:
                by_reason[verdicts[oid]].append(oid)
            with self._write() as connection:
                changes = _Changes()
                for reason, oids in by_reason.items():
                    for few in pieces(oids, AT_ONCE):
                        self._judge(connection, lease.mirror.id, few, reason=reason, changes=changes)
                self._fenced(connection, lease)
                changes.write(connection)
        if selection is not None:
            with self._write() as connection:
                row = self._fenced(connection, lease)
                connection.execute(update(mirrors).where(m.id == row.id).values(lfs_selection=selection))

    def _judge(
        self, connection: Connection, mirror_id: MirrorId, oids: Sequence[LfsOid], *, reason: str, changes: _Changes
    ) -> None:
        mine = update(wants).where(wants.c.mirror_id == mirror_id, wants.c.oid.in_(oids))
        if not reason:
            freed = mine.where(wants.c.status == LEFT_OUT).values(
                status=WANTED, rank=HISTORY_RANK, retry_at=self._now, attempts=0, message=""
            )
            for size, retry_at in connection.execute(freed.returning(wants.c.size, wants.c.retry_at)):
                changes.move(mirror_id, size, LEFT_OUT, WANTED, due_at=retry_at)
            connection.execute(mine.where(wants.c.rank == LEFT_OUT_RANK).values(rank=HISTORY_RANK))
            return
        for status in (WANTED, KNOWN_MISSING):
            gone = mine.where(wants.c.status == status).values(
                status=LEFT_OUT, leased_until=0.0, leased_by="", code="", message=reason
            )
            for (size,) in connection.execute(gone.returning(wants.c.size)):
                changes.move(mirror_id, size, status, LEFT_OUT)
        connection.execute(mine.where(wants.c.status == LEFT_OUT).values(message=reason))
        connection.execute(mine.values(rank=LEFT_OUT_RANK))

    def rank_lfs(self, lease: Lease, ranks: Mapping[LfsOid, int]) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.rank_lfs`."""
        mine = (wants.c.mirror_id == lease.mirror.id, NOT_HERE)
        waited_for = wants.c.rank < TIP_RANK
        with self._write() as connection:
            before = select(wants.c.oid, wants.c.rank).where(
                *mine, wants.c.status.in_((WANTED, KNOWN_MISSING)), waited_for
            )
            known = {row.oid: row.rank for row in connection.execute(before)}
            moved = {oid: HISTORY_RANK for oid in known if oid not in ranks}
            moved |= {oid: rank for oid, rank in ranks.items() if known.get(oid) != rank}
            if moved:
                connection.execute(
                    RANK_OBJECT,
                    [{"mirror": lease.mirror.id, "this": oid, "to": rank} for oid, rank in sorted(moved.items())],
                )
            self._fenced(connection, lease)

    # -- the queue
    def claim_lfs(
        self,
        worker: str,
        *,
        limit: int,
        lease_seconds: float,
        largest: int | None = None,
        most_bytes: int | None = None,
    ) -> list[LfsJob]:
        """Implement :meth:`mirror_sync.ports.StateStore.claim_lfs`.

        Mirrors take turns: one whose objects were just claimed goes behind those that wait.
        """
        tried: list[int] = []
        for _ in range(TURNS):
            with self._write() as connection:
                mirror = connection.execute(self._next_turn(largest, tried)).first()
                if mirror is None:
                    return []
                rows = self._ready_objects(connection, mirror, limit=limit, largest=largest, most_bytes=most_bytes)
                self._lease_objects(connection, mirror, rows, worker, lease_seconds=lease_seconds)
                if rows:
                    return [LfsJob(MirrorId(mirror.id), row.oid, row.size, row.attempts, row.rank) for row in rows]
                tried.append(mirror.id)
        return []

    def _next_turn(self, largest: int | None, tried: Sequence[int]) -> Select[Any]:
        syncing = and_(m.leased_by != "", m.lease_until > self._now, m.lease_purpose == "sync").label("syncing")
        query = select(m.id, self._now.label("now"), syncing).where(m.lfs_ready_at <= self._now)
        if tried:
            query = query.where(m.id.not_in(tried))
        if largest is not None:
            small = (NOT_HERE, wants.c.status == WANTED, wants.c.size <= largest, due_time <= self._now)
            query = query.where(
                or_(
                    *(
                        exists().where(wants.c.mirror_id == m.id, *small, ranks).correlate(mirrors)
                        for ranks in (FOR_REFS, FOR_HISTORY)
                    )
                )
            )
        return query.order_by(m.lfs_ready_at).limit(1).with_for_update(of=mirrors, skip_locked=True)

    def _ready_objects(
        self, connection: Connection, mirror: AnyRow, *, limit: int, largest: int | None, most_bytes: int | None
    ) -> list[AnyRow]:
        """Return the objects to fetch next, locked: those of one ref, or of history."""
        rows: list[AnyRow] = []
        for status in (WANTED, KNOWN_MISSING) if largest is None else (WANTED,):
            for ranks in (FOR_REFS, FOR_HISTORY):
                if len(rows) >= limit:
                    break
                ready = select(wants.c.oid, wants.c.size, wants.c.attempts, wants.c.rank).where(
                    wants.c.mirror_id == mirror.id, NOT_HERE, wants.c.status == status, due_time <= mirror.now
                )
                if largest is not None:
                    ready = ready.where(wants.c.size <= largest)
                if mirror.syncing:
                    ready = ready.where(wants.c.rank >= TIP_RANK)
                ready = ready.where(ranks).order_by(wants.c.rank, wants.c.size, wants.c.oid).limit(limit - len(rows))
                rows.extend(connection.execute(ready.with_for_update(skip_locked=True)))
        return _together(rows, most_bytes)

    def _lease_objects(
        self, connection: Connection, mirror: AnyRow, rows: Sequence[AnyRow], worker: str, *, lease_seconds: float
    ) -> None:
        until = mirror.now + lease_seconds
        if rows:
            connection.execute(
                LEASE_OBJECT,
                [{"mirror": mirror.id, "this": row.oid, "until": until, "worker": worker} for row in rows],
            )
        left = [
            connection.execute(
                select(func.min(wants.c.ready_at)).where(
                    wants.c.mirror_id == mirror.id, NOT_HERE, wants.c.status == status
                )
            ).scalar()
            for status in (WANTED, KNOWN_MISSING)
        ]
        due = min((time for time in left if time is not None), default=None)
        if due is not None and rows:
            due = max(due, mirror.now)  # behind the mirrors that have waited
        connection.execute(update(mirrors).where(m.id == mirror.id).values(lfs_due_at=due))

    def renew_lfs(self, worker: str, jobs: Sequence[LfsJob], *, lease_seconds: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.renew_lfs`."""
        self._set_lease(worker, jobs, leased_until=self._now + lease_seconds)

    def release_lfs(self, worker: str, jobs: Sequence[LfsJob]) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.release_lfs`."""
        self._set_lease(worker, jobs, leased_until=0.0, leased_by="")

    def _set_lease(self, worker: str, jobs: Sequence[LfsJob], **values: Any) -> None:
        for some in pieces(sorted(jobs, key=lambda job: (job.mirror, job.oid)), AT_ONCE):
            with self._write() as connection:
                changes = _Changes()
                for mirror_id in sorted({job.mirror for job in some}):
                    oids = [job.oid for job in some if job.mirror == mirror_id]
                    mine = (wants.c.mirror_id == mirror_id, wants.c.oid.in_(oids), wants.c.leased_by == worker)
                    moved = connection.execute(
                        update(wants)
                        .where(*mine, NOT_HERE)
                        .values(values)
                        .returning(wants.c.ready_at, self._now.label("now"))
                    )
                    for ready_at, now in moved:
                        changes.due(mirror_id, max(ready_at, now))  # behind the mirrors that have waited
                changes.write(connection)

    def lfs_claimed(self, mirror_id: MirrorId) -> frozenset[LfsOid]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_claimed`."""
        found: set[LfsOid] = set()
        with self._read() as connection:
            for status in (WANTED, KNOWN_MISSING):
                later = (NOT_HERE, wants.c.status == status, wants.c.ready_at > self._now)
                query = select(wants.c.oid).where(wants.c.mirror_id == mirror_id, *later)
                found.update(connection.execute(query.where(wants.c.leased_until > self._now)).scalars())
        return frozenset(found)

    def lfs_queued(self, *, beside: MirrorId) -> bool:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_queued`."""
        query = select(m.id).where(m.lfs_ready_at <= self._now, m.id != beside).limit(1)
        with self._read() as connection:
            return connection.execute(query).first() is not None

    # -- asking
    def lfs_refers(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, int]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_refers`."""
        found: dict[LfsOid, int] = {}
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(wants.c.oid, wants.c.size).where(wants.c.mirror_id == mirror_id, wants.c.oid.in_(some))
                found.update((oid, size) for oid, size in connection.execute(query))
        return found

    def lfs_left_out(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, str]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_left_out`."""
        found: dict[LfsOid, str] = {}
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(wants.c.oid, wants.c.message).where(
                    wants.c.mirror_id == mirror_id, wants.c.oid.in_(some), wants.c.status == LEFT_OUT
                )
                found.update((oid, reason) for oid, reason in connection.execute(query))
        return found

    def lfs_missing(self, mirror_id: MirrorId, *, after: str = "", limit: int = 100) -> list[tuple[Pointer, str, str]]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_missing`."""
        query = select(wants.c.oid, wants.c.size, wants.c.code, wants.c.message).where(
            wants.c.mirror_id == mirror_id, NOT_HERE, wants.c.status != LEFT_OUT, wants.c.oid > after
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
        self._by_mirror: dict[int, list[int]] = defaultdict(lambda: [0] * len(COUNTS))
        self._due: dict[int, float] = {}

    def move(self, mirror_id: int, size: int, before: int, after: int, *, due_at: float | None = None) -> None:
        """Add one reference that went from one state to another; ``due_at`` is when it wants fetching."""
        sums = self._by_mirror[mirror_id]
        for status, sign in ((before, -1), (after, 1)):
            for place, count in enumerate(_counts(status, size)):
                sums[place] += sign * count
        if due_at is not None:
            self.due(mirror_id, due_at)

    def resize(self, mirror_id: int, status: int, size: int, after: int) -> None:
        """Add one reference whose object turned out to have, or is queued with, another size."""
        sums = self._by_mirror[mirror_id]
        for place, (less, more) in enumerate(zip(_counts(status, size), _counts(status, after), strict=True)):
            sums[place] += more - less

    def due(self, mirror_id: int, at: float) -> None:
        """Note that an object of this mirror may be fetched from ``at`` on."""
        self._by_mirror[mirror_id]
        self._due[mirror_id] = min(at, self._due.get(mirror_id, at))

    def write(self, connection: Connection) -> None:
        """Add the sums to the mirrors, in the order of their numbers."""
        values = [
            {
                "mirror": mirror_id,
                "due": self._due.get(mirror_id, math.inf),
                **{f"more_{name}": count for name, count in zip(COUNTS, counts, strict=True)},
            }
            for mirror_id, counts in sorted(self._by_mirror.items())
        ]
        if values:
            connection.execute(CHANGE, values)


COUNTS = (
    "lfs_wanted",
    "lfs_wanted_bytes",
    "lfs_present",
    "lfs_present_bytes",
    "lfs_known_missing",
    "lfs_left_out",
    "lfs_left_out_bytes",
)


def _counts(status: int, size: int) -> tuple[int, ...]:
    """Return what one object in this state adds to each of :data:`COUNTS`."""
    if status == LEFT_OUT:
        return (0, 0, 0, 0, 0, 1, size)
    here = status == PRESENT
    return (1, size, int(here), size if here else 0, int(status == KNOWN_MISSING), 0, 0)


def _together(rows: Sequence[AnyRow], most_bytes: int | None) -> list[AnyRow]:
    """Return the first of ``rows`` that are of one waiting ref, or of history, and not too many bytes."""
    taken: list[AnyRow] = []
    size = 0
    for row in rows:
        size += row.size
        if taken and (row.rank != taken[0].rank or (most_bytes is not None and size > most_bytes)):
            break
        taken.append(row)
    return taken


_DUE = bindparam("due", type_=Double)

CHANGE = (
    update(mirrors)
    .where(m.id == bindparam("mirror"))
    .values(
        {
            **{name: m[name] + bindparam(f"more_{name}") for name in COUNTS},
            "lfs_due_at": case(
                (cast(_DUE, Double) < func.coalesce(m.lfs_due_at, math.inf), cast(_DUE, Double)), else_=m.lfs_due_at
            ),
        }
    )
)

LEASE_OBJECT = (
    update(wants)
    .where(wants.c.mirror_id == bindparam("mirror"), wants.c.oid == bindparam("this"))
    .values(leased_until=bindparam("until"), leased_by=bindparam("worker"))
)

RANK_OBJECT = (
    update(wants)
    .where(
        wants.c.mirror_id == bindparam("mirror"),
        wants.c.oid == bindparam("this"),
        or_(wants.c.status == WANTED, wants.c.status == KNOWN_MISSING),
    )
    .values(rank=bindparam("to"))
)
