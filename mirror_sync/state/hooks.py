"""Webhook deliveries: stored before they are answered, merged into due times."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update
from sqlalchemy.sql.dml import ReturningInsert

from mirror_sync.domain.deliveries import calls, delivery_key, event_label, repository_key, tells_of_change
from mirror_sync.domain.names import RefName, printable
from mirror_sync.domain.runs import Delivery, MirrorId, Trigger
from mirror_sync.domain.standing import Due
from mirror_sync.state.calls import Calls
from mirror_sync.state.database import AnyRow, mirrors
from mirror_sync.state.models import DeliveryRow, SignedDeletion, table
from mirror_sync.state.records import dump_refs, load_refs

m = mirrors.c
stored = table(DeliveryRow)
deletions = table(SignedDeletion)


class Hooks(Calls):
    """Accepting deliveries and remembering what they signed."""

    def accept_delivery(self, delivery: Delivery) -> bool:
        """Implement :meth:`mirror_sync.ports.StateStore.accept_delivery`."""
        with self._write() as connection:
            made = connection.execute(self._store_once, _columns(delivery)).first()
            if made is None:
                return False
            if calls(delivery):
                evidence_at = delivery.received_at if tells_of_change(delivery) else None
                for row in self._concerned(connection, delivery):
                    self._call(connection, row, Due(row.now, Trigger.WEBHOOK), evidence_at=evidence_at)
                    self._remember_deletions(connection, row, delivery)
            self._count(connection, {("deliveries", event_label(delivery)): 1})
            return True

    @cached_property
    def _store_once(self) -> ReturningInsert[Any]:
        once = self._insert(stored).on_conflict_do_nothing(index_elements=[stored.c.provider, stored.c.delivery_id])
        query: ReturningInsert[Any] = once.returning(stored.c.id)
        return query

    @cached_property
    def _kept(self) -> Select[Any]:
        return self._rows.where(m.removing_at.is_(None)).order_by(m.id).with_for_update(of=mirrors)

    @cached_property
    def _by_id(self) -> Select[Any]:
        return self._kept.where(m.repository_id == bindparam("id_"))

    @cached_property
    def _by_id_and_host(self) -> Select[Any]:
        return self._by_id.where(m.host_key == bindparam("host"))

    @cached_property
    def _by_key(self) -> Select[Any]:
        return self._kept.where(m.repository_key == bindparam("key"))

    def _concerned(self, connection: Connection, delivery: Delivery) -> list[AnyRow]:
        """Return the locked rows of the mirrors a delivery concerns; those found by URL learn the repository's id."""
        host, key = repository_key(delivery.clone_url)
        if delivery.repository_id:
            query = self._by_id_and_host if host else self._by_id
            rows = connection.execute(query, {"id_": printable(delivery.repository_id), "host": host}).all()
            if rows:
                return list(rows)
        if not key:
            return []
        rows = connection.execute(self._by_key, {"key": key}).all()
        unnamed = [row.id for row in rows if not row.repository_id]
        if unnamed and delivery.repository_id:
            connection.execute(
                update(mirrors).where(m.id.in_(unnamed)).values(repository_id=printable(delivery.repository_id))
            )
        return list(rows)

    def _remember_deletions(self, connection: Connection, row: AnyRow, delivery: Delivery) -> None:
        if not delivery.deleted_refs:
            return
        put = self._insert(deletions)
        connection.execute(
            put.on_conflict_do_update(
                index_elements=[deletions.c.mirror_id, deletions.c.ref],
                set_={"received_at": put.excluded.received_at},
            ),
            [
                {"mirror_id": row.id, "ref": ref, "received_at": delivery.received_at}
                for ref in sorted(set(delivery.deleted_refs))
            ],
        )

    def confirmed_deletions(self, mirror_id: MirrorId) -> frozenset[RefName]:
        """Implement :meth:`mirror_sync.ports.StateStore.confirmed_deletions`."""
        query = select(deletions.c.ref).where(deletions.c.mirror_id == mirror_id)
        with self._read() as connection:
            return frozenset(connection.execute(query).scalars())

    def deliveries(self, *, limit: int = 50) -> list[Delivery]:
        """Implement :meth:`mirror_sync.ports.StateStore.deliveries`."""
        with self._read() as connection:
            rows = connection.execute(select(stored).order_by(stored.c.id.desc()).limit(limit)).all()
        return [
            Delivery(
                provider=row.provider,
                delivery_id=row.delivery_id,
                event=row.event,
                received_at=row.received_at,
                repository_id=row.repository_id,
                clone_url=row.clone_url,
                refs=load_refs(row.refs),
                deleted_refs=load_refs(row.deleted_refs),
                action=row.action,
            )
            for row in rows
        ]


def _columns(delivery: Delivery) -> dict[str, object]:
    return {
        "provider": delivery.provider,
        "delivery_id": delivery_key(delivery),
        "event": printable(delivery.event),
        "action": printable(delivery.action),
        "received_at": delivery.received_at,
        "repository_id": printable(delivery.repository_id),
        "clone_url": printable(delivery.clone_url),
        "refs": dump_refs(delivery.refs),
        "deleted_refs": dump_refs(delivery.deleted_refs),
    }
