"""Transfer: bring wanted LFS objects across and say what became of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mirror_sync.actions.batches import Source
from mirror_sync.actions.board import Board, Hand, Rules
from mirror_sync.actions.bring import Bringer
from mirror_sync.actions.budget import Budget
from mirror_sync.actions.course import Course
from mirror_sync.actions.wanted import Brought, End
from mirror_sync.domain.names import LfsOid, MirrorName, RefName
from mirror_sync.domain.pointers import EMPTY_OID, Pointer
from mirror_sync.domain.progress import Progress
from mirror_sync.errors import Interrupted, MirrorSyncError, ObjectBusy, StorageFull
from mirror_sync.ports import Clock, ObjectStore, Parallel, Telemetry, Upstream

LOOK_SECONDS = 0.02
"""How often it is looked whether one more connection is worth it."""

EXTRA_HANDS = 2
"""Hands that may ask for actions or promote objects while every connection is in use."""


def never() -> bool:
    """Nobody waits."""
    return False


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How much at once, how often in vain."""

    connections: int = 8
    """Connections of one transfer at once."""
    batch: int = 100
    attempts: int = 5
    """Tries in a row without progress before an object, or a batch, is given up."""
    wrong: int = 3
    """Times an object's bytes may be wrong."""
    busy_seconds: float = 600.0
    """How long to wait for another run that is fetching the same object."""
    budget: Budget | None = None
    """The connections that all transfers of the process share; without it this one has its own."""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What became of the wanted objects, by oid; those in none of the three were not tried to the end.

    ``arrived`` are verified and here, whether they came now or before; where two pointers
    claimed different sizes of one, :meth:`ObjectStore.has` tells which of them was right.
    ``known_missing`` upstream itself says it lacks, with code and text; ``failed`` could
    not be had this time.  ``error`` is why the transfer stopped before its end or could
    not take everything: :class:`Interrupted`, :class:`RateLimited`, :class:`StorageFull`,
    what the LFS server as a
    whole answered, or :class:`Preempted`.
    """

    arrived: frozenset[LfsOid] = frozenset()
    known_missing: Mapping[LfsOid, tuple[str, str]] = field(default_factory=dict)
    failed: Mapping[LfsOid, tuple[str, str]] = field(default_factory=dict)
    bytes_fetched: int = 0
    error: MirrorSyncError | None = None


def transfer(
    wanted: Sequence[Pointer],
    *,
    mirror: MirrorName,
    sources: Sequence[Upstream],
    objects: ObjectStore,
    parallel: Parallel,
    clock: Clock,
    telemetry: Telemetry,
    limits: TransferLimits,
    stop: threading.Event,
    report: Callable[[Progress], None],
    yielding: Callable[[], bool] = never,
    ref: RefName | None = None,
) -> TransferReport:
    """Bring ``wanted`` across, small before large, and return what became of each.

    ``sources`` are the upstream and then nearer places of the same bytes, which are never
    believed about anything else.  Every object arrived is durable when this returns, and
    parts of the others stay for the next time.  ``report`` hears how far it is about once
    a second and at the end.  Ends soon, with :class:`Interrupted` in the report, once
    ``stop`` is set, and with :class:`Preempted` once ``yielding``, asked about once a
    second, says that others wait.  Raises only :class:`StorageFailed`, when the store
    cannot even be looked at.
    """
    ends: dict[Pointer, Brought] = {}
    todo: list[Pointer] = []
    for pointer in sorted(dict.fromkeys(wanted), key=lambda pointer: pointer.size):
        if objects.has(pointer):
            ends[pointer] = Brought(End.ARRIVED)
        elif (pointer.size == 0) != (pointer.oid == EMPTY_OID):
            ends[pointer] = Brought(End.FAILED, "MS-L422", f"no object of {pointer.size} bytes has this oid")
        else:
            todo.append(pointer)
    course = Course(
        mirror,
        clock=clock,
        telemetry=telemetry,
        stop=stop,
        total=sum(pointer.size for pointer in todo),
        items=len(todo),
        report=report,
        yielding=yielding,
    )
    carrier = _Carrier(sources, objects, parallel, course, limits, ref)
    for some in _one_size_at_a_time(todo, objects):
        arrived = _arrived(ends)
        still = [pointer for pointer in some if pointer.oid not in arrived]
        if still and course.open:
            ends.update(carrier.bring(still))
    if todo:
        course.tell()
    arrived = _arrived(ends)
    untried = {pointer.oid for pointer in todo if pointer not in ends} - arrived
    if untried and stop.is_set():
        course.halt(Interrupted())
    by_oid: dict[LfsOid, Brought] = {}
    for pointer, brought in ends.items():
        if pointer.oid not in arrived and pointer.oid not in untried:
            by_oid[pointer.oid] = _worse(by_oid.get(pointer.oid), brought)
    return TransferReport(
        arrived=arrived,
        known_missing=_texts(by_oid, End.MISSING),
        failed=_texts(by_oid, End.FAILED),
        bytes_fetched=course.fetched,
        error=course.error or (course.short if by_oid or untried else None),
    )


@dataclass(frozen=True, slots=True)
class _Carrier:
    """What brings objects across, each oid in one size at a time."""

    sources: Sequence[Upstream]
    objects: ObjectStore
    parallel: Parallel
    course: Course
    limits: TransferLimits
    ref: RefName | None

    def bring(self, todo: Sequence[Pointer]) -> list[tuple[Pointer, Brought]]:
        """Bring what is to be had, and return what became of each that was tried to the end."""
        course, limits, objects = self.course, self.limits, self.objects
        _warn_of_space(objects, course, sum(pointer.size for pointer in todo))
        rules = Rules(limits.batch, limits.attempts, limits.wrong, limits.busy_seconds, limits.connections)
        budget = limits.budget if limits.budget is not None else Budget(limits.connections, clock=course.clock)
        places = [Source(number, upstream) for number, upstream in enumerate(self.sources)]
        board = Board(todo, places, begun=objects.begun(), budget=budget, course=course, rules=rules)
        bringer = Bringer(board, objects, course, rules, self.ref)
        try:
            most = limits.connections + EXTRA_HANDS
            # One more than there ever are: else nobody would look after them while all are busy.
            for _, done in self.parallel.each(bringer.work, _hands(board, most), limit=most + 1):
                if isinstance(done, Exception):
                    raise done  # work turns every error of ours into an end
        finally:
            for left in board.unfinished():
                bringer.close(left)
            budget.leave(board.share)
        return board.ends


def _one_size_at_a_time(todo: Sequence[Pointer], objects: ObjectStore) -> list[list[Pointer]]:
    """Return what to bring and, of oids with several claimed sizes, what to bring after it should that be wrong.

    Of those, one of which parts are here comes first.
    """
    sizes: dict[LfsOid, list[Pointer]] = {}
    for pointer in todo:
        sizes.setdefault(pointer.oid, []).append(pointer)
    for pointers in sizes.values():
        if len(pointers) > 1:
            pointers.sort(key=lambda pointer: not _begun(pointer, objects))
    rounds = max((len(pointers) for pointers in sizes.values()), default=0)
    ordered = [[pointers[at] for pointers in sizes.values() if at < len(pointers)] for at in range(rounds)]
    return [sorted(some, key=lambda pointer: pointer.size) for some in ordered]


def _begun(pointer: Pointer, objects: ObjectStore) -> bool:
    try:
        with objects.incomplete(pointer) as incomplete:
            return incomplete.missing() != [(0, pointer.size)]
    except ObjectBusy:
        return False


def _arrived(ends: Mapping[Pointer, Brought]) -> frozenset[LfsOid]:
    return frozenset(pointer.oid for pointer, brought in ends.items() if brought.end is End.ARRIVED)


def _worse(one: Brought | None, other: Brought) -> Brought:
    """Return what became of an oid that did not arrive, though it was tried in several claimed sizes.

    Upstream lacks it only where it lacks all of them: all but one are no object's.
    """
    return other if one is None or one.end is End.MISSING else one


def _hands(board: Board, most: int) -> Iterator[Hand]:
    """Yield a hand whenever there is something for one more to do, at most ``most`` at once, until nothing is left."""
    course = board.course
    while True:
        course.tick()
        hand = Hand()
        with board.changed:
            if board.crashed:
                return
            if board.running < most:
                hand.task = board.next(hand)
            if hand.task is not None:
                board.running += 1
            elif board.running:
                board.free(hand)
                board.watch()
                board.changed.wait(LOOK_SECONDS)
                continue
        if hand.task is not None:
            yield hand
            continue
        board.free(hand)
        seconds = board.pause()
        if seconds is None:
            return
        course.pause(seconds)


def _texts(ends: Mapping[LfsOid, Brought], end: End) -> dict[LfsOid, tuple[str, str]]:
    return {oid: (brought.code, brought.message) for oid, brought in ends.items() if brought.end is end}


def _warn_of_space(objects: ObjectStore, course: Course, total: int) -> None:
    try:
        objects.reserve(total)
    except StorageFull as error:
        # No reason to refuse what fits: each object asks for its own space before its first byte.
        course.telemetry.event("lfs_space_short", mirror=course.mirror, wanted_bytes=total, why=str(error))
