"""What makes a mirror due."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, update

from mirror_sync.domain.runs import MirrorId, Trigger
from mirror_sync.domain.standing import URGENCY, Due, earliest, heard, is_news, sooner
from mirror_sync.state.database import AnyRow, Database, mirrors
from mirror_sync.state.records import TRIGGERS, evidence_of, pending_of

m = mirrors.c

MOVED_BY_CALL = (
    "due_at",
    "urgency",
    "pending_at",
    "pending_urgency",
    "evidence_first",
    "evidence_last",
    "known_behind_since",
)
CALL = (
    update(mirrors)
    .where(m.id == bindparam("mirror"))
    .values({name: bindparam(f"new_{name}") for name in MOVED_BY_CALL})
)


class Calls(Database):
    """Due times: every trigger only moves them."""

    def mark_due(
        self, mirror_id: MirrorId, trigger: Trigger, *, at: float | None = None, evidence_at: float | None = None
    ) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.mark_due`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            self._call(connection, row, Due(row.now if at is None else at, trigger), evidence_at=evidence_at)

    def _call(self, connection: Connection, row: AnyRow, asked: Due, *, evidence_at: float | None = None) -> None:
        """Make a locked mirror due, and note when a webhook told of a change."""
        before = {name: row._mapping[name] for name in MOVED_BY_CALL}  # noqa: SLF001 - the row's public mapping has this name
        after = dict(before)
        if row.leased_by and row.lease_until > row.now and row.lease_purpose == "sync":
            pending = sooner(pending_of(row), asked, now=row.now)
            after.update(pending_at=pending.at, pending_urgency=URGENCY[pending.trigger])
        else:
            due = sooner(Due(row.due_at, TRIGGERS[row.urgency]), asked, now=row.now)
            after.update(due_at=due.at, urgency=URGENCY[due.trigger])
        if evidence_at is not None and is_news(evidence_at, confirmed_at=row.confirmed_at):
            evidence = heard(evidence_of(row), evidence_at)
            after.update(
                evidence_first=evidence.first,
                evidence_last=evidence.last,
                known_behind_since=earliest(row.known_behind_since, evidence_at),
            )
        if after != before:  # a burst moves nothing after its first delivery but the latest evidence
            connection.execute(CALL, {"mirror": row.id, **{f"new_{name}": value for name, value in after.items()}})
