"""Leases: who may change a mirror now, proved by a token that only grows."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, or_, select, update

from mirror_sync.domain.names import printable
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import Lease, MirrorId, Outcome, Step
from mirror_sync.domain.standing import (
    ABANDONED_CODE,
    ABANDONED_MESSAGE,
    MAINTENANCE_SPACING_SECONDS,
    REMOVAL_SPACING_SECONDS,
    URGENCY,
    Due,
    earliest,
    sooner,
)
from mirror_sync.errors import StateUnavailable
from mirror_sync.state.calls import Calls
from mirror_sync.state.database import AnyRow, mirrors
from mirror_sync.state.models import Run, table
from mirror_sync.state.records import TRIGGERS, dump_progress, mirror_of, pending_of

m = mirrors.c
runs = table(Run)

SYNC = "sync"

TAKE = (
    update(mirrors)
    .where(m.id == bindparam("mirror"))
    .values(
        lease_token=bindparam("token"),
        lease_purpose=bindparam("purpose"),
        leased_by=bindparam("worker"),
        lease_until=bindparam("until"),
        chore_after=bindparam("chore"),
        urgency=bindparam("new_urgency"),
        pending_at=bindparam("new_pending_at"),
        pending_urgency=bindparam("new_pending_urgency"),
        run_id=None,
        run_started_at=bindparam("started"),
        run_step=bindparam("step"),
        run_detail="",
        progress=None,
    )
)

NOTE = update(mirrors).where(m.id == bindparam("mirror")).values(progress=bindparam("told"))


class Leases(Calls):
    """Claiming, renewing, confirming and releasing."""

    def claim(self, worker: str, *, lease_seconds: float) -> Lease | None:
        """Implement :meth:`mirror_sync.ports.StateStore.claim`."""
        with self._write() as connection:
            row = connection.execute(self._most_urgent).first()
            if row is None:
                return None
            return self._take(connection, row, worker, lease_seconds=lease_seconds, purpose=SYNC)

    @cached_property
    def _most_urgent(self) -> Select[Any]:
        """The query of the mirror to sync next: one probe of an index for each trigger."""
        probes = [
            select(m.id)
            .where(m.urgency == urgency, m.ready_at <= self._now)
            .order_by(m.ready_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
            for urgency in sorted(URGENCY.values())
        ]
        # the outer lock re-reads the row as it is now, not as the statement's snapshot had it
        return self._rows.where(m.id == func.coalesce(*probes)).with_for_update(of=mirrors)

    def anything_due(self) -> bool:
        """Implement :meth:`mirror_sync.ports.StateStore.anything_due`."""
        ready = [select(m.id).where(m.urgency == urgency, m.ready_at <= self._now).exists() for urgency in TRIGGERS]
        with self._read() as connection:
            return bool(connection.execute(select(or_(*ready))).scalar())

    def claim_mirror(self, mirror_id: MirrorId, worker: str, *, lease_seconds: float, purpose: str) -> Lease | None:
        """Implement :meth:`mirror_sync.ports.StateStore.claim_mirror`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            if row.leased_by and row.lease_until > row.now:
                return None
            return self._take(connection, row, worker, lease_seconds=lease_seconds, purpose=purpose)

    def claim_maintenance(self, worker: str, *, lease_seconds: float, publishes: int, before: float) -> Lease | None:
        """Implement :meth:`mirror_sync.ports.StateStore.claim_maintenance`."""
        query = (
            self._rows.where(
                m.publishes_since_maintenance > 0,
                or_(
                    m.publishes_since_maintenance >= publishes,
                    func.coalesce(m.maintained_at, 0.0) < before,
                ),
                m.paused_at.is_(None),
                m.removing_at.is_(None),
                m.lease_until <= self._now,
                m.chore_after <= self._now,
            )
            .order_by(m.publishes_since_maintenance.desc())
            .limit(1)
            .with_for_update(of=mirrors, skip_locked=True)
        )
        return self._take_first(
            query, worker, lease_seconds=lease_seconds, purpose="maintenance", spacing=MAINTENANCE_SPACING_SECONDS
        )

    def claim_removal(self, worker: str, *, lease_seconds: float) -> Lease | None:
        """Implement :meth:`mirror_sync.ports.StateStore.claim_removal`."""
        query = (
            self._rows.where(m.removing_at <= self._now, m.lease_until <= self._now, m.chore_after <= self._now)
            .order_by(m.removing_at)
            .limit(1)
            .with_for_update(of=mirrors, skip_locked=True)
        )
        return self._take_first(
            query, worker, lease_seconds=lease_seconds, purpose="removal", spacing=REMOVAL_SPACING_SECONDS
        )

    def _take_first(
        self, query: Select[Any], worker: str, *, lease_seconds: float, purpose: str, spacing: float
    ) -> Lease | None:
        """Take the mirror that ``query`` finds first; ``None`` when it finds none."""
        with self._write() as connection:
            row = connection.execute(query).first()
            if row is None:
                return None
            return self._take(connection, row, worker, lease_seconds=lease_seconds, purpose=purpose, spacing=spacing)

    def _take(
        self,
        connection: Connection,
        row: AnyRow,
        worker: str,
        *,
        lease_seconds: float,
        purpose: str,
        spacing: float | None = None,
    ) -> Lease:
        """Give a locked, free mirror to a worker; the run that a dead one left open is recorded as abandoned."""
        if row.run_started_at is not None:
            row = self._bury(connection, row)
        sync = purpose == SYNC
        urgency, pending = row.urgency, pending_of(row)
        if sync and pending is not None:  # a dead worker's run left it
            urgency, pending = min(urgency, URGENCY[pending.trigger]), None
        token, until = row.lease_token + 1, row.now + lease_seconds
        connection.execute(
            TAKE,
            {
                "mirror": row.id,
                "token": token,
                "purpose": purpose,
                "worker": worker,
                "until": until,
                "chore": row.chore_after if spacing is None else row.now + spacing,
                "new_urgency": urgency,
                "new_pending_at": None if pending is None else pending.at,
                "new_pending_urgency": None if pending is None else URGENCY[pending.trigger],
                "started": row.now if sync else None,
                "step": Step.OBSERVE.value if sync else "",
            },
        )
        trigger = TRIGGERS[urgency]
        mirror = replace(
            mirror_of(row),
            trigger=trigger,
            leased_by=worker,
            lease_until=until,
            run_step=Step.OBSERVE if sync else None,
            run_detail="",
            progress=None,
        )
        return Lease(
            mirror=mirror,
            worker=worker,
            token=token,
            until=until,
            trigger=trigger,
            evidence_at=row.evidence_first,
            purpose=purpose,
        )

    def _bury(self, connection: Connection, row: AnyRow) -> AnyRow:
        """Record the open run of a locked mirror as abandoned, and return the row as it is then."""
        end = {
            "finished_at": row.now,
            "outcome": Outcome.ABANDONED.value,
            "code": ABANDONED_CODE,
            "message": ABANDONED_MESSAGE,
        }
        if row.run_id is None:
            connection.execute(runs.insert().values(open_run(row) | end))
        else:
            connection.execute(update(runs).where(runs.c.id == row.run_id).values(end))
        connection.execute(
            update(mirrors)
            .where(m.id == row.id)
            .values(
                run_id=None,
                run_started_at=None,
                last_outcome=Outcome.ABANDONED.value,
                last_code=ABANDONED_CODE,
                last_message=ABANDONED_MESSAGE,
                last_started_at=row.run_started_at,
                last_finished_at=row.now,
                last_urgency=row.urgency,
            )
        )
        after = self._locked(connection, MirrorId(row.id))
        self._count(connection, {("runs", Outcome.ABANDONED.value): 1})
        return after

    def renew(self, lease: Lease, *, lease_seconds: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.renew`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            connection.execute(update(mirrors).where(m.id == row.id).values(lease_until=row.now + lease_seconds))

    def confirm(self, lease: Lease) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.confirm`."""
        with self._write() as connection:  # what another has just claimed must be seen, so it takes the lock
            self._fenced(connection, lease)

    def note_step(self, lease: Lease, step: Step, detail: str = "") -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.note_step`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            connection.execute(
                update(mirrors).where(m.id == row.id).values(run_step=step.value, run_detail=printable(detail))
            )

    def note_progress(self, mirror_id: MirrorId, progress: Progress | None) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.note_progress`."""
        told = None if progress is None else dump_progress(progress)
        with contextlib.suppress(StateUnavailable), self._write() as connection:
            connection.execute(NOTE, {"mirror": mirror_id, "told": told})

    def awaited(self, lease: Lease) -> bool:
        """Implement :meth:`mirror_sync.ports.StateStore.awaited`."""
        query = select(m.id).where(m.id == lease.mirror.id, m.lease_token == lease.token, m.pending_at <= self._now)
        with self._read() as connection:
            return connection.execute(query).first() is not None

    def note_behind(self, lease: Lease, *, observed_at: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.note_behind`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            since = earliest(row.known_behind_since, observed_at)
            if since != row.known_behind_since:
                connection.execute(update(mirrors).where(m.id == row.id).values(known_behind_since=since))

    def note_shown(self, lease: Lease, *, shown: bool) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.note_shown`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            if row.shown_upstream is not shown:
                connection.execute(update(mirrors).where(m.id == row.id).values(shown_upstream=shown))

    def release(self, lease: Lease, *, maintained: bool = False, git_bytes: int | None = None) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.release`."""
        with self._write() as connection:
            row = connection.execute(self._lock_row, {"mirror": lease.mirror.id}).first()
            if row is None or row.lease_token != lease.token or not row.leased_by:
                return
            if row.run_started_at is not None:
                row = self._bury(connection, row)
            values: dict[str, Any] = {
                "leased_by": "",
                "lease_until": 0.0,
                "lease_purpose": "",
                "run_step": "",
                "run_detail": "",
                "progress": None,
            }
            pending = pending_of(row)
            if pending is not None:
                due = sooner(Due(row.due_at, TRIGGERS[row.urgency]), pending, now=row.now)
                values |= {
                    "due_at": due.at,
                    "urgency": URGENCY[due.trigger],
                    "pending_at": None,
                    "pending_urgency": None,
                }
            if maintained:
                values |= {"maintained_at": row.now, "publishes_since_maintenance": 0, "chore_after": 0.0}
            if git_bytes is not None:
                values["git_bytes"] = git_bytes
            connection.execute(update(mirrors).where(m.id == row.id).values(values))


def open_run(row: AnyRow) -> dict[str, Any]:
    """Return the columns of the run that a mirror's row has open."""
    return {
        "mirror_id": row.id,
        "urgency": row.urgency,
        "started_at": row.run_started_at,
        "finished_at": None,
        "outcome": "",
        "code": "",
        "message": "",
        "ref_updates": 0,
        "fetched_bytes": 0,
        "lfs_bytes": 0,
    }
