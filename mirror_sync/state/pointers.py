"""The known-pointer index: which pointer blobs a mirror's history has, and which objects it refers to.

Rows are locked in the order that :mod:`mirror_sync.state.lfs` states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, func, select, update

from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import MOST_COUNTED_BYTES, Pointer, PointerBlob
from mirror_sync.domain.runs import HISTORY_RANK, LEFT_OUT_RANK, Lease, MirrorId
from mirror_sync.state.database import Database, mirrors
from mirror_sync.state.journal import pack_tips, unpack_tips
from mirror_sync.state.models import (
    KNOWN_MISSING,
    LEFT_OUT,
    PRESENT,
    WANTED,
    LfsObject,
    MirrorLfs,
    PointerRow,
    ScannedTips,
    table,
)

T = TypeVar("T")

m = mirrors.c
pointers = table(PointerRow)
scans = table(ScannedTips)
objects = table(LfsObject)
wants = table(MirrorLfs)

AT_ONCE = 500
"""Ids named in one statement."""

POINTERS_AT_ONCE = 5000
"""Pointers stored in one transaction, so that a first scan holds up nobody."""

COUNTED = (
    "lfs_wanted",
    "lfs_present",
    "lfs_known_missing",
    "lfs_wanted_bytes",
    "lfs_present_bytes",
    "lfs_left_out",
    "lfs_left_out_bytes",
)

RECOUNT = select(
    func.count().filter(wants.c.status != LEFT_OUT),
    func.count().filter(wants.c.status == PRESENT),
    func.count().filter(wants.c.status == KNOWN_MISSING),
    func.coalesce(func.sum(wants.c.size).filter(wants.c.status != LEFT_OUT), 0),
    func.coalesce(func.sum(wants.c.size).filter(wants.c.status == PRESENT), 0),
    func.count().filter(wants.c.status == LEFT_OUT),
    func.coalesce(func.sum(wants.c.size).filter(wants.c.status == LEFT_OUT), 0),
).where(wants.c.mirror_id == bindparam("mirror"))


class Pointers(Database):
    """What the history of each mirror points at."""

    def known_pointers(self, mirror_id: MirrorId) -> dict[GitOid, Pointer]:
        """Implement :meth:`mirror_sync.ports.StateStore.known_pointers`."""
        query = select(pointers.c.blob, pointers.c.oid, pointers.c.size).where(pointers.c.mirror_id == mirror_id)
        with self._read() as connection:
            return {blob: Pointer(oid, size) for blob, oid, size in connection.execute(query)}

    def scanned_tips(self, mirror_id: MirrorId) -> frozenset[GitOid]:
        """Implement :meth:`mirror_sync.ports.StateStore.scanned_tips`."""
        with self._read() as connection:
            stored = connection.execute(select(scans.c.tips).where(scans.c.mirror_id == mirror_id)).scalar()
        return unpack_tips(stored or b"")

    def add_scan(
        self,
        lease: Lease,
        found: Sequence[PointerBlob],
        *,
        scanned: frozenset[GitOid] | None,
        left_out: str = "",
    ) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.add_scan`."""
        for some in pieces(found, POINTERS_AT_ONCE):
            with self._write() as connection:
                self._add_pointers(connection, lease, some, left_out=left_out)
        if scanned is None and found:
            return
        with self._write() as connection:
            row = self._fenced(connection, lease)
            if scanned is not None:
                self._store_scanned(connection, MirrorId(row.id), scanned)

    def _store_scanned(self, connection: Connection, mirror_id: MirrorId, scanned: frozenset[GitOid]) -> None:
        put = self._insert(scans).values(mirror_id=mirror_id, tips=pack_tips(scanned))
        connection.execute(
            put.on_conflict_do_update(index_elements=[scans.c.mirror_id], set_={"tips": put.excluded.tips})
        )

    def _add_pointers(
        self, connection: Connection, lease: Lease, found: Sequence[PointerBlob], *, left_out: str
    ) -> None:
        mirror_id = lease.mirror.id
        sizes: dict[LfsOid, int] = {}
        for item in found:
            sizes.setdefault(item.pointer.oid, min(item.pointer.size, MOST_COUNTED_BYTES))
        oids = sorted(sizes)
        connection.execute(
            self._insert(objects).on_conflict_do_nothing(), [{"oid": oid, "present": False} for oid in oids]
        )
        here: set[LfsOid] = set()
        known: set[LfsOid] = set()
        for some in pieces(oids, AT_ONCE):
            locked = select(objects.c.oid, objects.c.present).where(objects.c.oid.in_(some))
            rows = connection.execute(locked.order_by(objects.c.oid).with_for_update()).all()
            here |= {row.oid for row in rows if row.present}
            mine = select(wants.c.oid).where(wants.c.mirror_id == mirror_id, wants.c.oid.in_(some))
            known |= set(connection.execute(mine).scalars())
        connection.execute(
            self._insert(pointers).on_conflict_do_nothing(),
            [
                {
                    "mirror_id": mirror_id,
                    "blob": item.blob,
                    "oid": item.pointer.oid,
                    "size": item.pointer.size,
                }
                for item in found
            ],
        )
        row = self._fenced(connection, lease)
        new = [oid for oid in oids if oid not in known]
        if not new:
            return
        absent = LEFT_OUT if left_out else WANTED
        lacking = [oid for oid in new if oid not in here]
        counted = new if absent == WANTED else [oid for oid in new if oid in here]
        apart = lacking if left_out else []
        connection.execute(
            wants.insert(),
            [
                {
                    "mirror_id": mirror_id,
                    "oid": oid,
                    "size": sizes[oid],
                    "status": PRESENT if oid in here else absent,
                    "rank": LEFT_OUT_RANK if left_out else HISTORY_RANK,
                    "attempts": 0,
                    "retry_at": row.now,
                    "leased_until": 0.0,
                    "leased_by": "",
                    "code": "",
                    "message": "" if oid in here else left_out,
                }
                for oid in new
            ],
        )
        connection.execute(
            update(mirrors)
            .where(m.id == mirror_id)
            .values(
                lfs_wanted=m.lfs_wanted + len(counted),
                lfs_present=m.lfs_present + sum(oid in here for oid in new),
                lfs_wanted_bytes=m.lfs_wanted_bytes + sum(sizes[oid] for oid in counted),
                lfs_present_bytes=m.lfs_present_bytes + sum(sizes[oid] for oid in new if oid in here),
                lfs_left_out=m.lfs_left_out + len(apart),
                lfs_left_out_bytes=m.lfs_left_out_bytes + sum(sizes[oid] for oid in apart),
                lfs_due_at=_no_later(row.lfs_due_at, row.now) if lacking and not left_out else row.lfs_due_at,
            )
        )

    def replace_references(self, lease: Lease, blobs: frozenset[GitOid]) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.replace_references`.

        The scanned tips are forgotten too: history that comes back must be scanned again.
        """
        mirror_id = lease.mirror.id
        with self._write() as connection:
            stored = select(pointers.c.blob, pointers.c.oid).where(pointers.c.mirror_id == mirror_id)
            rows = connection.execute(stored).all()
            gone = [row.blob for row in rows if row.blob not in blobs]
            left = {row.oid for row in rows if row.blob in blobs}
            lost = sorted({row.oid for row in rows} - left)
            for some in pieces(gone, AT_ONCE):
                connection.execute(delete(pointers).where(pointers.c.mirror_id == mirror_id, pointers.c.blob.in_(some)))
            for some in pieces(lost, AT_ONCE):
                connection.execute(delete(wants).where(wants.c.mirror_id == mirror_id, wants.c.oid.in_(some)))
            connection.execute(delete(scans).where(scans.c.mirror_id == mirror_id))
            self._fenced(connection, lease)
            counts = connection.execute(RECOUNT, {"mirror": mirror_id}).one()
            connection.execute(
                update(mirrors)
                .where(m.id == mirror_id)
                .values(dict(zip(COUNTED, (int(count) for count in counts), strict=True)))
            )


def _no_later(present: float | None, asked: float) -> float:
    return asked if present is None else min(present, asked)


def pieces(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``items`` in slices of up to ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
