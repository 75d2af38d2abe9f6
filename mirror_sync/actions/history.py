"""LFS objects that no tip needs: fetched behind, outside any mirror's lease."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import Mirror, Trigger
from mirror_sync.errors import Interrupted, RateLimited
from mirror_sync.ports import Clock, ObjectStore, Parallel, StateStore, Telemetry, Upstream

BATCH = 100
LEASE_SECONDS = 900.0
FIRST_RETRY_SECONDS = 3600.0
LAST_RETRY_SECONDS = 86400.0


def fetch_history(
    worker: str,
    *,
    state: StateStore,
    open_upstream: Callable[[Mirror], Upstream],
    objects: ObjectStore,
    parallel: Parallel,
    clock: Clock,
    telemetry: Telemetry,
    limits: TransferLimits,
    stop: threading.Event,
) -> int:
    """Fetch one mirror's next wanted LFS objects and return how many were tried; 0 when none is due.

    Whatever the queue says stays true when the process dies: jobs come back when their
    lease ends, and bytes that arrived are kept.
    """
    jobs = state.claim_lfs(worker, limit=BATCH, lease_seconds=LEASE_SECONDS)
    if not jobs:
        return 0
    mirror = state.mirror_by_id(jobs[0].mirror)
    attempts = {job.oid: job.attempts for job in jobs}
    upstream = open_upstream(mirror)
    report = transfer(
        [Pointer(job.oid, job.size) for job in jobs],
        upstream=upstream,
        objects=objects,
        parallel=parallel,
        clock=clock,
        telemetry=telemetry,
        mirror=mirror.name,
        limits=limits,
        stop=stop,
    )
    if report.arrived:
        state.lfs_arrived(sorted(report.arrived))
    now = clock.now()
    error = report.error
    wait_until = error.until if isinstance(error, RateLimited) else now + FIRST_RETRY_SECONDS
    for oid, tried in attempts.items():
        if oid in report.arrived:
            continue
        known = oid in report.known_missing
        code, message = report.known_missing.get(oid) or report.failed.get(oid) or ("", "")
        if code:
            retry_at = now + min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(tried, 10))
        else:
            code, message = (getattr(error, "code", ""), str(error)) if error is not None else ("", "not reached")
            retry_at = now if isinstance(error, Interrupted) else wait_until
        state.lfs_failed(mirror.id, oid, code=code, message=message[:500], known_missing=known, retry_at=retry_at)
    if report.arrived and mirror.held_refs:
        state.mark_due(mirror.id, Trigger.POLL)
    return len(jobs)
