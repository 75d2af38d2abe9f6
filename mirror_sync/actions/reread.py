"""Read LFS objects at rest again, a few each time, so that damage is found before it is needed."""

from __future__ import annotations

import threading

from mirror_sync.domain.names import LfsOid
from mirror_sync.errors import NotFound, StorageFailed
from mirror_sync.ports import Clock, ObjectStore, StateStore, Telemetry

SLOT_SECONDS = 3600.0
SLOTS = 720
"""Hours in thirty days: each hour has its share of the objects, by their oids."""


def reread_objects(
    *, state: StateStore, objects: ObjectStore, clock: Clock, telemetry: Telemetry, stop: threading.Event
) -> int:
    """Verify this hour's share of the LFS objects, set damaged ones aside to be fetched again; return how many."""
    slot = slot_at(clock.now())
    share = [pointer.oid for pointer, _ in objects.iterate() if slot_of(pointer.oid) == slot]
    damaged = 0
    for oid in share:
        if stop.is_set():
            break
        try:
            if objects.verify(oid, stop=stop):
                continue
        except NotFound:  # evicted since the share was taken
            continue
        except StorageFailed as error:
            telemetry.event("lfs_object_unreadable", level="error", oid=oid, why=str(error))
            continue
        # Told first: an object that is told of and not here would never be fetched again.
        state.lfs_lost([oid])
        objects.evict(oid, quarantine=True)
        telemetry.event("lfs_object_damaged", level="error", oid=oid)
        damaged += 1
    return damaged


def slot_at(now: float) -> int:
    """Return the slot of a moment (Unix seconds)."""
    return int(now // SLOT_SECONDS) % SLOTS


def slot_of(oid: LfsOid) -> int:
    """Return the slot in which an object is read."""
    return int(oid[:8], 16) % SLOTS
