"""Keep a mirror's store in one well-packed piece, and let expired history go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from mirror_sync.domain.runs import KeptTip, Lease
from mirror_sync.errors import LeaseLost
from mirror_sync.ports import Clock, GitRepository, Keep, StateStore, Telemetry

PUBLISHES = 20
"""So many publishes since the last maintenance make a mirror worth repacking at once."""

QUIET_SECONDS = 6 * 3600.0
"""A mirror with fewer publishes is repacked when its last maintenance is so long ago."""

FULL_EVERY_SECONDS = 7 * 86400.0


def maintain_one(
    worker: str,
    *,
    state: StateStore,
    open_repository: Callable[[Lease], GitRepository],
    clock: Clock,
    telemetry: Telemetry,
    keep: Keep,
    lease_seconds: float,
) -> bool:
    """Maintain one mirror that needs it; ``False`` when none does."""
    now = clock.now()
    lease = state.claim_maintenance(
        worker, lease_seconds=lease_seconds, publishes=PUBLISHES, before=now - QUIET_SECONDS
    )
    if lease is None:
        return False
    with keep(lease) as stop:
        maintain(lease, state=state, repository=open_repository(lease), clock=clock, telemetry=telemetry, stop=stop)
    return True


def expire_kept(
    worker: str,
    *,
    state: StateStore,
    open_repository: Callable[[Lease], GitRepository],
    clock: Clock,
    telemetry: Telemetry,
    keep: Keep,
    lease_seconds: float,
    stop: threading.Event,
) -> int:
    """Drop kept tips whose time is over, with the objects only they needed; return how many mirrors changed."""
    changed = 0
    for mirror_id in state.expired_kept(now=clock.now()):
        if stop.is_set():
            break
        lease = state.claim_mirror(mirror_id, worker, lease_seconds=lease_seconds, purpose="maintenance")
        if lease is None:
            continue
        with keep(lease) as ended:
            maintain(
                lease, state=state, repository=open_repository(lease), clock=clock, telemetry=telemetry, stop=ended
            )
        changed += 1
    return changed


def maintain(
    lease: Lease,
    *,
    state: StateStore,
    repository: GitRepository,
    clock: Clock,
    telemetry: Telemetry,
    stop: threading.Event,
) -> None:
    """Repack one mirror under its lease; never disturbs clones, and a kill leaves a whole repository."""
    began = clock.monotonic()
    size: int | None = None
    done = False
    try:
        with repository.lock():
            repository.recover()
            now = clock.now()
            before = state.kept_tips(lease.mirror.id)
            kept = [tip for tip in before if tip.expires_at > now]
            repository.protect(kept)
            old = lease.mirror.maintained_at
            expired = len(kept) < len(before)
            full = old is None or expired or now - old > FULL_EVERY_SECONDS
            size = repository.maintain(full=full, stop=stop)
            done = not stop.is_set()
            if expired and done:
                trim_references(lease, kept, before, state=state, repository=repository)
            if expired and done:
                # Last: as long as they are told of, a run that is killed or stopped is done again.
                state.drop_kept(lease, expired_before=now)
    except LeaseLost:
        telemetry.event("maintenance_lost_lease", mirror=lease.mirror.name)
        return
    finally:
        state.release(lease, maintained=done, git_bytes=size)
    telemetry.event(
        "repository_maintained", mirror=lease.mirror.name, bytes=size, seconds=round(clock.monotonic() - began, 3)
    )


def trim_references(
    lease: Lease, kept: Sequence[KeptTip], before: Sequence[KeptTip], *, state: StateStore, repository: GitRepository
) -> None:
    """Forget LFS references that only expired tips had: those of ``before`` that are not in ``kept``.

    What held refs have staged was scanned too and is referred to as long as it is here.
    """
    tips = {*repository.published().snapshot.tips.values(), *(tip.oid for tip in kept)}
    staged = state.scanned_tips(lease.mirror.id) - {tip.oid for tip in before}
    tips |= staged - repository.missing(staged)
    blobs = frozenset(found.blob for found in repository.scan_pointers(sorted(tips), scanned=()))
    state.replace_references(lease, blobs)
    state.add_scan(lease, (), scanned=frozenset(tips))
