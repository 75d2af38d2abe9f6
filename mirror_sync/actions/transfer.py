"""Transfer: bring wanted LFS objects across and say what became of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mirror_sync.actions.batches import Batches
from mirror_sync.actions.bring import Bringer, Brought, End
from mirror_sync.actions.course import Course
from mirror_sync.domain.names import LfsOid, MirrorName, RefName
from mirror_sync.domain.pointers import EMPTY_OID, Pointer
from mirror_sync.errors import Interrupted, MirrorSyncError, StorageFull
from mirror_sync.ports import Clock, ObjectStore, Parallel, Telemetry, Upstream

BUSY_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How much at once, how large, how often in vain."""

    connections: int = 8
    """Objects under way at once."""
    max_object_bytes: int | None = None
    batch: int = 100
    attempts: int = 5
    """Tries in a row without progress before an object, or a batch, is given up."""
    wrong: int = 3
    """Times an object's bytes may be wrong."""
    busy_seconds: float = 600.0
    """How long to wait for another run that is fetching the same object."""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What became of the wanted objects, by oid; those in none of the three were not tried to the end.

    ``arrived`` are verified and here, whether they came now or before.
    ``known_missing`` upstream itself says it lacks, with code and text; ``failed`` could
    not be had this time.  ``error`` is why the transfer stopped before its end or could
    not take everything: :class:`Interrupted`, :class:`RateLimited`, :class:`StorageFull`,
    or what the LFS server as a whole answered.
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
    upstream: Upstream,
    objects: ObjectStore,
    parallel: Parallel,
    clock: Clock,
    telemetry: Telemetry,
    limits: TransferLimits,
    stop: threading.Event,
    ref: RefName | None = None,
) -> TransferReport:
    """Bring ``wanted`` across, small before large, several at once, and return what became of each.

    Every promoted object is durable when this returns, and parts of the others stay for
    the next time.  Ends soon, with :class:`Interrupted` in the report, once ``stop`` is set.
    Raises only :class:`StorageFailed`, when the store cannot even be looked at.
    """
    ends: dict[LfsOid, Brought] = {}
    todo: list[Pointer] = []
    for pointer in sorted(dict.fromkeys(wanted), key=lambda pointer: pointer.size):
        if objects.has(pointer):
            ends[pointer.oid] = Brought(End.ARRIVED)
        elif (pointer.size == 0) != (pointer.oid == EMPTY_OID):
            _file(ends, pointer, Brought(End.FAILED, "MS-L422", f"no object of {pointer.size} bytes has this oid"))
        elif limits.max_object_bytes is not None and pointer.size > limits.max_object_bytes:
            _file(ends, pointer, _too_large(pointer, limits.max_object_bytes))
        else:
            todo.append(pointer)
    total = sum(pointer.size for pointer in todo)
    course = Course(mirror, clock=clock, telemetry=telemetry, stop=stop, total=total)
    if todo:
        _warn_of_space(objects, course, total)
        _in_rounds(
            todo, ends, upstream=upstream, objects=objects, parallel=parallel, course=course, limits=limits, ref=ref
        )
        course.tell()
        if stop.is_set() and any(pointer.oid not in ends for pointer in todo):
            course.halt(Interrupted())
    return TransferReport(
        arrived=frozenset(oid for oid, brought in ends.items() if brought.end is End.ARRIVED),
        known_missing=_texts(ends, End.MISSING),
        failed=_texts(ends, End.FAILED),
        bytes_fetched=course.fetched,
        error=course.error or course.short,
    )


def _in_rounds(
    todo: list[Pointer],
    ends: dict[LfsOid, Brought],
    *,
    upstream: Upstream,
    objects: ObjectStore,
    parallel: Parallel,
    course: Course,
    limits: TransferLimits,
    ref: RefName | None,
) -> None:
    """Bring everything once; then come back to what another run was fetching, until that has ended."""
    busy_since: float | None = None
    while todo and course.open:
        batches = Batches(todo, upstream=upstream, course=course, size=limits.batch, attempts=limits.attempts, ref=ref)
        bringer = Bringer(upstream, objects, batches, course, attempts=limits.attempts, wrong=limits.wrong)
        busy: list[Pointer] = []
        for pointer, brought in parallel.each(bringer.bring, _while_open(todo, course), limit=limits.connections):
            if isinstance(brought, Exception):
                raise brought  # bring turns every error of ours into an end
            if brought.end is End.BUSY:
                busy.append(pointer)
            else:
                _file(ends, pointer, brought)
        todo = busy
        if todo:
            busy_since = course.clock.monotonic() if busy_since is None else busy_since
            if course.clock.monotonic() - busy_since >= limits.busy_seconds:
                for pointer in todo:
                    _file(ends, pointer, _still_busy(limits.busy_seconds))
                return
            try:
                course.pause(BUSY_POLL_SECONDS)
            except Interrupted as error:
                course.halt(error)


def _while_open(todo: Sequence[Pointer], course: Course) -> Iterator[Pointer]:
    for pointer in todo:
        if not course.open:
            return
        yield pointer


def _file(ends: dict[LfsOid, Brought], pointer: Pointer, brought: Brought) -> None:
    # Two pointers may claim different sizes for one oid. One of them is wrong, and the
    # true one decides.
    known = ends.get(pointer.oid)
    if brought.end is not End.LEFT and (known is None or known.end is not End.ARRIVED):
        ends[pointer.oid] = brought


def _texts(ends: Mapping[LfsOid, Brought], end: End) -> dict[LfsOid, tuple[str, str]]:
    return {oid: (brought.code, brought.message) for oid, brought in ends.items() if brought.end is end}


def _too_large(pointer: Pointer, limit: int) -> Brought:
    return Brought(End.FAILED, "MS-L413", f"{pointer.size} bytes are more than lfs.max_object allows ({limit})")


def _still_busy(seconds: float) -> Brought:
    return Brought(End.FAILED, "MS-L409", f"another run has been fetching this object for more than {seconds:.0f} s")


def _warn_of_space(objects: ObjectStore, course: Course, total: int) -> None:
    try:
        objects.reserve(total)
    except StorageFull as error:
        # No reason to refuse what fits: each object asks for its own space before its first byte.
        course.telemetry.event("lfs_space_short", mirror=course.mirror, wanted_bytes=total, why=str(error))
