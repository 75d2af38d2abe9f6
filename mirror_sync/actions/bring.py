"""Bring LFS objects across, whatever the link and the servers do meanwhile."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mirror_sync.actions.board import RANGE_REFUSED, Ask, Begin, Board, Hand, Look, Promote, Rules, Task
from mirror_sync.actions.budget import Advice
from mirror_sync.actions.course import Course
from mirror_sync.actions.wanted import Brought, End, Leg, Replaced, Wanted
from mirror_sync.domain.names import RefName
from mirror_sync.domain.parts import Part, count, merge, subtract
from mirror_sync.errors import (
    Interrupted,
    MirrorSyncError,
    ObjectBusy,
    ObjectCorrupt,
    StorageFailed,
    StorageFull,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror_sync.ports import LfsBody, ObjectStore

TOGETHER_BYTES = 4 << 20
"""Objects up to this size are promoted together with others."""

BLOCK = 4 << 10
"""Wrong bytes cost as much as this to be asked for again, however much came with them."""

PASS_OVER_BYTES = 1 << 20
"""So much of what is here already may come again before another answer is tried."""


@dataclass(frozen=True, slots=True)
class Bringer:
    """Does what the board says; safe for many hands at once."""

    board: Board
    objects: ObjectStore
    course: Course
    rules: Rules
    ref: RefName | None

    def work(self, hand: Hand) -> None:
        """Do one thing after another until there is nothing for this hand."""
        board = self.board
        try:
            task = hand.task
            while task is not None:
                self._do(task, hand)
                task = board.next(hand)
        except BaseException:
            board.crashed = True
            raise
        finally:
            with board.changed:
                board.free(hand)
                board.running -= 1
                board.changed.notify_all()

    def _do(self, task: Task, hand: Hand) -> None:
        if isinstance(task, Ask):
            self._ask(task)
        elif isinstance(task, Look):
            self._look(task.wanted)
        elif isinstance(task, Begin):
            self._begin(task.wanted, hand)
        elif isinstance(task, Promote):
            self._promote(task.group)
        else:
            self._fetch(task)

    # -- asking

    def _ask(self, ask: Ask) -> None:
        asked_at = self.course.clock.now()
        try:
            answers = ask.source.upstream.batch([wanted.pointer for wanted in ask.group], ref=self.ref)
        except MirrorSyncError as error:
            self.board.unanswered(ask, error)
        else:
            self.board.answered(ask, answers, asked_at=asked_at)
        self._close_ended(ask.group)

    # -- one object

    def _begin(self, wanted: Wanted, hand: Hand) -> None:
        gaps = self._hold(wanted)
        if gaps is None:
            return
        self.course.found(wanted.size - count(gaps))
        self.board.opened(wanted, gaps)
        if not gaps:
            self._check_whole(wanted)
            return
        leg = self.board.part_of(wanted, hand)
        if leg is not None:
            self._fetch(leg)

    def _check_whole(self, wanted: Wanted) -> None:
        if self.board.whole(wanted):
            self._check(wanted)

    def _look(self, wanted: Wanted) -> None:
        gaps = self._hold(wanted)
        if gaps == []:
            self.course.found(wanted.size)
            self.board.opened(wanted, gaps)
            self._check_whole(wanted)
        elif gaps is not None:
            self.close(wanted)
            self.board.looked(wanted)

    def _hold(self, wanted: Wanted) -> list[Part] | None:
        """Take hold of an object and return what is missing; ``None`` when it cannot be held, which is noted."""
        holder = self.objects.incomplete(wanted.pointer)
        try:
            incomplete = holder.__enter__()
        except ObjectBusy as error:
            self.board.busy(wanted, error.code)
            return None
        except MirrorSyncError as error:
            self._storage_failed(wanted, error)
            return None
        wanted.holder, wanted.incomplete = holder, incomplete
        try:
            incomplete.reserve()
            return incomplete.missing()
        except StorageFull as error:  # smaller ones may fit still
            self.course.short = error
            self._end(wanted, Brought(End.FAILED, error.code, str(error)))
        except MirrorSyncError as error:
            self._storage_failed(wanted, error)
        return None

    def _storage_failed(self, wanted: Wanted, error: MirrorSyncError) -> None:
        if isinstance(error, (StorageFull, StorageFailed)):
            self.course.halt(error)
        self._end(wanted, Brought(End.FAILED, error.code, str(error)))

    def _end(self, wanted: Wanted, brought: Brought) -> None:
        self.board.end(wanted, brought)
        self.close(wanted)

    def close(self, wanted: Wanted) -> None:
        """Let go of an object's incomplete."""
        with self.board.changed:
            holder, wanted.holder = wanted.holder, None
        if holder is not None:
            try:
                holder.__exit__(None, None, None)
            except MirrorSyncError as error:
                self.course.halt(error)

    def _close_ended(self, group: Sequence[Wanted]) -> None:
        for wanted in group:
            if self.board.over(wanted):
                self.close(wanted)

    # -- one part

    def _fetch(self, leg: Leg) -> None:
        wanted, board = leg.wanted, self.board
        broken: MirrorSyncError | None = None
        try:
            self._stream(leg)
        except MirrorSyncError as error:
            broken = error
        complete = board.read(leg) if broken is None else board.failed(leg, broken)
        if complete:
            self._check(wanted)
        elif board.over(wanted):
            self.close(wanted)

    def _stream(self, leg: Leg) -> None:
        wanted, course = leg.wanted, self.course
        action = leg.granted.answer.action
        assert action is not None
        span = self.board.span(leg)
        if span is None:
            return
        course.opened(leg.place.host)
        try:
            body = leg.source.upstream.open_object(wanted.pointer, action, start=span[0], end=span[1])
            try:
                self.board.reading(leg, body)
                self._keep(leg, body)
            finally:
                self.board.reading(leg, None)
                body.close()
        finally:
            course.closed(leg.place.host)

    def _keep(self, leg: Leg, body: LfsBody) -> None:
        """Write what comes, as far as it is this leg's; raises when it falls short."""
        course, board = self.course, self.board
        if body.start > leg.start:
            raise UpstreamInvalid(
                "upstream's LFS server answered with another range",
                why=f"asked from byte {leg.start}, answered from {body.start}",
                code=RANGE_REFUSED,
            )
        if body.start < leg.start:
            # A server that ignores the range sends the beginning again: pass over what is
            # here, unless somebody else is fetching the rest, and take what follows too.
            if leg.start - body.start > PASS_OVER_BYTES and not board.alone(leg):
                raise UpstreamInvalid("upstream's LFS server ignored the range asked for", code=RANGE_REFUSED)
            board.ignored(leg, before=True)
        position, first = body.start, True
        for chunk in body.chunks():
            if course.over:
                raise Interrupted
            if first:
                leg.source.answered(course.clock.monotonic() - leg.began_at)
                first = False
            take = self._take(leg, chunk, position)
            position += len(chunk)
            advice = board.budget.came(leg.place, len(chunk))
            if advice is Advice.MORE:
                board.rouse()
            elif advice is Advice.LEAVE:
                board.shorten(leg)
            course.came(received=len(chunk), kept=0 if leg.compares else take)
            if position > leg.end or (position >= leg.end and leg.end < leg.asked_end):
                break  # the rest is somebody else's; leaving it unread drops the connection
        if board.budget.came(leg.place, 0, answers=1) is Advice.MORE:
            board.rouse()
        if leg.left:
            raise UpstreamUnavailable("the stream ended early", why=f"at byte {leg.at} of {leg.end}")

    def _take(self, leg: Leg, chunk: bytes, position: int) -> int:
        """Write what of a chunk, whose first byte is the one at ``position``, is this leg's; return how much."""
        board, incomplete, at = self.board, leg.wanted.incomplete, leg.at
        assert incomplete is not None
        if position + len(chunk) > leg.asked_end == leg.end:
            board.ignored(leg, before=leg.start == 0)
        skip = max(0, min(len(chunk), at - position))
        take = board.claim(leg, len(chunk) - skip)
        if take:
            data = chunk if take == len(chunk) else chunk[skip : skip + take]
            try:
                if leg.compares:
                    self._compare(leg, at, data)
                else:
                    incomplete.write(at, data, source=leg.source.host)
            finally:
                board.wrote(leg)
        return take

    # -- wrong bytes

    def _compare(self, leg: Leg, at: int, data: bytes) -> None:
        """Compare what came now with what is here; what differs is taken, and disputed unless the upstream's word holds."""
        incomplete = leg.wanted.incomplete
        assert incomplete is not None
        here, end = incomplete.read(at, at + len(data)), at + len(data)
        if here == data:
            incomplete.agree(at, end)
            self.board.compared(leg, agreed=len(data), disputed=[], replaced=[])
            return
        differing = _differing(here, data, at)
        same = subtract((at, end), differing)
        for part in same:
            incomplete.agree(*part)
        agreed = incomplete.agreed()
        open_still = [part for whole in differing for part in subtract(whole, agreed)]
        origins = incomplete.origins()
        disputed: list[Part] = []
        replaced: list[Replaced] = []
        for start, stop in open_still:
            whose = next((source for _, last, source in origins if start < last), "")
            old, new = here[start - at : stop - at], data[start - at : stop - at]
            incomplete.write(start, new, source=leg.source.host)
            if leg.source.first and whose != leg.source.host:
                replaced.append(Replaced(start, stop, _digest(old), whose))
            elif self.board.came_before(leg, (start, stop), old=_digest(old), new=_digest(new)):
                incomplete.agree(start, stop)
                same.append((start, stop))
            else:
                disputed.append((start, stop))
        self.board.compared(leg, agreed=count(same), disputed=disputed, replaced=replaced)

    def _blame(self, wanted: Wanted) -> None:
        """Note who had sent other bytes than those that turned out right."""
        incomplete = wanted.incomplete
        assert incomplete is not None
        for piece in wanted.replaced:
            if _digest(incomplete.read(piece.start, piece.end)) != piece.digest:
                wanted.blamed.add(piece.host)

    # -- the end

    def _check(self, wanted: Wanted) -> None:
        """Verify a complete object, and promote it or let it wait for others."""
        incomplete = wanted.incomplete
        assert incomplete is not None
        if not self.board.in_one_piece(wanted) and self.board.disputes(wanted):
            return  # it would be read for nothing
        try:
            incomplete.verify()
            self._blame(wanted)
            if wanted.size <= TOGETHER_BYTES:
                self.board.ready(wanted)
                return
            incomplete.promote()
        except ObjectCorrupt as error:
            self._corrupt(wanted, error)
        except MirrorSyncError as error:
            self._storage_failed(wanted, error)
        else:
            self._arrived(wanted)

    def _arrived(self, wanted: Wanted) -> None:
        self._end(wanted, Brought(End.ARRIVED))
        if wanted.blamed:
            self.board.arrived(wanted)

    def _promote(self, group: Sequence[Wanted]) -> None:
        incompletes = [wanted.incomplete for wanted in group if wanted.incomplete is not None]
        try:
            self.objects.promote(incompletes)
        except MirrorSyncError as error:
            for wanted in group:
                self._storage_failed(wanted, error)
            return
        for wanted in group:
            self._arrived(wanted)

    def _corrupt(self, wanted: Wanted, error: ObjectCorrupt) -> None:
        """Fetch again what is wrong, or give up when that is what the upstream has."""
        incomplete = wanted.incomplete
        assert incomplete is not None
        if wanted.doubt is None or not wanted.doubt.rest:  # else it was only looked in between
            wanted.wrong_times += 1
            self.course.telemetry.event(
                "lfs_object_corrupt",
                mirror=self.course.mirror,
                oid=wanted.pointer.oid,
                actual=error.actual,
                attempt=wanted.wrong_times,
            )
        try:
            if self.board.doubt(wanted, incomplete.origins(), incomplete.agreed()):
                return
            steady = not subtract((0, wanted.size), incomplete.agreed())
            incomplete.restart()
        except MirrorSyncError as failure:
            self._storage_failed(wanted, failure)
            return
        self.course.lost(wanted.size)
        how = "the same each time: their" if steady else "other ones each time: the last"
        said = Brought(End.FAILED, error.code, f"upstream sends wrong bytes, {how} SHA-256 is {error.actual}")
        if not self.board.without_upstream(wanted, said):
            self._end(wanted, said)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _differing(here: bytes, data: bytes, at: int) -> list[Part]:
    """Return the blocks in which ``data``, whose first byte is the one at ``at``, is not what is ``here``."""
    end = at + len(data)
    edges = [at, *range(at - at % BLOCK + BLOCK, end, BLOCK), end]
    return merge(
        (start, stop)
        for start, stop in itertools.pairwise(edges)
        if here[start - at : stop - at] != data[start - at : stop - at]
    )
