"""LFS objects that no run is fetching: those that held refs lack and those of history, outside any mirror's lease."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Protocol

from mirror_sync.actions.transfer import TransferLimits, TransferReport, transfer
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import TIP_RANK, LfsJob, Mirror, Trigger
from mirror_sync.errors import Interrupted, Preempted, RateLimited, StateUnavailable
from mirror_sync.ports import Clock, ObjectStore, Parallel, StateStore, Telemetry, Upstream

BATCH = 100
BATCH_BYTES = 4 << 30
"""No more is claimed at once, but for a single object that is larger."""

SMALL_BYTES = 64 << 20
"""One lane takes nothing larger, so that small objects never stand behind large ones."""

LEASE_SECONDS = 300.0
RENEW_SECONDS = 60.0
TURN_SECONDS = 60.0
"""After so long a mirror makes way for another one whose objects wait; parts stay where they are."""

FIRST_RETRY_SECONDS = 3600.0
LAST_RETRY_SECONDS = 86400.0


class OpenSources(Protocol):
    """Opens the places that a mirror's LFS objects come from."""

    def __call__(self, mirror: Mirror, *, awaited: bool) -> Sequence[Upstream]:
        """Return the upstream and, after it, nearer places of the same bytes; ``awaited``: refs wait for them."""


def fetch_history(
    worker: str,
    *,
    state: StateStore,
    open_sources: OpenSources,
    objects: ObjectStore,
    parallel: Parallel,
    clock: Clock,
    telemetry: Telemetry,
    limits: TransferLimits,
    largest: int | None = None,
    stop: threading.Event,
) -> int:
    """Fetch one mirror's next wanted LFS objects and return how many were tried; 0 when none is due.

    ``largest`` passes over objects of more bytes.  Whatever the queue says stays true
    when the process dies: jobs come back when their lease ends, and bytes that arrived
    are kept.
    """
    jobs = state.claim_lfs(worker, limit=BATCH, lease_seconds=LEASE_SECONDS, largest=largest, most_bytes=BATCH_BYTES)
    if not jobs:
        return 0
    mirror = state.mirror_by_id(jobs[0].mirror)
    turn = _Turn(worker, jobs, state=state, clock=clock)

    def show(progress: Progress) -> None:
        telemetry.progress(mirror.name, progress)
        state.note_progress(mirror.id, progress)

    sources = open_sources(mirror, awaited=jobs[0].rank < TIP_RANK)
    try:
        report = transfer(
            [Pointer(job.oid, job.size) for job in jobs],
            mirror=mirror.name,
            sources=sources,
            objects=objects,
            parallel=parallel,
            clock=clock,
            telemetry=telemetry,
            limits=limits,
            stop=stop,
            report=show,
            yielding=turn.is_over,
        )
    finally:
        state.note_progress(mirror.id, None)
        for source in sources:
            source.close()
    _record(worker, jobs, report, state=state, now=clock.now())
    return len(jobs)


class _Turn:
    """One mirror's turn in a lane: keeps the claim alive, and ends when others have waited long enough."""

    def __init__(self, worker: str, jobs: Sequence[LfsJob], *, state: StateStore, clock: Clock) -> None:
        self._worker = worker
        self._jobs = jobs
        self._state = state
        self._clock = clock
        self._began = self._renewed = clock.monotonic()

    def is_over(self) -> bool:
        """Tell whether to make way; asked about once a second as long as the transfer lasts."""
        now = self._clock.monotonic()
        with contextlib.suppress(StateUnavailable):  # then nobody else can claim anything either
            if now - self._renewed >= RENEW_SECONDS:
                self._renewed = now
                self._state.renew_lfs(self._worker, self._jobs, lease_seconds=LEASE_SECONDS)
            return now - self._began >= TURN_SECONDS and self._state.lfs_queued(beside=self._jobs[0].mirror)
        return False


def _record(worker: str, jobs: Sequence[LfsJob], report: TransferReport, *, state: StateStore, now: float) -> None:
    """Tell the queue what became of each object."""
    if report.arrived:
        sizes = {job.oid: job.size for job in jobs if job.oid in report.arrived}
        state.lfs_arrived(sorted(report.arrived), sizes=sizes)
    error = report.error
    wait_until = error.until if isinstance(error, RateLimited) else now + FIRST_RETRY_SECONDS
    failed = {**report.known_missing, **report.failed}
    claimed = state.lfs_sizes(jobs[0].mirror, sorted(failed)) if failed else {}
    left: list[LfsJob] = []
    for job in jobs:
        if job.oid in report.arrived:
            continue
        known = job.oid in report.known_missing
        code, message = failed.get(job.oid, ("", ""))
        then, last = next_size(job.size, claimed.get(job.oid, ()), tried=job.attempts)
        retry_at = now + min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(job.attempts, 10))
        if not last:  # another pointer of this object may be the true one
            known, retry_at = False, now
        if not code:
            if error is None or isinstance(error, Interrupted | Preempted):
                left.append(job)
                continue
            code, message, retry_at = error.code, str(error), wait_until
        state.lfs_failed(
            job.mirror, job.oid,
            code=code, message=message[:500], known_missing=known, retry_at=retry_at, size=job.size, then=then,
        )  # fmt: skip
    if left:
        state.release_lfs(worker, left)
    if any(job.rank < TIP_RANK and job.oid in report.known_missing for job in jobs):
        # A ref waited for this; whether it may be published without is for a run to say.
        state.mark_due(jobs[0].mirror, Trigger.POLL)


def next_size(size: int, claimed: Sequence[int], *, tried: int = 0) -> tuple[int | None, bool]:
    """Return which size to try after ``size``, if pointers claim several, and whether each had its try by now.

    ``tried`` is how often tries of the object failed before.
    """
    if len(claimed) < 2:
        return None, True
    place = claimed.index(size) if size in claimed else -1
    return claimed[(place + 1) % len(claimed)], (tried + 1) % len(claimed) == 0
