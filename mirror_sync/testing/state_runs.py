"""Leases, runs and publishes of the state store in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.readers import CloneToken
from mirror_sync.domain.runs import (
    Delivery,
    KeptTip,
    Lease,
    MirrorId,
    Outcome,
    PublishIntent,
    RefJournalEntry,
    RunId,
    RunRecord,
    RunReport,
    Step,
    Trigger,
)
from mirror_sync.domain.standing import (
    ABANDONED_CODE,
    ABANDONED_MESSAGE,
    MAINTENANCE_SPACING_SECONDS,
    REMOVAL_SPACING_SECONDS,
    URGENCY,
    Due,
    abandoned,
    earliest,
    finished,
    heard,
    is_news,
    more_urgent,
    settled,
    sooner,
)
from mirror_sync.errors import Conflict, NotFound
from mirror_sync.ports import Clock
from mirror_sync.testing.state_rows import AskedRow, KeptRow, MirrorRow


class MemoryRows:
    """The lists and the lock."""

    def __init__(self, clock: Clock, *, identity: str = "0" * 32) -> None:
        self._clock = clock
        self._identity = identity
        self._lock = threading.RLock()
        self._rows: dict[MirrorId, MirrorRow] = {}
        self._runs: list[RunRecord] = []
        self._deliveries: list[Delivery] = []
        self._hosts: dict[str, float] = {}
        self._asked: dict[tuple[MirrorId, LfsOid], AskedRow] = {}
        self._workers: dict[str, float] = {}
        self._counters: Counter[tuple[str, str]] = Counter()
        self._last_id = 0
        self._tokens: dict[str, CloneToken] = {}
        self._last_run = 0
        self._turns = 0
        self._latest = 0.0

    def _row(self, mirror_id: MirrorId) -> MirrorRow:
        row = self._rows.get(mirror_id)
        if row is None:
            raise NotFound(f"no mirror has the number {mirror_id}")
        return row

    def _fenced(self, lease: Lease) -> MirrorRow:
        row = self._rows.get(lease.mirror.id) or MirrorRow(lease.mirror)
        row.fence(lease.token, self._clock.now())
        return row

    def _call(self, row: MirrorRow, asked: Due, evidence_at: float | None) -> None:
        now = self._clock.now()
        if row.held(now) and row.purpose == "sync":
            row.pending = sooner(row.pending, asked, now=now)
        else:
            due = sooner(row.due(), asked, now=now)
            row.mirror = replace(row.mirror, due_at=due.at, trigger=due.trigger)
        if evidence_at is not None and is_news(evidence_at, confirmed_at=row.mirror.confirmed_at):
            row.evidence = heard(row.evidence, evidence_at)
            row.mirror = replace(row.mirror, known_behind_since=earliest(row.mirror.known_behind_since, evidence_at))


class MemoryRuns(MemoryRows):
    """Due times, leases, runs, intents and the ref journal."""

    def mark_due(
        self, mirror_id: MirrorId, trigger: Trigger, *, at: float | None = None, evidence_at: float | None = None
    ) -> None:
        with self._lock:
            asked = Due(self._clock.now() if at is None else at, trigger)
            self._call(self._row(mirror_id), asked, evidence_at)

    def claim(self, worker: str, *, lease_seconds: float) -> Lease | None:
        with self._lock:
            ready = self._due()
            if not ready:
                return None
            row = min(
                ready,
                key=lambda row: (
                    URGENCY[row.mirror.trigger],
                    max(row.mirror.due_at, row.mirror.lease_until),
                    row.mirror.id,
                ),
            )
            return self._take(row, worker, lease_seconds, "sync")

    def anything_due(self) -> bool:
        with self._lock:
            return bool(self._due())

    def _due(self) -> list[MirrorRow]:
        now = self._clock.now()
        return [
            row
            for row in self._rows.values()
            if row.in_service() and max(row.mirror.due_at, row.mirror.lease_until) <= now
        ]

    def claim_mirror(self, mirror_id: MirrorId, worker: str, *, lease_seconds: float, purpose: str) -> Lease | None:
        with self._lock:
            row = self._row(mirror_id)
            return None if row.held(self._clock.now()) else self._take(row, worker, lease_seconds, purpose)

    def claim_maintenance(self, worker: str, *, lease_seconds: float, publishes: int, before: float) -> Lease | None:
        with self._lock:
            now = self._clock.now()
            for row in self._rows.values():
                mirror = row.mirror
                enough = mirror.publishes_since_maintenance >= max(publishes, 1)
                old = mirror.publishes_since_maintenance > 0 and (mirror.maintained_at or 0.0) < before
                if (enough or old) and row.in_service() and not row.held(now) and row.chore_after <= now:
                    row.chore_after = now + MAINTENANCE_SPACING_SECONDS
                    return self._take(row, worker, lease_seconds, "maintenance")
            return None

    def claim_removal(self, worker: str, *, lease_seconds: float) -> Lease | None:
        with self._lock:
            now = self._clock.now()
            for row in self._rows.values():
                at = row.mirror.removing_at
                if at is not None and at <= now and not row.held(now) and row.chore_after <= now:
                    row.chore_after = now + REMOVAL_SPACING_SECONDS
                    return self._take(row, worker, lease_seconds, "removal")
            return None

    def _take(self, row: MirrorRow, worker: str, lease_seconds: float, purpose: str) -> Lease:
        now = self._clock.now()
        if row.run_started_at is not None:
            self._bury(row, now)
        trigger = row.mirror.trigger
        if purpose == "sync":
            if row.pending is not None:
                trigger = more_urgent(trigger, row.pending.trigger)
                row.pending = None
            row.run_started_at = now
        row.token += 1
        row.purpose = purpose
        row.mirror = replace(
            row.mirror,
            trigger=trigger,
            leased_by=worker,
            lease_until=now + lease_seconds,
            run_step=Step.OBSERVE if purpose == "sync" else None,
            run_detail="",
            progress=None,
        )
        return Lease(
            mirror=row.seen(),
            worker=worker,
            token=row.token,
            until=row.mirror.lease_until,
            trigger=trigger,
            evidence_at=row.evidence.first if row.evidence is not None else None,
            purpose=purpose,
        )

    def _bury(self, row: MirrorRow, now: float) -> None:
        started = row.run_started_at
        assert started is not None
        run = self._run_of(row)
        self._put_run(
            replace(run, finished_at=now, outcome=Outcome.ABANDONED, code=ABANDONED_CODE, message=ABANDONED_MESSAGE)
        )
        self._counters["runs", Outcome.ABANDONED.value] += 1
        row.mirror = abandoned(row.mirror, started_at=started, now=now)
        row.run_started_at = row.run_id = None

    def _run_of(self, row: MirrorRow) -> RunRecord:
        for run in self._runs:
            if run.id == row.run_id:
                return run
        self._last_run += 1
        row.run_id = RunId(self._last_run)
        assert row.run_started_at is not None
        run = RunRecord(row.run_id, row.mirror.id, row.mirror.trigger, row.run_started_at, None, None)
        self._runs.append(run)
        return run

    def _put_run(self, run: RunRecord) -> None:
        self._runs = [run if old.id == run.id else old for old in self._runs]

    def renew(self, lease: Lease, *, lease_seconds: float) -> None:
        with self._lock:
            row = self._fenced(lease)
            row.mirror = replace(row.mirror, lease_until=self._clock.now() + lease_seconds)

    def confirm(self, lease: Lease) -> None:
        with self._lock:
            self._fenced(lease)

    def note_step(self, lease: Lease, step: Step, detail: str = "") -> None:
        with self._lock:
            row = self._fenced(lease)
            row.mirror = replace(row.mirror, run_step=step, run_detail=detail)

    def note_progress(self, mirror_id: MirrorId, progress: Progress | None) -> None:
        with self._lock:
            row = self._rows.get(mirror_id)
            if row is not None:
                row.mirror = replace(row.mirror, progress=progress)

    def awaited(self, lease: Lease) -> bool:
        with self._lock:
            row = self._rows.get(lease.mirror.id)
            if row is None or row.token != lease.token or row.pending is None:
                return False
            return row.pending.at <= self._clock.now()

    def note_behind(self, lease: Lease, *, observed_at: float) -> None:
        with self._lock:
            row = self._fenced(lease)
            since = earliest(row.mirror.known_behind_since, observed_at)
            row.mirror = replace(row.mirror, known_behind_since=since)

    def note_shown(self, lease: Lease, *, shown: bool) -> None:
        with self._lock:
            row = self._fenced(lease)
            row.mirror = replace(row.mirror, shown_upstream=shown)

    # -- publishing
    def intend(self, lease: Lease, intent: PublishIntent, *, kept: Sequence[KeptTip]) -> RunId:
        with self._lock:
            row = self._fenced(lease)
            run = self._run_of(row).id
            if row.intent is not None:
                if row.intent[0] != run:
                    raise Conflict("an earlier publish of this mirror was not recorded yet")
                self._drop_intent(row)
            row.intent = (run, intent)
            row.mirror = replace(row.mirror, confirmed_digest="")
            known = {(old.tip.run, old.tip.ref, old.tip.oid) for old in row.kept}
            for tip in kept:
                named = replace(tip, run=tip.run or run)
                if (named.run, named.ref, named.oid) not in known:
                    known.add((named.run, named.ref, named.oid))
                    row.kept.append(KeptRow(named, intent.view))
            return run

    def _drop_intent(self, row: MirrorRow) -> None:
        row.intent = None
        row.kept = [kept for kept in row.kept if kept.view is None]

    def open_intent(self, mirror_id: MirrorId) -> tuple[RunId, PublishIntent] | None:
        with self._lock:
            return self._row(mirror_id).intent

    def settle_intent(self, lease: Lease, run: RunId, *, published: bool) -> None:
        with self._lock:
            row = self._fenced(lease)
            if row.intent is None or row.intent[0] != run:
                return
            intent = row.intent[1]
            if not published:
                self._drop_intent(row)
                return
            now = self._clock.now()
            row.intent = None
            row.mirror, row.evidence = settled(row.mirror, row.evidence, intent, now=now)
            for entry in intent.entries:
                row.journaled += 1
                row.journal.append((row.journaled, now, run, entry))
                self._counters["ref_updates", entry.change.value] += 1
            for kept in row.kept:
                kept.view = None
            row.deletions = {ref: at for ref, at in row.deletions.items() if at > intent.observed_at}
            self._runs = [
                replace(old, ref_updates=old.ref_updates + len(intent.entries)) if old.id == run else old
                for old in self._runs
            ]

    def finish(self, lease: Lease, report: RunReport) -> None:
        with self._lock:
            row = self._fenced(lease)
            if report.outcome is not Outcome.UNCHANGED or row.run_id is not None:
                run = self._run_of(row)
                self._put_run(
                    replace(
                        run,
                        started_at=report.started_at,
                        finished_at=report.finished_at,
                        outcome=report.outcome,
                        code=report.code,
                        message=report.message,
                        ref_updates=max(run.ref_updates, report.ref_updates),
                        fetched_bytes=report.fetched_bytes,
                        lfs_bytes=report.lfs_bytes,
                    )
                )
            self._counters["runs", report.outcome.value] += 1
            for kind, size in (("git", report.fetched_bytes), ("lfs", report.lfs_bytes)):
                if size:
                    self._counters["fetched_bytes", kind] += size
            row.mirror, row.evidence = finished(row.mirror, row.evidence, report, pending=row.pending)
            row.pending = None
            row.run_started_at = row.run_id = None
            row.purpose = ""

    def release(self, lease: Lease, *, maintained: bool = False, git_bytes: int | None = None) -> None:
        with self._lock:
            row = self._rows.get(lease.mirror.id)
            if row is None or row.token != lease.token or not row.mirror.leased_by:
                return
            if row.run_started_at is not None:
                self._bury(row, self._clock.now())
            mirror = replace(row.mirror, leased_by="", lease_until=0.0, run_step=None, run_detail="", progress=None)
            if row.pending is not None:
                due = sooner(row.due(), row.pending, now=self._clock.now())
                mirror, row.pending = replace(mirror, due_at=due.at, trigger=due.trigger), None
            if maintained:
                mirror = replace(mirror, maintained_at=self._clock.now(), publishes_since_maintenance=0)
                row.chore_after = 0.0
            if git_bytes is not None:
                mirror = replace(mirror, git_bytes=git_bytes)
            row.mirror = mirror
            row.purpose = ""

    # -- history
    def runs(self, mirror_id: MirrorId, *, before: int | None = None, limit: int = 50) -> list[RunRecord]:
        with self._lock:
            found = [run for run in self._runs if run.mirror == mirror_id and (before is None or run.id < before)]
        return sorted(found, key=lambda run: -run.id)[:limit]

    def ref_journal(
        self, mirror_id: MirrorId, *, before: int | None = None, limit: int = 100
    ) -> list[tuple[int, float, RunId, RefJournalEntry]]:
        with self._lock:
            found = [row for row in self._row(mirror_id).journal if before is None or row[0] < before]
        return found[: -limit - 1 : -1]

    def kept_tips(self, mirror_id: MirrorId) -> list[KeptTip]:
        with self._lock:
            return [kept.tip for kept in self._row(mirror_id).kept]

    def drop_kept(self, lease: Lease, *, expired_before: float) -> list[KeptTip]:
        with self._lock:
            row = self._fenced(lease)
            row.kept = [kept for kept in row.kept if kept.tip.expires_at > expired_before]
            return [kept.tip for kept in row.kept]

    def expired_kept(self, *, now: float, limit: int = 100) -> list[MirrorId]:
        with self._lock:
            found = [
                mirror_id
                for mirror_id, row in sorted(self._rows.items())
                if any(kept.tip.expires_at <= now for kept in row.kept)
            ]
        return found[:limit]
