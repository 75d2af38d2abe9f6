"""Poll, webhook, operator and waiting client all end here: they only say what is wanted sooner."""

from __future__ import annotations

from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.runs import Delivery, Mirror, Trigger
from mirror_sync.errors import Conflict
from mirror_sync.ports import StateStore, Waker


def request_sync(state: StateStore, waker: Waker, name: MirrorName) -> float:
    """Make a mirror due now for an operator and return the moment of the request (Unix seconds).

    Raises :class:`Conflict` for a mirror that is paused or being removed.
    """
    mirror = state.mirror(name)
    if mirror.removing_at is not None:
        raise Conflict(f"{name} is being removed", remedy=f"mirror-sync add {mirror.upstream}")
    if mirror.paused_at is not None:
        raise Conflict(f"{name} is paused", why=mirror.paused_reason, remedy=f"mirror-sync resume {name}")
    state.mark_due(mirror.id, Trigger.OPERATOR)
    waker.poke()
    return state.mirror(name).due_at


def accept_delivery(state: StateStore, waker: Waker, delivery: Delivery) -> bool:
    """Store a verified delivery and make what it concerns due; ``False`` when it was stored before."""
    fresh = state.accept_delivery(delivery)
    if fresh:
        waker.poke()
    return fresh


def ask_lfs(state: StateStore, waker: Waker, mirror: Mirror, oid: LfsOid, *, seconds: float) -> tuple[str, str] | None:
    """Note that a client waits for an LFS object for so many seconds more; return why it cannot be had, if so."""
    failure = state.ask_lfs(mirror.id, oid, seconds=seconds)
    if failure is None:
        waker.poke()
    return failure
