"""Bring one LFS object across, whatever the link and the server do meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mirror_sync.actions.batches import Batches, Granted
from mirror_sync.actions.course import Course
from mirror_sync.domain.names import printable
from mirror_sync.domain.parts import count, plan
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import (
    AddressRefused,
    Interrupted,
    MirrorSyncError,
    ObjectBusy,
    ObjectCorrupt,
    ObjectMissingUpstream,
    RateLimited,
    StorageFailed,
    StorageFull,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror_sync.ports import Incomplete, LfsAction, LfsBody, ObjectStore, Upstream

WHOLE_BYTES = 4 << 30
"""Up to this size an object is asked for in one request; larger ones in pieces.

Hugging Face answers 400 to a request for a whole file above 50 GB (xet-core#592) and serves its ranges.
"""

PIECE_BYTES = 1 << 30
PROGRESS_BYTES = 64 << 10
"""A try that brings less than this does not count as progress."""

GONE_ANSWERS = 2
"""A link may be gone because it expired; one gone twice, fresh both times, names an object that is not there."""

LIMITED_SECONDS = 60.0
MAX_TEXT = 300


class End(StrEnum):
    """What became of one object."""

    ARRIVED = "arrived"
    MISSING = "missing"
    FAILED = "failed"
    BUSY = "busy"
    LEFT = "left"
    """Not brought because the transfer ended before; nobody's fault."""


@dataclass(frozen=True, slots=True)
class Brought:
    """How bringing one object ended, with a code and a sentence unless it arrived."""

    end: End
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Bringer:
    """Brings objects of one transfer; safe for many threads at once.

    ``attempts`` tries in a row may pass without progress, ``wrong`` times may the bytes be wrong.
    """

    upstream: Upstream
    objects: ObjectStore
    batches: Batches
    course: Course
    attempts: int
    wrong: int

    def bring(self, pointer: Pointer) -> Brought:
        """Return how it ended; never raises one of our errors."""
        course = self.course
        try:
            course.go_on()
            with self.objects.incomplete(pointer) as incomplete:
                return self._bring(pointer, incomplete)
        except ObjectBusy as error:
            return Brought(End.BUSY, error.code, str(error))
        except (Interrupted, RateLimited) as error:
            course.halt(error)
            return Brought(End.LEFT)
        except (StorageFull, StorageFailed) as error:
            course.halt(error)
            return Brought(End.FAILED, error.code, str(error))
        except MirrorSyncError as error:
            return Brought(End.LEFT) if error is course.error else Brought(End.FAILED, error.code, str(error))

    def _bring(self, pointer: Pointer, incomplete: Incomplete) -> Brought:
        try:
            incomplete.reserve()
        except StorageFull as error:  # smaller ones may fit still
            self.course.short = error
            return Brought(End.FAILED, error.code, str(error))
        missing = count(incomplete.missing())
        self.course.found(pointer.size - missing)
        return _Fill(self, pointer, incomplete).run()


class _Fill:
    """The tries at one object whose incomplete we hold."""

    def __init__(self, bringer: Bringer, pointer: Pointer, incomplete: Incomplete) -> None:
        self._bringer = bringer
        self._course = bringer.course
        self._pointer = pointer
        self._incomplete = incomplete
        self._granted: Granted | None = None
        self._first = True
        self._failures = 0
        self._gone = 0
        self._wrong = 0

    def run(self) -> Brought:
        """Try until it is promoted, refused, or tried in vain too often."""
        while True:
            missing = self._incomplete.missing()
            before = count(missing)
            try:
                refused = self._stream(missing)
                if refused is not None:
                    return refused
                self._incomplete.promote()
                return Brought(End.ARRIVED)
            except (Interrupted, RateLimited, StorageFull, StorageFailed, AddressRefused):
                raise
            except MirrorSyncError as error:
                if error is self._course.error:
                    raise
                ended = self._failed(error, before=before)
            if ended is not None:
                return ended
            self._course.go_on()
            self._granted = None

    def _failed(self, error: MirrorSyncError, *, before: int) -> Brought | None:
        """Take note of a try that did not do; return the end when there is no point in another."""
        if isinstance(error, ObjectCorrupt):
            return self._corrupt(error)
        if isinstance(error, (ObjectMissingUpstream, UpstreamGone)):
            self._gone += 1
            if self._gone >= GONE_ANSWERS:
                return Brought(End.MISSING, "MS-L404", str(error))
        progress = before - count(self._incomplete.missing())
        if before and progress >= min(PROGRESS_BYTES, before):
            self._failures = 0
            self._course.wait(0)
            return None
        self._failures += 1
        if self._failures >= self._bringer.attempts:
            self._course.gave_up(error)
            return Brought(End.FAILED, error.code, str(error))
        self._course.wait(self._failures)
        return None

    def _corrupt(self, error: ObjectCorrupt) -> Brought | None:
        self._wrong += 1
        self._course.lost(self._pointer.size)
        self._course.telemetry.event(
            "lfs_object_corrupt",
            mirror=self._course.mirror,
            oid=self._pointer.oid,
            actual=error.actual,
            attempt=self._wrong,
        )
        if self._wrong < self._bringer.wrong:
            return None
        return Brought(
            End.FAILED, error.code, f"upstream sent wrong bytes {self._wrong} times: their SHA-256 is {error.actual}"
        )

    # -- one try

    def _stream(self, missing: list[tuple[int, int]]) -> Brought | None:
        """Fetch what is missing; return a refusal when upstream has no action for this object."""
        size = self._pointer.size
        for gap in missing:
            reached = gap[0]
            for start, end in plan([gap], piece=PIECE_BYTES if size > WHOLE_BYTES else size):
                if end <= reached:
                    continue
                action = self._action()
                if isinstance(action, Brought):
                    return action
                reached = self._read(action, start=max(start, reached), end=end, gap_end=gap[1])
        return None

    def _action(self) -> LfsAction | Brought:
        """Return an action with life in it, asking for a fresh one where needed."""
        if self._granted is None or self._granted.stale(self._course.clock.now()):
            batches = self._bringer.batches
            self._granted = batches.take(self._pointer) if self._first else batches.renew(self._pointer)
            self._first = False
        answer = self._granted.answer
        if answer.action is not None:
            return answer.action
        said = printable(answer.error_message)[:MAX_TEXT] or "no reason given"
        status = answer.error_code
        if status in (404, 410):
            return Brought(End.MISSING, f"MS-L{status}", f"upstream says it lacks this object: {said}")
        if status == 429:
            raise RateLimited(
                "upstream asked us to wait for LFS objects",
                until=self._course.clock.now() + LIMITED_SECONDS,
                why=said,
            )
        if status >= 500:
            raise UpstreamUnavailable("upstream's LFS server failed for this object", why=f"{status} {said}")
        return Brought(End.FAILED, "MS-L400", f"upstream's LFS server refuses this object: {status or ''} {said}")

    def _read(self, action: LfsAction, *, start: int, end: int, gap_end: int) -> int:
        """Ask for ``start`` to ``end``, keep what comes, and return how far it went; raises when it fell short."""
        body = self._bringer.upstream.open_object(self._pointer, action, start=start, end=end)
        try:
            if body.start > start:
                raise UpstreamInvalid(
                    "upstream's LFS server answered with another range",
                    why=f"asked from byte {start}, answered from {body.start}",
                )
            # A server that ignores the range sends the beginning again: pass over what is
            # here, and take what follows the piece too, since it is coming anyway.
            limit = end if body.start == start else gap_end
            at = self._keep(body, start=start, limit=limit)
        finally:
            body.close()
        if at < limit:
            raise UpstreamUnavailable("the stream ended early", why=f"at byte {at} of {limit}")
        return at

    def _keep(self, body: LfsBody, *, start: int, limit: int) -> int:
        position, at = body.start, start
        for chunk in body.chunks():
            self._course.check_stop()
            after = position + len(chunk)
            wanted = chunk
            if position < at or after > limit:
                wanted = chunk[max(0, at - position) : max(0, limit - position)]
            if wanted:
                self._incomplete.write(at, wanted)
                at += len(wanted)
            self._course.came(received=len(chunk), kept=len(wanted))
            position = after
            if position > limit:
                break  # more than was asked for; leaving it unread drops the connection
        return at
