"""Sync runs, publishes and what they leave: the journal before the flip, the record after it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, delete, select, update

from mirror_sync.domain.deliveries import repository_key
from mirror_sync.domain.names import printable
from mirror_sync.domain.runs import (
    KeptTip,
    Lease,
    MirrorId,
    Outcome,
    PublishIntent,
    RefJournalEntry,
    RunId,
    RunRecord,
    RunReport,
)
from mirror_sync.domain.standing import finished, settled
from mirror_sync.errors import Conflict
from mirror_sync.state.database import AnyRow, mirrors
from mirror_sync.state.journal import packs, unpack
from mirror_sync.state.leases import Leases, open_run
from mirror_sync.state.leases import runs as run_table
from mirror_sync.state.models import Intent, KeptTipRow, RefJournal, SignedDeletion, table
from mirror_sync.state.records import evidence_of, mirror_of, pending_of, run_of, standing_columns

m = mirrors.c
intents = table(Intent)
journal = table(RefJournal)
kept_tips = table(KeptTipRow)
deletions = table(SignedDeletion)

_NO_RUN = {
    "run_id": None,
    "run_started_at": None,
    "pending_at": None,
    "pending_urgency": None,
    "lease_purpose": "",
    "progress": None,
}
JOURNAL_PAGE = 16
"""Packs read at once."""


class Runs(Leases):
    """Finishing runs, journalling publishes, and reading history."""

    def finish(self, lease: Lease, report: RunReport) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.finish`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            unchanged = report.outcome is Outcome.UNCHANGED
            if row.run_id is not None or not unchanged:
                self._close_run(connection, row, report)
            before = mirror_of(row)
            after, evidence = finished(before, evidence_of(row), report, pending=pending_of(row))
            values = standing_columns(after, evidence) | _NO_RUN
            values["unchanged_runs"] = row.unchanged_runs + unchanged
            _move(connection, row, values)
            if after.upstream != before.upstream:
                host_key, key = repository_key(after.upstream)
                connection.execute(
                    update(mirrors)
                    .where(m.id == row.id)
                    .values(upstream=after.upstream, host_key=host_key, repository_key=key)
                )
            counts = {("fetched_bytes", "git"): report.fetched_bytes, ("fetched_bytes", "lfs"): report.lfs_bytes}
            if not unchanged:
                counts["runs", report.outcome.value] = 1
            self._count(connection, counts)

    def _close_run(self, connection: Connection, row: AnyRow, report: RunReport) -> None:
        end = {
            "started_at": report.started_at,
            "finished_at": report.finished_at,
            "outcome": report.outcome.value,
            "code": report.code,
            "message": printable(report.message),
            "fetched_bytes": report.fetched_bytes,
            "lfs_bytes": report.lfs_bytes,
        }
        if row.run_id is None:
            connection.execute(run_table.insert().values(open_run(row) | end | {"ref_updates": report.ref_updates}))
            return
        this = run_table.c.id == row.run_id
        moved = connection.execute(select(run_table.c.ref_updates).where(this)).scalar() or 0
        connection.execute(update(run_table).where(this).values(end | {"ref_updates": max(moved, report.ref_updates)}))

    # -- publishing
    def intend(self, lease: Lease, intent: PublishIntent, *, kept: Sequence[KeptTip]) -> RunId:
        """Implement :meth:`mirror_sync.ports.StateStore.intend`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            run = RunId(row.run_id) if row.run_id is not None else self._open_run(connection, row)
            open_ = connection.execute(select(intents.c.run_id).where(intents.c.mirror_id == row.id)).scalar()
            if open_ is not None:
                if open_ != run:
                    raise Conflict("an earlier publish of this mirror was not recorded yet")
                _drop_intent(connection, MirrorId(row.id))
            connection.execute(
                intents.insert().values(
                    mirror_id=row.id,
                    run_id=run,
                    view=intent.view,
                    digest=intent.digest,
                    observed_at=intent.observed_at,
                    head=intent.head,
                    ref_count=intent.ref_count,
                    complete=intent.complete,
                    changes=json.dumps(Counter(entry.change.value for entry in intent.entries)),
                )
            )
            entries = [
                {"mirror_id": row.id, "first": row.journaled + 1 + start, "run_id": run, "at": None, "entries": pack}
                for start, pack in packs(intent.entries)
            ]
            if entries:
                connection.execute(journal.insert(), entries)
            self._keep(connection, row, kept, run=run, view=intent.view)
            connection.execute(
                update(mirrors)
                .where(m.id == row.id)
                .values(run_id=run, journaled=row.journaled + len(intent.entries), confirmed_digest="")
            )
            return run

    def _open_run(self, connection: Connection, row: AnyRow) -> RunId:
        made = connection.execute(run_table.insert().values(open_run(row)).returning(run_table.c.id))
        return RunId(made.scalar_one())

    def _keep(self, connection: Connection, row: AnyRow, kept: Sequence[KeptTip], *, run: RunId, view: int) -> None:
        values = [
            {
                "mirror_id": row.id,
                "run_id": tip.run or run,
                "ref": tip.ref,
                "oid": tip.oid,
                "kept_at": tip.kept_at,
                "expires_at": tip.expires_at,
                "view": view,
            }
            for tip in kept
        ]
        if values:
            connection.execute(self._insert(kept_tips).on_conflict_do_nothing(), values)

    def open_intent(self, mirror_id: MirrorId) -> tuple[RunId, PublishIntent] | None:
        """Implement :meth:`mirror_sync.ports.StateStore.open_intent`."""
        with self._read() as connection:
            return _open_intent(connection, mirror_id)

    def settle_intent(self, lease: Lease, run: RunId, *, published: bool) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.settle_intent`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            open_ = connection.execute(select(intents).where(intents.c.mirror_id == row.id)).first()
            if open_ is None or open_.run_id != run:
                return
            if not published:
                _drop_intent(connection, MirrorId(row.id))
                return
            intent = _intent_of(open_, ())
            after, evidence = settled(mirror_of(row), evidence_of(row), intent, now=row.now)
            _move(connection, row, standing_columns(after, evidence) | _kept_run(row))
            this = intents.c.mirror_id == row.id
            connection.execute(delete(intents).where(this))
            connection.execute(
                update(journal).where(journal.c.mirror_id == row.id, journal.c.at.is_(None)).values(at=row.now)
            )
            connection.execute(
                update(kept_tips)
                .where(kept_tips.c.mirror_id == row.id, kept_tips.c.view.is_not(None))
                .values(view=None)
            )
            connection.execute(
                delete(deletions).where(deletions.c.mirror_id == row.id, deletions.c.received_at <= intent.observed_at)
            )
            moved: dict[str, int] = json.loads(open_.changes)
            connection.execute(
                update(run_table)
                .where(run_table.c.id == run)
                .values(ref_updates=run_table.c.ref_updates + sum(moved.values()))
            )
            self._count(connection, {("ref_updates", change): count for change, count in moved.items()})

    # -- history
    def runs(self, mirror_id: MirrorId, *, before: int | None = None, limit: int = 50) -> list[RunRecord]:
        """Implement :meth:`mirror_sync.ports.StateStore.runs`."""
        query = select(run_table).where(run_table.c.mirror_id == mirror_id)
        if before is not None:
            query = query.where(run_table.c.id < before)
        with self._read() as connection:
            rows = connection.execute(query.order_by(run_table.c.id.desc()).limit(limit)).all()
        return [run_of(row) for row in rows]

    def ref_journal(
        self, mirror_id: MirrorId, *, before: int | None = None, limit: int = 100
    ) -> list[tuple[int, float, RunId, RefJournalEntry]]:
        """Implement :meth:`mirror_sync.ports.StateStore.ref_journal`."""
        query = select(journal).where(journal.c.mirror_id == mirror_id, journal.c.at.is_not(None))
        query = query.order_by(journal.c.first.desc()).limit(JOURNAL_PAGE)
        found: list[tuple[int, float, RunId, RefJournalEntry]] = []
        with self._read() as connection:
            while len(found) < limit:
                page = query if before is None else query.where(journal.c.first < before)
                rows = connection.execute(page).all()
                for row in rows:
                    numbered = list(enumerate(unpack(row.entries), start=row.first))
                    found += [
                        (number, row.at, RunId(row.run_id), entry)
                        for number, entry in reversed(numbered)
                        if before is None or number < before
                    ]
                    before = row.first
                    if len(found) >= limit:
                        break
                if not rows:
                    break
        return found[:limit]

    def kept_tips(self, mirror_id: MirrorId) -> list[KeptTip]:
        """Implement :meth:`mirror_sync.ports.StateStore.kept_tips`."""
        with self._read() as connection:
            return _kept(connection, mirror_id)

    def drop_kept(self, lease: Lease, *, expired_before: float) -> list[KeptTip]:
        """Implement :meth:`mirror_sync.ports.StateStore.drop_kept`."""
        with self._write() as connection:
            row = self._fenced(connection, lease)
            connection.execute(
                delete(kept_tips).where(kept_tips.c.mirror_id == row.id, kept_tips.c.expires_at <= expired_before)
            )
            return _kept(connection, MirrorId(row.id))

    def expired_kept(self, *, now: float, limit: int = 100) -> list[MirrorId]:
        """Implement :meth:`mirror_sync.ports.StateStore.expired_kept`."""
        query = (
            select(kept_tips.c.mirror_id)
            .where(kept_tips.c.expires_at <= now)
            .distinct()
            .order_by(kept_tips.c.mirror_id)
            .limit(limit)
        )
        with self._read() as connection:
            return [MirrorId(mirror_id) for mirror_id in connection.execute(query).scalars()]


def _move(connection: Connection, row: AnyRow, values: dict[str, Any]) -> None:
    """Write a mirror's standing by one statement that is compiled once."""
    parameters = {f"new_{name}": value for name, value in values.items()}
    connection.execute(_move_statement(tuple(values)), {"mirror": row.id, **parameters})


@cache
def _move_statement(names: tuple[str, ...]) -> Update:
    return update(mirrors).where(m.id == bindparam("mirror")).values({name: bindparam(f"new_{name}") for name in names})


def _kept_run(row: AnyRow) -> dict[str, Any]:
    """Return the columns of a run that goes on, as they are."""
    return {name: row._mapping[name] for name in (*_NO_RUN, "unchanged_runs")}  # noqa: SLF001 - the row's public mapping has this name


def _open_intent(connection: Connection, mirror_id: MirrorId) -> tuple[RunId, PublishIntent] | None:
    row = connection.execute(select(intents).where(intents.c.mirror_id == mirror_id)).first()
    if row is None:
        return None
    stored = connection.execute(
        select(journal.c.entries)
        .where(journal.c.mirror_id == mirror_id, journal.c.at.is_(None))
        .order_by(journal.c.first)
    ).scalars()
    return RunId(row.run_id), _intent_of(row, tuple(entry for pack in stored for entry in unpack(pack)))


def _intent_of(row: AnyRow, entries: tuple[RefJournalEntry, ...]) -> PublishIntent:
    return PublishIntent(
        view=row.view,
        digest=row.digest,
        observed_at=row.observed_at,
        entries=entries,
        head=row.head,
        ref_count=row.ref_count,
        complete=row.complete,
    )


def _drop_intent(connection: Connection, mirror_id: MirrorId) -> None:
    connection.execute(delete(intents).where(intents.c.mirror_id == mirror_id))
    connection.execute(delete(journal).where(journal.c.mirror_id == mirror_id, journal.c.at.is_(None)))
    connection.execute(delete(kept_tips).where(kept_tips.c.mirror_id == mirror_id, kept_tips.c.view.is_not(None)))


def _kept(connection: Connection, mirror_id: MirrorId) -> list[KeptTip]:
    query = select(kept_tips).where(kept_tips.c.mirror_id == mirror_id).order_by(kept_tips.c.id)
    return [
        KeptTip(RunId(row.run_id), row.ref, row.oid, row.kept_at, row.expires_at) for row in connection.execute(query)
    ]
