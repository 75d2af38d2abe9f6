"""Remove what nothing needs: unreferenced LFS objects, stale incompletes, removed mirrors, old records."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.runs import Lease
from mirror_sync.ports import Clock, GitRepository, Keep, ObjectStore, StateStore, Telemetry

INCOMPLETE_GRACE_SECONDS = 7 * 86400.0
QUESTION_SIZE = 500


def sweep_objects(
    *, state: StateStore, objects: ObjectStore, clock: Clock, telemetry: Telemetry, grace: float, stop: threading.Event
) -> int:
    """Delete LFS objects that no mirror refers to and whose grace (seconds) is over; return how many.

    A reference is stored before the object is touched and looked for, and the object's
    grace is checked after the references: so an object that becomes wanted meanwhile
    either stays or is seen to be gone and fetched again.
    """
    before = clock.now() - grace
    candidates: list[LfsOid] = []
    removed = 0

    def settle() -> int:
        gone = 0
        unreferenced = sorted(state.lfs_unreferenced(candidates))
        # Told first: an object that is told of and not here would never be fetched again,
        # one that is here and not told of is found when it is wanted.
        state.lfs_lost(unreferenced)
        for oid in unreferenced:
            if objects.evict_stale(oid, older_than=before):
                gone += 1
        candidates.clear()
        return gone

    for pointer, touched_at in objects.iterate():
        if stop.is_set():
            return removed
        if touched_at < before:
            candidates.append(pointer.oid)
        if len(candidates) >= QUESTION_SIZE:
            removed += settle()
    removed += settle()
    swept = objects.sweep_incompletes(older_than=clock.now() - INCOMPLETE_GRACE_SECONDS)
    if removed or swept:
        telemetry.event("objects_swept", objects=removed, incompletes=swept)
    return removed


def remove_one(
    worker: str,
    *,
    state: StateStore,
    open_repository: Callable[[Lease], GitRepository],
    telemetry: Telemetry,
    keep: Keep,
    lease_seconds: float,
) -> bool:
    """Delete one mirror whose time of removal has come; ``False`` when there is none.

    Files go first and rows last, so that a kill in between only leaves it to be done again.
    """
    lease = state.claim_removal(worker, lease_seconds=lease_seconds)
    if lease is None:
        return False
    repository = open_repository(lease)
    with keep(lease), repository.lock():
        state.confirm(lease)
        repository.remove()
    state.forget(lease.mirror.id)
    telemetry.event("mirror_removed", mirror=lease.mirror.name)
    return True
