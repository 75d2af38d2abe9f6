"""What the next free connection does: everything that is decided while LFS objects are on their way."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mirror_sync.actions.batches import LIMITED_SECONDS, SETTLED, Granted, Source
from mirror_sync.actions.budget import Budget, Place, Share
from mirror_sync.actions.course import Course
from mirror_sync.actions.wanted import Brought, Doubt, End, Leg, Replaced, State, Wanted
from mirror_sync.domain.names import LfsOid, printable
from mirror_sync.domain.parts import Part, add, count, merge, remove, subtract
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import (
    AddressRefused,
    Interrupted,
    MirrorSyncError,
    ObjectCorrupt,
    ObjectMissingUpstream,
    Preempted,
    RateLimited,
    StorageFailed,
    StorageFull,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import LfsAnswer, LfsBody

WHOLE_BYTES = 16 << 20
"""Up to this size an object is begun with one request for all of it."""

FIRST_PART = 16 << 20
"""The length of a part while nobody knows how fast the source is."""

LEAST_PART = 1 << 20
MOST_PART = 512 << 20
"""No request is for more: Hugging Face answers 400 to one for a whole file above 50 GB (xet-core#592)."""

PART_SECONDS = 6.0
SPLIT_SECONDS = 0.5
"""A range that takes longer than this to its end is shared with a connection that has nothing else to do."""

SILENT_SECONDS = 3.0
"""A connection that has brought nothing for so long loses its range to one that has nothing else to do."""

DEAD_SECONDS = 10.0
"""One that has brought nothing for so long is broken off and made anew."""

PROGRESS_BYTES = 64 << 10
"""A try that brings less than this does not count as progress."""

GONE_ANSWERS = 2
"""A link may be gone because it expired; one gone twice, fresh both times, names an object that is not there."""

MOST_FAILING = 4
"""With so many objects waiting to be tried again no other is begun: the server may be down."""

MOST_RENEWING = 2
"""So many batches of objects may wait to be asked for again before new ones are asked for."""

STRANGE_ANSWERS = 2
"""After so many answers to ranges that were none, the whole object is asked for."""

RANGE_REFUSED = "MS-L416"
PATIENCE_SECONDS = 30.0
"""A host that wants to be left alone for longer than this ends the transfer when nothing else can go on."""

WAITING_SECONDS = 120.0
"""A source that has only asked for one more moment for so long is done without."""

WAVE = 64
WAVE_SECONDS = 0.25
"""So many small objects, or those of so long, are promoted together."""

VAIN_BYTES = 16 << 20
VAIN_LOOKS = 16
"""An object of which so much was asked for again, or so often, and never came the same twice, is given up."""

MOST_REPLACED = 1024
"""So many pieces that a nearer place had sent otherwise are remembered to its charge."""

BUSY_POLL_SECONDS = 1.0
PLACE_POLL_SECONDS = 0.05
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask ``source`` for download actions."""

    source: Source
    group: Sequence[Wanted]


@dataclass(frozen=True, slots=True)
class Begin:
    """Take hold of an object, and fetch its first part from ``source``."""

    wanted: Wanted
    source: Source


@dataclass(frozen=True, slots=True)
class Look:
    """Look whether all of an object is here already."""

    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Promote:
    """Promote these verified objects."""

    group: Sequence[Wanted]


Task = Ask | Begin | Leg | Look | Promote


@dataclass(eq=False, slots=True)
class Hand:
    """One thread at work, and the connection it has leave to use."""

    task: Task | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How much at once, and how often in vain."""

    batch: int
    attempts: int
    wrong: int
    busy_seconds: float
    connections: int


class Board:
    """Every object of one transfer and what is to be done next; safe for many threads at once."""

    def __init__(
        self,
        todo: Sequence[Pointer],
        sources: Sequence[Source],
        *,
        begun: Collection[LfsOid],
        budget: Budget,
        course: Course,
        rules: Rules,
    ) -> None:
        self.course = course
        self.budget = budget
        self.share: Share = budget.join()
        self.changed = threading.Condition()
        self.running = 0
        """Hands at work."""
        self.crashed = False
        self.ends: list[tuple[Pointer, Brought]] = []
        self._sources = sources
        self._rules = rules
        self._order = [Wanted(pointer, place) for place, pointer in enumerate(todo)]
        self._left = len(self._order)
        for source in sources:
            if not source.first and budget.distrusts(source.host):
                source.dead = UpstreamInvalid(f"{source.host} sent wrong bytes a while ago")
        self._looks = deque(wanted for wanted in self._order if not wanted.size or wanted.pointer.oid in begun)
        self._begun: list[tuple[int, Wanted]] = []
        """A heap of objects that may begin, first in order first."""
        self._later: list[tuple[float, int, Wanted]] = []
        """A heap of objects that may begin again at some moment."""
        self._open: list[Wanted] = []
        self._renewing: dict[int, list[Wanted]] = {source.number: [] for source in sources}
        self._reading: set[Leg] = set()
        self._ready: list[Wanted] = []
        self._ready_since = 0.0

    # -- what to do next

    def next(self, hand: Hand) -> Task | None:
        """Return what this hand does next, ``None`` when there is nothing for it."""
        with self.changed:
            if self.crashed:
                return None
            if hand.place is not None and not self.budget.keep(hand.place):
                self.free(hand)
            now = self.course.clock.monotonic()
            if len(self._ready) >= WAVE or (self._ready and now - self._ready_since >= WAVE_SECONDS):
                return self._promote()
            task: Task | None = None
            if not self.course.over:
                task = (
                    self._look()
                    or self._ask(now)
                    or self._part(hand)
                    or self._begin(hand, now)
                    or self._split(hand, now)
                )
            if task is None and self._ready and self.running <= (hand.task is not None):
                return self._promote()  # nobody is about to add to them
            return task

    def reading(self, leg: Leg, body: LfsBody | None) -> None:
        """Take note of what a leg reads from, so that it need not wait for silence to end; ``None`` when it has done."""
        with self.changed:
            leg.body = body
            self._reading.discard(leg)
            if body is not None:
                self._reading.add(leg)
                if self.course.over:
                    body.abandon()

    def watch(self) -> None:
        """Break off connections that bring nothing any more, and all of them when everything is to end."""
        with self.changed:
            over, now = self.course.over, self.course.clock.monotonic()
            for leg in self._reading:
                if leg.body is not None and not leg.writing and (over or leg.silent(now, DEAD_SECONDS)):
                    leg.last_at = now
                    leg.body.abandon()

    def rouse(self) -> None:
        """Let it be looked at once whether there is something for one more hand."""
        with self.changed:
            self.changed.notify_all()

    def free(self, hand: Hand) -> None:
        """Give the hand's connection back."""
        if hand.place is not None:
            self.budget.give_back(hand.place)
            hand.place = None

    @property
    def finished(self) -> bool:
        """Whether every object has ended."""
        return self._left == 0

    def pause(self) -> float | None:
        """Return how many seconds nothing can be done; ``None`` when nothing can be done any more."""
        with self.changed:
            if not self.course.open or self._left == 0:
                return None
            clock = self.course.clock
            now, wall = clock.monotonic(), clock.now()
            live = [source for source in self._sources if source.dead is None]
            waits = [at - now for at, _, _ in self._later]
            waits += [wanted.begins_at() - now for wanted in self._open]
            waits += [
                wanted.retry_at.get(source.number, 0.0) - now
                for source in live
                for wanted in self._renewing[source.number]
            ]
            waits += [source.retry_at - now for source in live]
            waits = [wait for wait in waits if wait > 0]
            rests = [(self._rests_until(source) - wall, source.number, source) for source in live]
            rests = [rest for rest in rests if rest[0] > 0]
            if len(rests) < len(live) and not waits and (self._begun or any(wanted.gaps for wanted in self._open)):
                return PLACE_POLL_SECONDS  # others use every connection
            if rests and not waits:
                wait, _, source = min(rests)
                if wait > PATIENCE_SECONDS:
                    self.course.halt(source.limited or RateLimited(until=wall + wait))
                    return None
                return wait
            return max(0.001, min([*waits, *(wait for wait, _, _ in rests)])) if waits else None

    def _rests_until(self, source: Source) -> float:
        return max(source.ask_after, self.budget.rests_until(source.served_by))

    # -- asking

    def _ask(self, now: float) -> Ask | None:
        if not self.course.open:
            return None
        hands = max(1, self.running)
        for source in self._sources:
            if source.dead is not None or now < source.retry_at or source.ask_after > self.course.clock.now():
                continue
            renewing = self._renewing[source.number]
            group = [wanted for wanted in renewing if now >= wanted.retry_at.get(source.number, 0.0)]
            group = group[: self._rules.batch]
            if group:
                self._renewing[source.number] = [wanted for wanted in renewing if wanted not in group]
                source.asking += 1
                return Ask(source, group)
            ahead = self._rules.batch // 2 + self._rules.batch * (hands // 4)
            if len(self._renewing[source.number]) > MOST_RENEWING * self._rules.batch:
                continue  # a server that fails for so many is not asked for more
            if source.asking <= hands // 8 and source.asked < len(self._order):
                begun = self._order_begun()
                if source.asked - begun <= ahead:
                    group = self._order[source.asked : source.asked + self._rules.batch]
                    source.asked += len(group)
                    group = [wanted for wanted in group if wanted.state in (State.WAITING, State.OPENING, State.OPEN)]
                    if group:
                        source.asking += 1
                        return Ask(source, group)
        return None

    def _order_begun(self) -> int:
        # Everything granted and not begun yet is in the heap; what was asked for and is not there has begun.
        waiting = len(self._begun)
        return max(0, min(source.asked for source in self._sources if source.dead is None or source.first) - waiting)

    def _look(self) -> Look | None:
        if not self._looks or not self.course.open:
            return None
        wanted = self._looks.popleft()
        wanted.state = State.OPENING
        return Look(wanted)

    def looked(self, wanted: Wanted) -> None:
        """Take note that some of an object is missing."""
        with self.changed:
            wanted.state = State.WAITING
            self._consider(wanted)

    def renew(self, wanted: Wanted, source: Source) -> None:
        """Have a fresh action asked for, once, whoever needs it."""
        wanted.granted.pop(source.number, None)
        if wanted not in self._renewing[source.number]:
            self._renewing[source.number].append(wanted)

    def answered(self, ask: Ask, answers: Sequence[LfsAnswer], *, asked_at: float) -> None:
        """Take note of a batch answer."""
        with self.changed:
            source = ask.source
            source.asking -= 1
            source.failures = 0
            source.waits_since.pop(False, None)
            for wanted, answer in zip(ask.group, answers, strict=True):
                if wanted.state is State.ENDED:
                    continue
                if answer.action is not None:
                    granted = wanted.granted[source.number] = Granted(answer, asked_at)
                    granted.short = granted.stale(self.course.clock.now())
                    source.served_by = granted.host
                else:
                    self._refused(wanted, source, answer)
                self._consider(wanted)
            self.changed.notify_all()

    def _refused(self, wanted: Wanted, source: Source, answer: LfsAnswer) -> None:
        said = printable(answer.error_message)[:MAX_TEXT] or "no reason given"
        status = answer.error_code
        if status == 429:
            source.ask_after = self.course.clock.now() + LIMITED_SECONDS
            source.limited = RateLimited("upstream asked us to wait for LFS objects", until=source.ask_after, why=said)
            self.renew(wanted, source)
        elif status >= 500:
            error = UpstreamUnavailable("upstream's LFS server failed for this object", why=f"{status} {said}")
            self._count_failure(wanted, source, error)
            if source.number not in wanted.lacking:
                self.renew(wanted, source)
        elif status in (404, 410):
            wanted.lacking[source.number] = Brought(
                End.MISSING, f"MS-L{status}", f"upstream says it lacks this object: {said}"
            )
        else:
            wanted.lacking[source.number] = Brought(
                End.FAILED, "MS-L400", f"upstream's LFS server refuses this object: {status or ''} {said}"
            )

    def unanswered(self, ask: Ask, error: MirrorSyncError) -> None:
        """Take note that a source could not be asked."""
        with self.changed:
            source = ask.source
            source.asking -= 1
            self._renewing[source.number][:0] = [wanted for wanted in ask.group if wanted.state is not State.ENDED]
            if isinstance(error, RateLimited):
                source.limited, source.ask_after = error, error.until
                alone = all(other is source or other.dead is not None for other in self._sources)
                if alone and error.until - self.course.clock.now() > PATIENCE_SECONDS:
                    self.course.halt(error)
                self._waits(source, error, for_bytes=False)
            elif isinstance(error, (UpstreamUnavailable, UpstreamInvalid)) and error.code not in SETTLED:
                source.failures += 1
                if source.failures >= self._rules.attempts:
                    self._lost(source, error)
                else:
                    source.retry_at = self.course.clock.monotonic() + self.course.backoff(source.failures)
            else:
                self._lost(source, error)
            self.changed.notify_all()

    def _waits(self, source: Source, error: RateLimited, *, for_bytes: bool) -> None:
        """Note that a source asked us to wait; when it never does anything else, do without it."""
        now = self.course.clock.monotonic()
        since = source.waits_since.setdefault(for_bytes, now)
        if source.dead is None and now - since >= WAITING_SECONDS:
            self._lost(source, error)

    def _lost(self, source: Source, error: MirrorSyncError) -> None:
        """Do without a source from now on."""
        source.dead = error
        if not source.first:
            self.course.telemetry.event(
                "lfs_source_left", mirror=self.course.mirror, host=source.host, why=str(error)[:MAX_TEXT]
            )
        elif all(other.dead is not None for other in self._sources):
            self.course.halt(error)
        else:
            self.course.short = error
        for wanted in self._order:
            if wanted.state is not State.ENDED:
                wanted.granted.pop(source.number, None)
                self._consider(wanted)

    # -- what an object is waiting for

    def _consider(self, wanted: Wanted) -> None:
        """Let an object begin when a source has it; end it when none can give it."""
        if wanted.state is State.ENDED:
            return
        if wanted.granted:
            if wanted.state is State.WAITING and not wanted.queued:
                wanted.queued = True
                begins_at = wanted.begins_at()
                if begins_at > self.course.clock.monotonic():
                    heapq.heappush(self._later, (begins_at, wanted.place, wanted))
                else:
                    heapq.heappush(self._begun, (wanted.place, wanted))
            return
        open_sources = [
            source for source in self._sources if source.dead is None and source.number not in wanted.lacking
        ]
        if open_sources or wanted.state in (State.OPENING, State.CHECKING, State.READY):
            return
        said = wanted.lacking.get(0)
        if said is not None:
            self.end(wanted, said)

    def end(self, wanted: Wanted, brought: Brought) -> None:
        """Note how one object ended; whoever calls closes it once it is :meth:`over`."""
        with self.changed:
            if wanted.state is State.ENDED:
                return
            wanted.state = State.ENDED
            wanted.gaps = []
            for leg in wanted.legs:
                # Nothing more is written: its file is closed, and the descriptor may be another object's soon.
                leg.end = leg.at
                if leg.body is not None and not leg.writing:
                    leg.body.abandon()
            if wanted in self._open:
                self._open.remove(wanted)
            self._left -= 1
            self.ends.append((wanted.pointer, brought))
            if brought.end is End.ARRIVED:
                self.course.arrived()

    # -- choosing parts

    def _ranked(self, wanted: Wanted) -> list[Source]:
        """Return the sources that may be asked for bytes of an object, the most promising first."""
        usable = [
            source
            for source in self._sources
            if source.dead is None and source.number in wanted.granted and source.number not in wanted.lacking
        ]
        if len(usable) < 2:
            return usable
        if wanted.doubt is not None and usable[0].first:
            return usable[:1]

        def promise(source: Source) -> tuple[float, int, int]:
            if source.rate is None:  # worth one try; until that has told something, no other
                return (float("-inf") if source.legs == 0 else 0.0, source.tries, source.number)
            return (-source.rate, source.tries, source.number)

        return sorted(usable, key=promise)

    def _connect(self, hand: Hand, wanted: Wanted) -> Source | None:
        """Choose a source that this hand may ask for bytes of ``wanted`` now, and give the hand its place."""
        now, wall = self.course.clock.monotonic(), self.course.clock.now()
        for source in self._ranked(wanted):
            granted = wanted.granted[source.number]
            if now < wanted.retry_at.get(source.number, 0.0):
                continue
            if not granted.usable(wall) and self.course.open:
                self.renew(wanted, source)
                continue
            if wanted.strange.get(source.number, 0) >= STRANGE_ANSWERS and any(leg.left for leg in wanted.legs):
                continue
            if hand.place is not None and hand.place.host == granted.host:
                return source
            if hand.place is None and self.share.total >= self._rules.connections:
                return None
            place = self.budget.take(self.share, granted.host, instead=hand.place)
            if place is not None:
                hand.place = place
                return source
        return None

    def _part(self, hand: Hand) -> Leg | None:
        """Choose a part of an object that is under way."""
        for wanted in self._open:
            if wanted.state is State.OPEN and wanted.gaps:
                if wanted.failures and not self.course.open:
                    continue  # nothing is begun again
                leg = self.part_of(wanted, hand)
                if leg is not None:
                    return leg
        return None

    def part_of(self, wanted: Wanted, hand: Hand) -> Leg | None:
        """Choose the next part of one object, the front-most, so that the hash follows closely."""
        with self.changed:
            if wanted.state is not State.OPEN or not wanted.gaps:
                return None
            source = self._connect(hand, wanted)
            if source is None:
                return None
            (start, end), *rest = wanted.gaps
            strange = wanted.strange.get(source.number, 0) >= STRANGE_ANSWERS
            if strange and wanted.doubt is not None:
                end, rest = wanted.gaps[-1][1], []  # it sends all of it whatever is asked for: once is enough
            length = end - start if strange else self._length(wanted, source)
            if end - start - length < LEAST_PART:
                length = end - start
            wanted.gaps = [*([(start + length, end)] if start + length < end else []), *rest]
            return self._leg(wanted, source, hand, (start, start + length))

    def _leg(self, wanted: Wanted, source: Source, hand: Hand, part: Part) -> Leg:
        assert hand.place is not None
        now = self.course.clock.monotonic()
        leg = Leg(
            wanted, source, wanted.granted[source.number], hand.place, part[0], part[1], now,
            asked_end=part[1], at=part[0], last_at=now,
        )  # fmt: skip
        leg.granted.tried = True
        leg.compares = wanted.doubt is not None
        wanted.legs.append(leg)
        source.legs += 1
        source.tries += 1
        return leg

    def _length(self, wanted: Wanted, source: Source) -> int:
        """Return how long the next part is: seconds of a connection's rate, less towards the end."""
        if wanted.size <= WHOLE_BYTES:
            return wanted.size
        if source.rate is None:
            return FIRST_PART
        hands = max(1, len(wanted.legs) + 1)
        least = max(LEAST_PART, int(4 * source.delay * source.rate))
        guided = wanted.unassigned // (2 * hands) if hands > 1 else wanted.unassigned
        return min(MOST_PART, max(least, min(int(PART_SECONDS * source.rate), guided)))

    def _begin(self, hand: Hand, now: float) -> Begin | None:
        """Choose an object to begin with."""
        if not self.course.open or sum(1 for wanted in self._open if wanted.failures) >= MOST_FAILING:
            return None
        while self._later and self._later[0][0] <= now:
            _, place, wanted = heapq.heappop(self._later)
            heapq.heappush(self._begun, (place, wanted))
        passed: list[tuple[int, Wanted]] = []
        chosen: Begin | None = None
        while self._begun and chosen is None and len(passed) < 8:
            entry = heapq.heappop(self._begun)
            wanted = entry[1]
            if wanted.state is not State.WAITING:
                wanted.queued = False
                continue
            source = self._connect(hand, wanted)
            if source is None:
                if (begins_at := wanted.begins_at()) > now:
                    heapq.heappush(self._later, (begins_at, wanted.place, wanted))
                elif wanted.granted:
                    passed.append(entry)
                else:
                    wanted.queued = False  # it comes back with its fresh action
                continue
            wanted.queued = False
            wanted.state = State.OPENING
            chosen = Begin(wanted, source)
        for entry in passed:
            heapq.heappush(self._begun, entry)
        return chosen

    def _split(self, hand: Hand, now: float) -> Leg | None:
        """Share the range that would take longest with this hand."""
        slowest: Leg | None = None
        longest = SPLIT_SECONDS
        for wanted in self._open:
            if wanted.state is not State.OPEN:
                continue
            for leg in wanted.legs:
                seconds = self._seconds_left(leg, now)
                if seconds > longest + 2 * leg.source.delay and not self._single(wanted):
                    slowest, longest = leg, seconds
        if slowest is None:
            return None
        wanted, victim = slowest.wanted, slowest
        source = self._connect(hand, wanted)
        if source is None:
            return None
        start = self._cut(victim, source, now)
        end, victim.end = victim.end, start
        if not victim.left and not victim.writing:
            wanted.legs.remove(victim)
            if victim.body is not None:
                victim.body.abandon()
        return self._leg(wanted, source, hand, (start, end))

    def _single(self, wanted: Wanted) -> bool:
        """Whether only one connection at a time makes sense for an object."""
        usable = [number for number in wanted.granted if number not in wanted.lacking]
        return all(wanted.strange.get(number, 0) >= STRANGE_ANSWERS for number in usable)

    def _seconds_left(self, leg: Leg, now: float) -> float:
        if not leg.left:
            return 0.0
        if leg.silent(now, SILENT_SECONDS):
            return float("inf")
        rate = leg.rate(now) or leg.source.rate
        if leg.left < LEAST_PART // 4:
            return 0.0
        return leg.left / rate if rate else 0.0

    def _cut(self, victim: Leg, source: Source, now: float) -> int:
        """Return from where on the thief fetches, so that both are done at the same time."""
        if victim.silent(now, SILENT_SECONDS):
            return victim.at
        slow = victim.rate(now) or victim.source.rate or 1.0
        fast = source.rate or slow
        head_start = min(victim.left, int(slow * source.delay))
        rest = victim.left - head_start
        return victim.at + head_start + int(rest * slow / (slow + fast))

    # -- what became of it

    def opened(self, wanted: Wanted, gaps: list[Part]) -> None:
        """Take note that an object is held, and what is missing."""
        with self.changed:
            wanted.state = State.OPEN
            wanted.gaps = gaps
            place = next((at for at, other in enumerate(self._open) if other.place > wanted.place), len(self._open))
            self._open.insert(place, wanted)

    def busy(self, wanted: Wanted, code: str) -> None:
        """Come back later to an object that another run is fetching."""
        with self.changed:
            now = self.course.clock.monotonic()
            wanted.state = State.WAITING
            wanted.busy_since = now if wanted.busy_since is None else wanted.busy_since
            if now - wanted.busy_since >= self._rules.busy_seconds:
                seconds = self._rules.busy_seconds
                text = f"another run has been fetching this object for more than {seconds:.0f} s"
                self.end(wanted, Brought(End.FAILED, code, text))
                return
            wanted.busy_until = now + BUSY_POLL_SECONDS
            self._consider(wanted)

    def span(self, leg: Leg) -> Part | None:
        """Return what a leg is to ask for now, ``None`` when others took all of it meanwhile."""
        with self.changed:
            if leg.start >= leg.end:
                return None
            if leg.wanted.strange.get(leg.source.number, 0) >= STRANGE_ANSWERS and not leg.wanted.doubt:
                # It has no ranges: the whole is asked for, and what is here is passed over.
                leg.asked_end = leg.wanted.size
                return (0, leg.wanted.size)
            leg.asked_end = leg.end
            return (leg.start, leg.end)

    def claim(self, leg: Leg, size: int) -> int:
        """Let a leg write up to ``size`` bytes more; return how many."""
        with self.changed:
            room = max(0, min(size, leg.end - leg.at))
            leg.at += room
            leg.last_at = self.course.clock.monotonic()
            leg.chunks += 1
            leg.writing = room > 0
            if room:
                leg.granted.used = True
                leg.source.waits_since.clear()
            return room

    def shorten(self, leg: Leg) -> None:
        """Let a leg whose connection is one too many end here, unless it is nearly done."""
        with self.changed:
            if self._seconds_left(leg, self.course.clock.monotonic()) > SPLIT_SECONDS and leg in leg.wanted.legs:
                leg.wanted.gaps = add(leg.wanted.gaps, (leg.at, leg.end))
                leg.end = leg.at
                self.changed.notify_all()

    def wrote(self, leg: Leg) -> None:
        """Take note that what was claimed is written."""
        with self.changed:
            leg.writing = False

    def ignored(self, leg: Leg, *, before: bool) -> None:
        """Let a leg whose server ignored the range take what it sends, as far as nobody else does.

        ``before``: what it sends begins at the beginning whatever was asked, so no other connection is of use.
        """
        with self.changed:
            wanted = leg.wanted
            if before:
                wanted.strange[leg.source.number] = STRANGE_ANSWERS
            for gap in wanted.gaps:
                if gap[0] == leg.end:
                    leg.end = gap[1]
                    wanted.gaps = [other for other in wanted.gaps if other != gap]
                    return

    def alone(self, leg: Leg) -> bool:
        """Tell whether no other connection fetches this object."""
        with self.changed:
            return not any(other is not leg and other.left for other in leg.wanted.legs)

    def read(self, leg: Leg) -> bool:
        """Take note that a leg reached its end; tell whether the object is complete now and this hand checks it."""
        with self.changed:
            self._measured(leg)
            leg.wanted.give_back(leg)
            leg.wanted.failures.pop(leg.source.number, None)
            leg.wanted.retry_at.pop(leg.source.number, None)
            return self._checks(leg.wanted)

    def whole(self, wanted: Wanted) -> bool:
        """Tell whether an object is complete and this hand is to check it."""
        with self.changed:
            return self._checks(wanted)

    def over(self, wanted: Wanted) -> bool:
        """Tell whether an object has ended and nobody writes to it any more."""
        with self.changed:
            return wanted.state is State.ENDED and not any(leg.writing for leg in wanted.legs)

    def _checks(self, wanted: Wanted) -> bool:
        if not wanted.complete:
            return False
        wanted.state = State.CHECKING
        return True

    def _measured(self, leg: Leg) -> None:
        now = self.course.clock.monotonic()
        leg.source.legs -= 1
        got = leg.at - leg.start
        if got >= PROGRESS_BYTES or (leg.at >= leg.asked_end and not leg.compares):
            leg.source.measured(size=got, seconds=now - leg.began_at)

    def failed(self, leg: Leg, error: MirrorSyncError) -> bool:
        """Take note that a leg broke; tell whether the object is complete all the same and this hand checks it."""
        with self.changed:
            wanted = leg.wanted
            # When its range was taken over, what became of it matters little.
            ours = leg in wanted.legs and (leg.left > 0 or isinstance(error, (StorageFull, StorageFailed)))
            leg.writing = False
            got = leg.at - leg.start
            asked = leg.asked_end - leg.start
            self._measured(leg)
            wanted.give_back(leg)
            if self.course.over and isinstance(error, UpstreamUnavailable):
                pass  # we broke it off ourselves
            elif wanted.state is not State.ENDED and ours:
                self._judge(leg, error, progress=got >= min(PROGRESS_BYTES, asked))
            self.changed.notify_all()
            return self._checks(wanted)

    def _judge(self, leg: Leg, error: MirrorSyncError, *, progress: bool) -> None:
        wanted, source = leg.wanted, leg.source
        if isinstance(error, (Interrupted, Preempted)):
            self.course.halt(error)
        elif isinstance(error, (StorageFull, StorageFailed)):
            self.course.halt(error)
            self.end(wanted, Brought(End.FAILED, error.code, str(error)))
        elif isinstance(error, RateLimited):
            source.limited = error
            self.budget.pushed_back(leg.place.host, until=error.until)
            self._waits(source, error, for_bytes=True)
        elif isinstance(error, (AddressRefused, ObjectMissingUpstream, UpstreamGone)):
            self._not_there(leg, error)
        elif progress and not isinstance(error, UpstreamRefused):
            self.course.cut()
            wanted.failures.pop(source.number, None)
            wanted.retry_at.pop(source.number, None)
        else:
            self._in_vain(leg, error)

    def _not_there(self, leg: Leg, error: MirrorSyncError) -> None:
        """Judge an answer that says this source has no bytes for us."""
        wanted, source = leg.wanted, leg.source
        times = wanted.gone[source.number] = wanted.gone.get(source.number, 0) + 1
        if isinstance(error, AddressRefused):
            said = Brought(End.FAILED, error.code, str(error))
        elif times >= GONE_ANSWERS:
            said = Brought(End.MISSING, "MS-L404", str(error))
        else:
            self._count_failure(wanted, source, error, began_at=leg.began_at)
            self.renew(wanted, source)
            return
        wanted.lacking[source.number] = said
        wanted.granted.pop(source.number, None)
        self._consider(wanted)

    def _in_vain(self, leg: Leg, error: MirrorSyncError) -> None:
        """Judge a try that brought next to nothing."""
        wanted, source = leg.wanted, leg.source
        # An action may have expired whatever its server said of its life; one that worked does not count.
        expired = isinstance(error, UpstreamRefused) and leg.granted.used
        if error.code == RANGE_REFUSED:
            wanted.strange[source.number] = wanted.strange.get(source.number, 0) + 1
        elif isinstance(error, UpstreamInvalid):
            if wanted.failures.get(source.number, 0) + 1 >= STRANGE_ANSWERS:
                wanted.strange[source.number] = STRANGE_ANSWERS
        elif isinstance(error, UpstreamUnavailable):
            self.budget.pushed_back(leg.place.host)
        if not expired:
            self._count_failure(wanted, source, error, began_at=leg.began_at)
        if source.number not in wanted.lacking and wanted.granted.get(source.number) is leg.granted:
            self.renew(wanted, source)

    def _count_failure(
        self, wanted: Wanted, source: Source, error: MirrorSyncError, *, began_at: float | None = None
    ) -> None:
        """Count a try in vain; several connections that failed together are one try."""
        now = self.course.clock.monotonic()
        if began_at is not None and began_at < wanted.failed_at:
            return
        wanted.failed_at = now
        times = wanted.failures[source.number] = wanted.failures.get(source.number, 0) + 1
        if times < self._rules.attempts:
            wanted.retry_at[source.number] = now + self.course.backoff(times)
            return
        wanted.lacking[source.number] = Brought(End.FAILED, error.code, str(error))
        wanted.granted.pop(source.number, None)
        if source.first:
            self.course.gave_up(error)
        self._consider(wanted)

    def ready(self, wanted: Wanted) -> None:
        """Let a verified object wait for others to be promoted with."""
        with self.changed:
            if not self._ready:
                self._ready_since = self.course.clock.monotonic()
            wanted.state = State.READY
            if wanted in self._open:
                self._open.remove(wanted)
            self._ready.append(wanted)

    def _promote(self) -> Promote:
        group, self._ready = self._ready[:WAVE], self._ready[WAVE:]
        return Promote(group)

    # -- wrong bytes

    def doubt(self, wanted: Wanted, origins: Sequence[tuple[int, int, str]], agreed: Sequence[Part]) -> bool:
        """Look once more at parts of an object; ``False`` when there is no point in it.

        There is none once all of it came twice the same, nor once nothing ever does.
        """
        with self.changed:
            doubt = wanted.doubt
            if doubt is None:
                doubt = wanted.doubt = Doubt()
                look = self._of_strangers(wanted, origins, agreed) or subtract((0, wanted.size), agreed)
            elif doubt.disputed:
                return self.disputes(wanted)
            elif doubt.rest:
                look, doubt.rest = doubt.rest, []
            else:
                doubt.tried()
                look = [] if self._in_vain_again(wanted, doubt) else subtract((0, wanted.size), agreed)
            if not look:
                return False
            self._look_again(wanted, look)
            return True

    def disputes(self, wanted: Wanted) -> bool:
        """Look once more at what came differently the last time; ``False`` when nothing did or there is no point in it."""
        with self.changed:
            doubt = wanted.doubt
            if doubt is None or not doubt.disputed:
                return False
            doubt.tried()
            if self._in_vain_again(wanted, doubt):
                return False
            look, doubt.disputed = doubt.disputed, []
            self._look_again(wanted, look)
            return True

    def _of_strangers(
        self, wanted: Wanted, origins: Sequence[tuple[int, int, str]], agreed: Sequence[Part]
    ) -> list[Part]:
        """Return what did not come from the upstream; who sent all of an object by himself is not asked for it again."""
        hosts = {source for _, _, source in origins}
        if len(hosts) == 1:
            for source in self._sources:
                if not source.first and source.host in hosts:
                    wanted.lacking[source.number] = Brought(End.FAILED, ObjectCorrupt.code, "it sent wrong bytes")
                    wanted.granted.pop(source.number, None)
                    wanted.blamed.add(source.host)
        theirs = merge((start, end) for start, end, source in origins if source != self._sources[0].host)
        for part in agreed:
            theirs = remove(theirs, part)
        return theirs

    def _in_vain_again(self, wanted: Wanted, doubt: Doubt) -> bool:
        """Whether enough was asked for again of an object that never comes the same twice."""
        most = self._rules.wrong - 1
        enough = min(most * wanted.size, VAIN_BYTES)
        return doubt.vain >= most and (doubt.vain_bytes >= enough or doubt.vain >= VAIN_LOOKS)

    def _look_again(self, wanted: Wanted, look: list[Part]) -> None:
        wanted.state = State.OPEN
        wanted.gaps = look
        self._seek(wanted)

    def _seek(self, wanted: Wanted) -> None:
        """Let an object that is open be asked for, where its turn to be asked for has passed."""
        for source in self._sources:
            passed = wanted.place < source.asked and source.dead is None
            if passed and source.number not in wanted.granted and source.number not in wanted.lacking:
                self.renew(wanted, source)
        if wanted not in self._open:
            self._open.append(wanted)
        self._consider(wanted)
        self.changed.notify_all()

    def without_upstream(self, wanted: Wanted, said: Brought) -> bool:
        """Fetch all of an object that the upstream has wrong from elsewhere; ``False`` when nobody else is left to ask.

        The name tells which bytes are right, so it does not matter whose they are.
        """
        with self.changed:
            elsewhere = [
                source
                for source in self._sources
                if not source.first and source.dead is None and source.number not in wanted.lacking
            ]
            if 0 in wanted.lacking or not elsewhere:
                return False
            wanted.lacking[0] = said
            wanted.granted.pop(0, None)
            wanted.blamed.clear()
            wanted.replaced.clear()
            wanted.doubt = None
            self._look_again(wanted, [(0, wanted.size)])
            return True

    def in_one_piece(self, wanted: Wanted) -> bool:
        """Tell whether an object is so small that it is read whole sooner than anything is asked for again."""
        return wanted.size <= WHOLE_BYTES

    def came_before(self, leg: Leg, part: Part, *, old: bytes, new: bytes) -> bool:
        """Tell whether the answer before the last one said the same of a part; ``old`` and ``new`` are digests."""
        with self.changed:
            doubt = leg.wanted.doubt
            if doubt is None:
                return False
            before, doubt.before[part] = doubt.before.get(part), old
            if before == new:
                del doubt.before[part]
            return before == new

    def compared(self, leg: Leg, *, agreed: int, disputed: Sequence[Part], replaced: Sequence[Replaced]) -> None:
        """Take note of what an answer was like, and look at what differs early now and then.

        The object may be right as soon as that is settled.
        """
        with self.changed:
            wanted, doubt = leg.wanted, leg.wanted.doubt
            if doubt is None:
                return
            doubt.agreed += agreed
            doubt.differed += count(disputed)
            for part in disputed:
                doubt.disputed = add(doubt.disputed, part)
            wanted.replaced += replaced[: max(0, MOST_REPLACED - len(wanted.replaced))]
            doubt.differing += bool(disputed or replaced)
            strange = wanted.strange.get(leg.source.number, 0) >= STRANGE_ANSWERS
            if doubt.differing >= doubt.check_at and not self.in_one_piece(wanted) and not strange:
                doubt.check_at *= 4
                doubt.rest = merge([*doubt.rest, *wanted.gaps, *((other.at, other.end) for other in wanted.legs)])
                wanted.gaps = []
                for other in wanted.legs:
                    other.end = other.at

    def arrived(self, wanted: Wanted) -> None:
        """Do without accelerators whose bytes had to be replaced in an object that is right now."""
        with self.changed:
            for source in self._sources:
                if source.host not in wanted.blamed or source.first:
                    continue
                self.course.telemetry.event(
                    "lfs_source_lied", mirror=self.course.mirror, host=source.host, oid=wanted.pointer.oid
                )
                self.budget.distrust(source.host)
                if source.dead is None:
                    self._lost(source, UpstreamInvalid(f"{source.host} sent wrong bytes of an LFS object"))

    def unfinished(self) -> list[Wanted]:
        """Return the objects that are held and have not ended."""
        with self.changed:
            return [wanted for wanted in self._order if wanted.holder is not None]
