"""Rows and records: how each is read from the other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mirror_sync.domain.deliveries import repository_key
from mirror_sync.domain.names import MirrorName, RefName, printable, ref_bytes, ref_from_bytes
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.domain.refs import GuardState, Hold, ObjectFormat
from mirror_sync.domain.runs import (
    Availability,
    LastRun,
    LfsCounts,
    Mirror,
    MirrorId,
    Outcome,
    RunId,
    RunRecord,
    Step,
    Trigger,
    Visibility,
)
from mirror_sync.domain.standing import URGENCY, Due, Evidence

TRIGGERS = {number: trigger for trigger, number in URGENCY.items()}


def mirror_of(row: Any) -> Mirror:
    """Return the mirror that a row of the mirrors table tells of."""
    of = dict(zip(row._fields, row, strict=True))  # many times faster than asking the row for each
    return Mirror(
        id=MirrorId(of["id"]),
        name=MirrorName(of["name"]),
        upstream=of["upstream"],
        created_at=of["created_at"],
        due_at=of["due_at"],
        trigger=TRIGGERS[of["urgency"]],
        interval_seconds=of["interval_seconds"],
        objective_seconds=of["objective_seconds"],
        object_format=ObjectFormat(of["object_format"]),
        repository_id=of["repository_id"],
        availability=Availability(of["availability"]),
        availability_since=of["availability_since"],
        absent_answers=of["absent_answers"],
        paused_at=of["paused_at"],
        paused_reason=of["paused_reason"],
        removing_at=of["removing_at"],
        observed_at=of["observed_at"],
        confirmed_at=of["confirmed_at"],
        confirmed_digest=of["confirmed_digest"],
        known_behind_since=of["known_behind_since"],
        published_at=of["published_at"],
        view=of["view"],
        ref_count=of["ref_count"],
        head=of["head"],
        failures=of["failures"],
        unchanged_polls=of["unchanged_polls"],
        last_run=_last_run_of(of) if of["last_outcome"] else None,
        leased_by=of["leased_by"],
        lease_until=of["lease_until"],
        run_step=Step(of["run_step"]) if of["run_step"] else None,
        run_detail=of["run_detail"],
        guard=GuardState(of["guard_fingerprint"], of["guard_polls"], of["guard_counted_at"], of["guard_released"]),
        holds=load_holds(of["holds"]) if of["holds"] else (),
        held_refs=of["held_refs"],
        notes=tuple(json.loads(of["notes"])) if of["notes"] else (),
        lfs=LfsCounts(
            wanted=of["lfs_wanted"],
            present=of["lfs_present"],
            missing=of["lfs_wanted"] - of["lfs_present"],
            known_missing=of["lfs_known_missing"],
            wanted_bytes=of["lfs_wanted_bytes"],
            present_bytes=of["lfs_present_bytes"],
            left_out=of["lfs_left_out"],
            left_out_bytes=of["lfs_left_out_bytes"],
        ),
        git_bytes=of["git_bytes"],
        maintained_at=of["maintained_at"],
        publishes_since_maintenance=of["publishes_since_maintenance"],
        progress=load_progress(of["progress"]) if of["progress"] else None,
        class_name=of["class"],
        lfs_selection=of["lfs_selection"],
        visibility=Visibility(of["visibility"]) if of["visibility"] else None,
        shown_upstream=of["shown_upstream"] if of["shown_upstream"] is None else bool(of["shown_upstream"]),
    )


def _last_run_of(of: dict[str, Any]) -> LastRun:
    return LastRun(
        outcome=Outcome(of["last_outcome"]),
        code=of["last_code"],
        message=of["last_message"],
        started_at=of["last_started_at"],
        finished_at=of["last_finished_at"],
        trigger=TRIGGERS[of["last_urgency"]],
    )


def evidence_of(row: Any) -> Evidence | None:
    """Return the evidence of changes not confirmed yet."""
    return None if row.evidence_first is None else Evidence(row.evidence_first, row.evidence_last)


def pending_of(row: Any) -> Due | None:
    """Return what became due while a sync was running."""
    return None if row.pending_at is None else Due(row.pending_at, TRIGGERS[row.pending_urgency])


def standing_columns(mirror: Mirror, evidence: Evidence | None) -> dict[str, Any]:
    """Return the columns that runs and publishes move."""
    last = mirror.last_run
    return {
        "object_format": mirror.object_format.value,
        "availability": mirror.availability.value,
        "availability_since": mirror.availability_since,
        "absent_answers": mirror.absent_answers,
        "due_at": mirror.due_at,
        "urgency": URGENCY[mirror.trigger],
        "evidence_first": None if evidence is None else evidence.first,
        "evidence_last": None if evidence is None else evidence.last,
        "leased_by": mirror.leased_by,
        "lease_until": mirror.lease_until,
        "run_step": "" if mirror.run_step is None else mirror.run_step.value,
        "run_detail": mirror.run_detail,
        "observed_at": mirror.observed_at,
        "confirmed_at": mirror.confirmed_at,
        "confirmed_digest": mirror.confirmed_digest,
        "known_behind_since": mirror.known_behind_since,
        "published_at": mirror.published_at,
        "view": mirror.view,
        "ref_count": mirror.ref_count,
        "head": mirror.head,
        "failures": mirror.failures,
        "unchanged_polls": mirror.unchanged_polls,
        "last_outcome": "" if last is None else last.outcome.value,
        "last_code": "" if last is None else last.code,
        "last_message": "" if last is None else printable(last.message),
        "last_started_at": 0.0 if last is None else last.started_at,
        "last_finished_at": 0.0 if last is None else last.finished_at,
        "last_urgency": URGENCY[Trigger.POLL if last is None else last.trigger],
        "guard_fingerprint": mirror.guard.fingerprint,
        "guard_polls": mirror.guard.polls,
        "guard_counted_at": mirror.guard.counted_at,
        "guard_released": mirror.guard.released,
        "holds": dump_holds(mirror.holds),
        "held_refs": mirror.held_refs,
        "notes": json.dumps(mirror.notes) if mirror.notes else "",
        "git_bytes": mirror.git_bytes,
        "publishes_since_maintenance": mirror.publishes_since_maintenance,
    }


def new_columns(mirror: Mirror) -> dict[str, Any]:
    """Return every column of a mirror enrolled now, except its number."""
    host_key, key = repository_key(mirror.upstream)
    return {
        **standing_columns(mirror, None),
        "name": mirror.name,
        "upstream": mirror.upstream,
        "class": mirror.class_name,
        "visibility": mirror.visibility or "",
        "shown_upstream": mirror.shown_upstream,
        "host_key": host_key,
        "repository_key": key,
        "repository_id": mirror.repository_id,
        "created_at": mirror.created_at,
        "interval_seconds": mirror.interval_seconds,
        "objective_seconds": mirror.objective_seconds,
        "paused_at": mirror.paused_at,
        "paused_reason": mirror.paused_reason,
        "removing_at": None,
        "pending_at": None,
        "pending_urgency": None,
        "lease_purpose": "",
        "chore_after": 0.0,
        "run_id": None,
        "run_started_at": None,
        "unchanged_runs": 0,
        "lfs_wanted": 0,
        "lfs_present": 0,
        "lfs_known_missing": 0,
        "lfs_wanted_bytes": 0,
        "lfs_present_bytes": 0,
        "lfs_left_out": 0,
        "lfs_left_out_bytes": 0,
        "lfs_selection": "",
        "lfs_due_at": None,
        "progress": None,
        "maintained_at": None,
    }


def dump_holds(holds: tuple[Hold, ...]) -> str:
    """Return holds as text; the empty string for none."""
    # JSON escapes what is not ASCII, so names that are no UTF-8 pass every database
    return json.dumps([[hold.name, hold.code, hold.reason] for hold in holds]) if holds else ""


def load_holds(stored: str) -> tuple[Hold, ...]:
    """Return the holds that :func:`dump_holds` stored."""
    return tuple(Hold(RefName(name), code, reason) for name, code, reason in json.loads(stored))


def dump_progress(progress: Progress) -> str:
    """Return a reading of progress as text."""
    return json.dumps(asdict(progress))


def load_progress(stored: str) -> Progress | None:
    """Return the reading that :func:`dump_progress` stored; ``None`` for one of another version."""
    try:
        of = json.loads(stored)
        sources = tuple(of.pop("sources"))
        return Progress(kind=Kind(of.pop("kind")), way=Way(of.pop("way")), sources=sources, **of)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def dump_refs(refs: Iterable[RefName]) -> str:
    """Return ref names as text."""
    return json.dumps([ref_bytes(ref).hex() for ref in refs])


def load_refs(stored: str) -> tuple[RefName, ...]:
    """Return the names that :func:`dump_refs` stored."""
    return tuple(ref_from_bytes(bytes.fromhex(name)) for name in json.loads(stored))


def run_of(row: Any) -> RunRecord:
    """Return the run that a row of the runs table tells of."""
    return RunRecord(
        id=RunId(row.id),
        mirror=MirrorId(row.mirror_id),
        trigger=TRIGGERS[row.urgency],
        started_at=row.started_at,
        finished_at=row.finished_at,
        outcome=Outcome(row.outcome) if row.outcome else None,
        code=row.code,
        message=row.message,
        ref_updates=row.ref_updates,
        fetched_bytes=row.fetched_bytes,
        lfs_bytes=row.lfs_bytes,
    )
