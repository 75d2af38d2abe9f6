"""LFS objects that clients wait for: brought at once, whatever else stands in the queue."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from mirror_sync.actions.history import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, OpenSources, next_size
from mirror_sync.actions.transfer import TransferLimits, TransferReport, transfer
from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import LfsJob, MirrorId
from mirror_sync.errors import Interrupted, ObjectBusy, Preempted, RateLimited, StateUnavailable
from mirror_sync.ports import Clock, ObjectStore, Parallel, StateStore, Telemetry

BATCH = 100
FAILED_SECONDS = 60.0
"""For so long an object that could not be had is not tried again for those who ask."""

LOOK_SECONDS = 2.0


class InHand:
    """What this process is bringing for clients, so that its lanes take different objects.

    Between processes the object's own lock decides: whoever comes second waits for the first.
    """

    def __init__(self) -> None:
        self._held: set[tuple[MirrorId, LfsOid]] = set()
        self._guard = threading.Lock()

    def take(self, jobs: Sequence[LfsJob]) -> list[LfsJob]:
        """Return the first of ``jobs`` that nobody has, with others of its mirror."""
        with self._guard:
            free = [job for job in jobs if (job.mirror, job.oid) not in self._held]
            taken = [job for job in free if job.mirror == free[0].mirror][:BATCH]
            self._held.update((job.mirror, job.oid) for job in taken)
            return taken

    def leave(self, jobs: Sequence[LfsJob]) -> None:
        """Let others have them."""
        with self._guard:
            self._held.difference_update((job.mirror, job.oid) for job in jobs)


def fetch_asked(
    *,
    state: StateStore,
    in_hand: InHand,
    open_sources: OpenSources,
    objects: ObjectStore,
    parallel: Parallel,
    clock: Clock,
    telemetry: Telemetry,
    limits: TransferLimits,
    stop: threading.Event,
) -> int:
    """Fetch what clients of one mirror wait for and return how many objects were tried; 0 when nobody waits.

    An object that a run or the queue has claimed is taken all the same: only whoever
    holds its incomplete writes.  Ends early when nobody waits any more; parts stay.
    """
    jobs = in_hand.take(state.lfs_asked())
    if not jobs:
        return 0
    try:
        mirror = state.mirror_by_id(jobs[0].mirror)
        waiting = _Waiting(jobs, state=state, clock=clock)
        sources = open_sources(mirror, awaited=True)
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
                report=_nobody,
                yielding=waiting.is_over,
            )
        finally:
            for source in sources:
                source.close()
        _record(jobs, report, state=state, now=clock.now())
        telemetry.event(
            "lfs_fetched_on_request", mirror=mirror.name, objects=len(jobs), arrived=len(report.arrived),
            bytes=report.bytes_fetched, why="" if report.error is None else str(report.error),
        )  # fmt: skip
    finally:
        in_hand.leave(jobs)
    return len(jobs)


def _nobody(_progress: Progress) -> None:
    """What a mirror's page shows is how far its own queue is."""


class _Waiting:
    """Whether anybody still waits for any of these objects."""

    def __init__(self, jobs: Sequence[LfsJob], *, state: StateStore, clock: Clock) -> None:
        self._oids = {(job.mirror, job.oid) for job in jobs}
        self._state = state
        self._clock = clock
        self._looked_at = clock.monotonic()

    def is_over(self) -> bool:
        """Tell whether nobody does; asked about once a second as long as the transfer lasts."""
        now = self._clock.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        with contextlib.suppress(StateUnavailable):  # then they may well be waiting
            return not any((job.mirror, job.oid) in self._oids for job in self._state.lfs_asked())
        return False


def _record(jobs: Sequence[LfsJob], report: TransferReport, *, state: StateStore, now: float) -> None:
    """Tell the queue what became of each object, and those who wait why one cannot be had."""
    if report.arrived:
        sizes = {job.oid: job.size for job in jobs if job.oid in report.arrived}
        state.lfs_arrived(sorted(report.arrived), sizes=sizes)
    error = report.error
    failed = {**report.known_missing, **report.failed}
    claimed = state.lfs_sizes(jobs[0].mirror, sorted(failed)) if failed else {}
    for job in jobs:
        if job.oid in report.arrived:
            continue
        code, message = failed.get(job.oid, ("", ""))
        until = now + FAILED_SECONDS
        if code and code != ObjectBusy.code:
            then, last = next_size(job.size, claimed.get(job.oid, ()), tried=job.attempts)
            retry_at = now + min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(job.attempts, 10))
            known = last and job.oid in report.known_missing
            state.lfs_failed(
                job.mirror, job.oid, code=code, message=message[:500], known_missing=known,
                retry_at=retry_at if last else now, size=job.size, then=then,
            )  # fmt: skip
            if not last:  # another pointer of this object may be the true one: it is tried at once
                continue
        elif not code:
            if error is None or isinstance(error, Interrupted | Preempted):
                continue  # whoever still waits is still noted as waiting
            code, message = error.code, str(error)
            if isinstance(error, RateLimited):
                until = max(until, error.until)
        state.lfs_ask_failed(job.mirror, job.oid, code=code, message=message[:500], until=until)
