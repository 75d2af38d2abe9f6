"""What events do to a mirror's standing: when it is due, how far behind it is known to be, what a run leaves.

Every state store applies these same rules, so that lag and due times mean one thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mirror_sync.domain.refs import GuardState
from mirror_sync.domain.runs import (
    LastRun,
    Mirror,
    Outcome,
    PublishIntent,
    RunReport,
    Trigger,
)

MAX_HOLDS = 100
"""Refs that wait are shown one by one up to this many; beyond it only counted."""

URGENCY = {Trigger.OPERATOR: 0, Trigger.WEBHOOK: 1, Trigger.POLL: 2}
"""The smaller goes first."""

MAINTENANCE_SPACING_SECONDS = 3600.0
"""An attempt at maintenance that came to nothing is not repeated before this."""

REMOVAL_SPACING_SECONDS = 60.0
"""The same for removal."""

CLOCK_BACK_SECONDS = 60.0
"""A clock set back further than this takes the times we set along, else nothing would be due for as long."""

ABANDONED_CODE = "MS-R500"
ABANDONED_MESSAGE = "the worker ended before its run did"


@dataclass(frozen=True, slots=True)
class Due:
    """When a mirror should next be observed, and why."""

    at: float
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Evidence:
    """When webhooks told of changes that are not confirmed as served: the first and the latest."""

    first: float
    last: float


def more_urgent(one: Trigger, other: Trigger) -> Trigger:
    """Return the trigger that goes first."""
    return one if URGENCY[one] <= URGENCY[other] else other


def sooner(present: Due | None, asked: Due, *, now: float) -> Due:
    """Return what is due after ``asked`` joins ``present``: the earlier time, and the more urgent trigger once due.

    A trigger for later never speeds up what waits, and duplicates merge.
    """
    if present is None:
        return asked
    if present.at <= now:
        trigger = more_urgent(present.trigger, asked.trigger) if asked.at <= now else present.trigger
        return Due(present.at, trigger)
    if asked.at == present.at:
        return Due(present.at, more_urgent(present.trigger, asked.trigger))
    return asked if asked.at < present.at else present


def is_news(at: float, *, confirmed_at: float | None) -> bool:
    """Tell whether a webhook received at ``at`` may tell of something that is not confirmed as served."""
    return confirmed_at is None or at >= confirmed_at


def heard(present: Evidence | None, at: float) -> Evidence:
    """Return the evidence after a webhook received at ``at``."""
    if present is None:
        return Evidence(at, at)
    return Evidence(min(present.first, at), max(present.last, at))


def outlived(evidence: Evidence | None, observed_at: float) -> Evidence | None:
    """Return the evidence that remains once everything observed at ``observed_at`` is served."""
    if evidence is None or evidence.last <= observed_at:
        return None
    return evidence if evidence.first > observed_at else Evidence(evidence.last, evidence.last)


def earliest(*times: float | None) -> float | None:
    """Return the earliest of the times that are known."""
    return min((time for time in times if time is not None), default=None)


def confirmed(
    mirror: Mirror, evidence: Evidence | None, *, observed_at: float, digest: str
) -> tuple[Mirror, Evidence | None]:
    """Return the mirror once everything observed at ``observed_at`` is served; confirmed time never goes back."""
    if mirror.confirmed_at is not None and observed_at < mirror.confirmed_at:
        return mirror, evidence
    left = outlived(evidence, observed_at)
    behind = left.first if left is not None else None
    return (
        replace(mirror, confirmed_at=observed_at, confirmed_digest=digest, known_behind_since=behind),
        left,
    )


def settled(
    mirror: Mirror, evidence: Evidence | None, intent: PublishIntent, *, now: float
) -> tuple[Mirror, Evidence | None]:
    """Return the mirror after the publish that ``intent`` announced."""
    mirror = replace(
        mirror,
        view=intent.view,
        head=intent.head,
        ref_count=intent.ref_count,
        published_at=now,
        publishes_since_maintenance=mirror.publishes_since_maintenance + 1,
        confirmed_digest="",
    )
    if not intent.complete:
        return mirror, evidence
    return confirmed(mirror, evidence, observed_at=intent.observed_at, digest=intent.digest)


def finished(
    mirror: Mirror, evidence: Evidence | None, report: RunReport, *, pending: Due | None
) -> tuple[Mirror, Evidence | None]:
    """Return the mirror after a sync run that ended with ``report``.

    ``pending`` is what became due while the run was on.  A run that never observed
    says nothing about holds and the deletion guard, so those stay.
    """
    poll = Due(report.next_due_at, Trigger.POLL)
    due = poll if pending is None else sooner(poll, pending, now=report.finished_at)
    failures = mirror.failures
    if report.outcome is Outcome.FAILED:
        failures += 1
    elif report.outcome is not Outcome.ABANDONED:
        failures = 0
    observed = report.observed_at is not None
    moved = report.availability is not mirror.availability
    after = replace(
        mirror,
        due_at=due.at,
        trigger=due.trigger,
        upstream=report.moved_to or mirror.upstream,
        object_format=report.object_format or mirror.object_format,
        availability=report.availability,
        availability_since=report.finished_at if moved else mirror.availability_since,
        absent_answers=report.absent_answers,
        observed_at=_latest(mirror.observed_at, report.observed_at),
        failures=failures,
        unchanged_polls=mirror.unchanged_polls + 1 if report.outcome is Outcome.UNCHANGED else 0,
        last_run=LastRun(
            report.outcome, report.code, report.message, report.started_at, report.finished_at, mirror.trigger
        ),
        leased_by="",
        lease_until=0.0,
        run_step=None,
        run_detail="",
        progress=None,
        guard=_guard(mirror.guard, report.guard) if observed else mirror.guard,
        holds=report.holds[:MAX_HOLDS] if observed else mirror.holds,
        held_refs=len(report.holds) if observed else mirror.held_refs,
        notes=mirror.notes if report.notes is None else report.notes,
        git_bytes=mirror.git_bytes if report.git_bytes is None else report.git_bytes,
    )
    if report.complete and report.observed_at is not None:
        after, evidence = confirmed(after, evidence, observed_at=report.observed_at, digest=report.digest)
    behind = earliest(after.known_behind_since, report.evidence_at)
    return after if behind == after.known_behind_since else replace(after, known_behind_since=behind), evidence


def abandoned(mirror: Mirror, *, started_at: float, now: float) -> Mirror:
    """Return the mirror once it is known that the run begun at ``started_at`` died with its worker."""
    run = LastRun(Outcome.ABANDONED, ABANDONED_CODE, ABANDONED_MESSAGE, started_at, now, mirror.trigger)
    return replace(mirror, last_run=run)


def _latest(one: float | None, other: float | None) -> float | None:
    return max((time for time in (one, other) if time is not None), default=None)


def _guard(stored: GuardState, reported: GuardState) -> GuardState:
    """Keep an operator's release that came while the run was on."""
    if not reported.released and stored.released and stored.released == reported.fingerprint:
        return replace(reported, released=stored.released)
    return reported
