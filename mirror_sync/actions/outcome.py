"""How a run ends: the report that is recorded, and when the mirror is due again."""

from __future__ import annotations

from urllib.parse import urlsplit

from mirror_sync.actions.world import Run
from mirror_sync.domain import cadence
from mirror_sync.domain.figures import refs_text
from mirror_sync.domain.refs import GuardState, Observation
from mirror_sync.domain.runs import Availability, Lease, Outcome, RunReport
from mirror_sync.errors import (
    HostResting,
    Interrupted,
    LeaseLost,
    MirrorSyncError,
    Preempted,
    PublishConflict,
    RateLimited,
    StateUnavailable,
    UpstreamGone,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import Clock, StateStore, Telemetry

HELD_RETRY_SECONDS = 600.0
GUARD_RETRY_SECONDS = 610.0
"""A little over the guard's spacing, so that three polls take about twenty minutes."""

CLOSED_RETRY_SECONDS = 600.0
"""An answer that closed a mirror is asked for again after at most so long."""

HOST_SPREAD_SECONDS = 30.0
"""Mirrors of a host that asked us to wait come back spread over so long."""


def host_of(url: str) -> str:
    """Return the host of an upstream URL, with its port when that is unusual."""
    return urlsplit(url).netloc


def record(run: Run, guard: GuardState, *, observation: Observation | None = None) -> RunReport:
    """Record a run that came to its end: unchanged, published or held."""
    world = run.world
    failure = run.lfs_failure
    if isinstance(failure, MirrorSyncError):
        return record_failure(run, failure, observation=observation)
    complete = run.complete and not run.holds
    outcome = Outcome.UNCHANGED
    code = message = ""
    if run.holds:
        outcome = Outcome.HELD
        every = list(run.holds.values())
        first = next((hold for hold in every if hold.code != Preempted.code), every[0])
        code = first.code
        held = len(run.holds)
        message = f"{held} {'ref' if held == 1 else 'refs'} held; {first.reason}"
    elif run.ref_updates or (observation is not None and run.view != run.mirror.view):
        outcome = Outcome.PUBLISHED
        message = refs_text(run.ref_updates)
    now = world.clock.now()
    interval = run.mirror.interval_seconds
    if run.holds:
        interval = min(interval, GUARD_RETRY_SECONDS if guard.fingerprint else HELD_RETRY_SECONDS)
    if complete and observation is not None and not world.repository.stage_is_empty():
        world.repository.discard_stage()
    due = cadence.next_poll(now, interval, jitter=run.policy.jitter, chance=world.clock.chance())
    report = _report(
        run, outcome, due, code=code, message=message, guard=guard, complete=complete, observation=observation
    )
    return _finish(run, report)


def record_failure(run: Run, error: MirrorSyncError, *, observation: Observation | None = None) -> RunReport:
    """Record a run that an error ended; raises it again when nothing can be recorded."""
    if isinstance(error, LeaseLost | StateUnavailable):
        raise error
    if isinstance(error, UpstreamUnavailable) and run.stop.is_set():
        error = Interrupted()  # what a stop breaks off says nothing of upstream
    world, mirror = run.world, run.mirror
    now, chance = world.clock.now(), world.clock.chance()
    failures = mirror.failures + 1
    outcome = Outcome.FAILED
    answers = 0
    availability = mirror.availability
    due = cadence.backoff(now, failures, mirror.interval_seconds, maximum=run.policy.backoff_max, chance=chance)
    if isinstance(error, HostResting):
        outcome, due = Outcome.ABANDONED, error.until + HOST_SPREAD_SECONDS * chance
    elif isinstance(error, RateLimited):
        due = max(error.until, now + 1.0)
        world.state.block_host(host_of(mirror.upstream), until=due)
    elif isinstance(error, (Interrupted, PublishConflict, Preempted)):
        outcome, due = Outcome.ABANDONED, now
    elif isinstance(error, UpstreamGone | UpstreamRefused) and run.digest == "":
        # what closed the mirror to its clients may be a fault of the moment: asked again soon, counted from then
        answers = mirror.absent_answers + (0 if run.closed else 1)
        if run.closed:
            due = now + CLOSED_RETRY_SECONDS * (0.5 + 0.5 * chance)
        elif mirror.published_at is not None:
            due = cadence.after_absent(now, answers, chance=chance)
        if answers >= cadence.ABSENT_ANSWERS:
            availability = Availability.GONE if isinstance(error, UpstreamGone) else Availability.DENIED
    report = _report(
        run,
        outcome,
        due,
        code=error.code,
        message=str(error)[:1000],
        guard=mirror.guard,
        complete=False,
        observation=observation,
        availability=availability,
        answers=answers,
    )
    world.telemetry.event(
        "sync_failed", mirror=mirror.name, code=error.code, why=error.why, what=error.message, acts=error.actor.value
    )
    return _finish(run, report)


def _report(
    run: Run,
    outcome: Outcome,
    due: float,
    *,
    code: str,
    message: str,
    guard: GuardState,
    complete: bool,
    observation: Observation | None,
    availability: Availability = Availability.PRESENT,
    answers: int = 0,
) -> RunReport:
    changed = run.ref_updates > 0
    return RunReport(
        outcome=outcome,
        started_at=run.started_at,
        finished_at=run.world.clock.now(),
        next_due_at=due,
        code=code,
        message=message,
        observed_at=run.observed_at if run.digest else None,
        digest=run.digest,
        complete=complete,
        evidence_at=None if complete else run.lease.evidence_at,
        availability=availability,
        absent_answers=answers,
        guard=guard,
        holds=tuple(run.holds.values()),
        notes=tuple(run.notes) if run.notes is not None else None,
        moved_to=run.moved_to,
        object_format=observation.object_format if observation is not None else None,
        git_bytes=run.world.repository.size_bytes() if changed else None,
        ref_updates=run.ref_updates,
        fetched_bytes=run.fetched_bytes,
        lfs_bytes=run.lfs_bytes,
    )


def _finish(run: Run, report: RunReport) -> RunReport:
    run.world.state.finish(run.lease, report)
    run.world.telemetry.run_finished(run.lease, report)
    if report.complete and report.ref_updates:
        evidence = run.lease.evidence_at
        since = evidence if evidence is not None else (run.mirror.observed_at or run.started_at)
        kind = "webhook" if evidence is not None else "poll"
        run.world.telemetry.propagated(evidence=kind, seconds=max(0.0, report.finished_at - since))
    return report


def record_crash(lease: Lease, error: Exception, *, state: StateStore, clock: Clock, telemetry: Telemetry) -> None:
    """Record a run that a fault of our own ended, so that people see it and the clock tries again."""
    now = clock.now()
    mirror = lease.mirror
    report = RunReport(
        outcome=Outcome.FAILED,
        started_at=now,
        finished_at=now,
        next_due_at=cadence.backoff(now, mirror.failures + 1, mirror.interval_seconds, chance=clock.chance()),
        code=MirrorSyncError.code,
        message=f"a fault in mirror_sync itself: {type(error).__name__}",
        availability=mirror.availability,
        absent_answers=mirror.absent_answers,
        guard=mirror.guard,
        holds=mirror.holds,
    )
    state.finish(lease, report)
    telemetry.run_finished(lease, report)
