"""LFS objects that clients wait for before their turn in the queue has come."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import case, select

from mirror_sync.domain.names import LfsOid, printable
from mirror_sync.domain.runs import LfsJob, MirrorId
from mirror_sync.state.database import Database, mirrors
from mirror_sync.state.models import LEFT_OUT, PRESENT, WANTED, LfsAsked, table
from mirror_sync.state.pointers import AT_ONCE, pieces, wants

m = mirrors.c
asked = table(LfsAsked)


class Asked(Database):
    """Who waits for what, between the processes that serve and those that fetch."""

    def ask_lfs(self, mirror_id: MirrorId, oid: LfsOid, *, seconds: float) -> tuple[str, str] | None:
        """Implement :meth:`mirror_sync.ports.StateStore.ask_lfs`."""
        this = (asked.c.mirror_id == mirror_id, asked.c.oid == oid)
        until = self._now + seconds
        fresh = self._insert(asked).values(
            mirror_id=mirror_id, oid=oid, asked_at=self._now, asked_until=until, failed_until=0.0, code="", message=""
        )
        lapsed = asked.c.asked_until <= self._now
        again = fresh.on_conflict_do_update(
            index_elements=[asked.c.mirror_id, asked.c.oid],
            set_={
                "asked_at": case((lapsed, self._now), else_=asked.c.asked_at),
                "asked_until": until,
                "failed_until": 0.0,
                "code": "",
                "message": "",
            },
        )
        with self._write() as connection:
            failed = select(asked.c.code, asked.c.message).where(*this, asked.c.failed_until > self._now)
            row = connection.execute(failed).first()
            if row is not None:
                return row.code, row.message
            connection.execute(again)
        return None

    def lfs_asked(self) -> list[LfsJob]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_asked`."""
        query = (
            select(asked.c.mirror_id, asked.c.oid, wants.c.size, wants.c.attempts, wants.c.rank)
            .join(wants, (wants.c.mirror_id == asked.c.mirror_id) & (wants.c.oid == asked.c.oid))
            .join(mirrors, m.id == asked.c.mirror_id)
            .where(asked.c.asked_until > self._now, asked.c.failed_until <= self._now)
            .where(wants.c.status == WANTED, m.paused_at.is_(None), m.removing_at.is_(None))
            .order_by(asked.c.asked_at, asked.c.mirror_id, asked.c.oid)
        )
        with self._read() as connection:
            return [LfsJob(MirrorId(row[0]), *row[1:]) for row in connection.execute(query)]

    def lfs_ask_failed(self, mirror_id: MirrorId, oid: LfsOid, *, code: str, message: str, until: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_ask_failed`."""
        values = {"failed_until": until, "code": code, "message": printable(message)}
        put = self._insert(asked).values(mirror_id=mirror_id, oid=oid, asked_at=self._now, asked_until=0.0, **values)
        with self._write() as connection:
            connection.execute(put.on_conflict_do_update(index_elements=[asked.c.mirror_id, asked.c.oid], set_=values))

    def lfs_ask_failures(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, tuple[str, str]]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_ask_failures`."""
        found: dict[LfsOid, tuple[str, str]] = {}
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(asked.c.oid, asked.c.code, asked.c.message).where(
                    asked.c.mirror_id == mirror_id, asked.c.oid.in_(some), asked.c.failed_until > self._now
                )
                found.update((oid, (code, message)) for oid, code, message in connection.execute(query))
        return found

    def lfs_absent(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, tuple[str, str]]:
        """Implement :meth:`mirror_sync.ports.StateStore.lfs_absent`."""
        found: dict[LfsOid, tuple[str, str]] = {}
        with self._read() as connection:
            for some in pieces(oids, AT_ONCE):
                query = select(wants.c.oid, wants.c.code, wants.c.message).where(
                    wants.c.mirror_id == mirror_id, wants.c.oid.in_(some), wants.c.status.not_in((PRESENT, LEFT_OUT))
                )
                found.update((oid, (code, message)) for oid, code, message in connection.execute(query))
        return found
