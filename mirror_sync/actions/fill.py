"""Fetch over a link that breaks: everything that came whole is kept, and asked for never again.

One pack for all that is new is tried first.  When it breaks off, the commit graph is
brought alone; then closed ranges of commits, oldest first, each as large as the link
lets through; what a broken range left out comes object by object; a blob that fits
through no connection comes in parts from a place that takes ranges.  A server that
gives nothing but its refs is asked ref by ref.  Whoever runs this again goes on from
what is on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mirror_sync.domain.names import GitOid, printable
from mirror_sync.domain.progress import Kind, Meter, Progress, Way
from mirror_sync.errors import (
    AddressRefused,
    GitFailed,
    Interrupted,
    MirrorSyncError,
    ObjectMissingUpstream,
    Preempted,
    RateLimited,
    StorageFull,
    UpstreamDeclined,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import Clock, FetchRequest, Filling, Goal, Stretch, Taken, Telemetry, Upstream

GRAPH_WANTS = 30_000
HAVES = 8_000
PLAIN_HAVES = 2_000
"""How many of our tips are named for one pack with everything; more only make the request longer."""

OBJECT_WANTS = 8_000
TIPS_AT_ONCE = 16
MOST_TIPS_AT_ONCE = 4_096
FIRST_COMMITS = 200
SHARES = 10
"""No range is larger than this part of all commits: what a cut throws away is a part of a range."""

FEWEST_AT_MOST = 50
SAFE_SHARE = 0.75
"""Of what the shortest connection brought, a range of small objects is to take no more."""

LARGE_SHARE = 1.6
"""Of the first bytes aimed at, a range of large objects may take so much, however short connections are."""

GUESSED_SHARE = 0.5
"""Of the first bytes aimed at, the first range takes so much by what one broken pack lets guess: it began with the small objects."""

GROWTH_SMALL = 1.08
GROWTH_LARGE = 1.2
GROWTH = 4
"""A range grows at most so many times from one request to the next."""

BIG_OBJECT = 16 << 10
"""Above this average size deltas hardly matter, so asking for single objects wastes nothing."""

NEARLY_WHOLE = 8
"""A broken range that lacks less than this share of its objects is finished object by object."""

SINGLE_TRIES = 12
RANGES_AFTER = 3
"""A blob of nearly the size of the cuts comes through sooner or later; where ranges are given, sooner."""

DENSE_BYTES = 32 << 20
"""After so much of one broken pack, ranges that are here already are looked for before they are asked for."""

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
WORTH_WAITING = 120.0
"""Seconds that a server may ask us to wait, at once or bit by bit, before bytes come; for longer the run ends."""

REPORT_SECONDS = 1.0
LEAST_CUT = 64 << 10
"""A link that breaks before so many bytes is broken; no object is too large for it, it carries none."""

MOST_BY_OBJECTS = 20_000
"""So few large objects are asked for by their ids alone."""

MOST_GIVEN_UP = 100
"""So many objects given up in one run, and something else is wrong."""


@dataclass(frozen=True, slots=True)
class FillLimits:
    """How much is asked for at once, in bytes, and how often in vain."""

    max_bytes: int = 1 << 50
    """Of one pack."""
    first_bytes: int = 6 << 20
    least_bytes: int = 256 << 10
    most_bytes: int = 64 << 20
    patience: int = 8
    """Tries in a row that bring nothing before the run ends."""


@dataclass(frozen=True, slots=True)
class FillReport:
    """What a fill brought: bytes over the link, cuts survived, and objects that cannot be had, with the reasons."""

    received: int = 0
    cuts: int = 0
    given_up: Mapping[GitOid, str] = field(default_factory=dict)


def never() -> bool:
    """Nobody waits."""
    return False


def fill(
    goal: Goal,
    *,
    filling: Filling,
    sources: Sequence[Upstream],
    protocol: int,
    clock: Clock,
    telemetry: Telemetry,
    report: Callable[[Progress], None],
    stop: threading.Event,
    limits: FillLimits,
    here: Sequence[GitOid] = (),
    yielding: Callable[[], bool] = never,
) -> FillReport:
    """Stage everything that ``goal`` names; ``sources`` are upstream itself and then nearer places.

    ``here`` are tips beyond the boundary whose objects are all staged already.  Returns
    when all of it is in the stage, or all but the objects given up.  Raises what upstream
    says when it goes on saying it, :class:`Interrupted`, :class:`Preempted` or
    :class:`StorageFull`; then the next call goes on where this one was.
    """
    job = _Job(
        goal,
        filling=filling,
        sources=sources,
        clock=clock,
        telemetry=telemetry,
        report=report,
        stop=stop,
        limits=limits,
        yielding=yielding,
    )
    begun = filling.begun()
    try:
        if protocol == 2 and not begun and not filling.interrupted() and job.in_one_piece(here):
            if not filling.begun():
                return FillReport(job.received, job.cuts)
        else:
            job.begin(here if not begun else ())
            left = filling.salvage()
            if left is not None:
                job.salvaged(left)
            if protocol == 2:
                job.by_pieces()
            else:
                job.by_stock()
        job.finish()
    except (Interrupted, StorageFull):
        raise
    except MirrorSyncError:
        with suppress(Interrupted, Preempted):
            filling.settle(tick=job.check)
        raise
    finally:
        filling.release()
    return FillReport(job.received, job.cuts, dict(filling.given_up()) if filling.begun() else {})


class _Source:
    """One place that bytes come from, and what was learnt of it in this fill."""

    def __init__(self, upstream: Upstream, *, own: bool) -> None:
        self.upstream = upstream
        self.own = own
        self.rate: float | None = None
        self.out = False
        """Not asked any more in this fill."""

    def measured(self, size: int, seconds: float) -> None:
        """Take note of how fast it was."""
        if size < 64 << 10 or seconds <= 0:
            return
        rate = size / seconds
        self.rate = rate if self.rate is None else (self.rate + rate) / 2


class _Job:
    """One fill under way."""

    def __init__(
        self,
        goal: Goal,
        *,
        filling: Filling,
        sources: Sequence[Upstream],
        clock: Clock,
        telemetry: Telemetry,
        report: Callable[[Progress], None],
        stop: threading.Event,
        limits: FillLimits,
        yielding: Callable[[], bool],
    ) -> None:
        self.goal = goal
        self.filling = filling
        self.clock = clock
        self.telemetry = telemetry
        self.stop = stop
        self.limits = limits
        self.yielding = yielding
        self.sources = [_Source(upstream, own=not place) for place, upstream in enumerate(sources)]
        self.cuts = 0
        self.way = Way.PLAIN
        self.filters = True
        self.dense = False
        self.large = False
        self._look = False
        """A process that was killed may have had whole ranges in its hands."""
        self._guess = 0.0
        """Bytes that everything together may have, as far as one broken pack tells; 0 when none did."""
        self._hollow = 0
        """Packs in a row of which nothing could be kept, though their bytes looked sound."""
        self._tell = report
        self._began_at = clock.now()
        self._meter = Meter(clock.monotonic())
        self._told_at = clock.monotonic()
        self._place: tuple[int, int | None] = (0, None)
        self._done_before: int | None = None
        self._fruitless = 0
        self._sat_out = 0.0
        """Seconds waited because a server asked for it since bytes last came."""
        self._given_up = 0
        self._shortest: int | None = None
        self._busy: _Source | None = None

    @property
    def received(self) -> int:
        """Bytes that came over the link."""
        return self._meter.received

    @property
    def own(self) -> _Source:
        """Upstream itself."""
        return self.sources[0]

    # ------------------------------------------------------------ the ways

    def begin(self, here: Sequence[GitOid]) -> None:
        """Freeze the goal on disk; what is not resumed starts with what is staged already."""
        self.filling.begin(self.goal)
        if here:
            self.filling.note_closed(here)

    def salvaged(self, taken: Taken) -> None:
        """Take note of what a process that was killed had received."""
        self.dense = self.dense or taken.received >= DENSE_BYTES
        self.large = taken.late_size > BIG_OBJECT and taken.announced - taken.objects <= MOST_BY_OBJECTS
        self._look = taken.objects > 0
        if taken.objects and not self.filling.frozen():
            # One pack for everything; later ones are for a range each.
            self._guess = taken.received / taken.objects * taken.announced
        self.telemetry.event("pack_salvaged", objects=taken.objects, announced=taken.announced, bytes=taken.received)

    def in_one_piece(self, here: Sequence[GitOid]) -> bool:
        """Try one pack for everything; ``False`` when it broke off."""
        have = {*self.goal.boundary, *here}
        wants = [tip for tip in self.goal.tips if tip not in have]
        if not wants:
            return True
        request = FetchRequest(self.goal.object_format, wants, [*here, *self.goal.boundary][:PLAIN_HAVES])
        # A nearer source rarely has what was pushed a moment ago.
        taken = self._ask(request, own=bool(self.goal.boundary), alone=True)
        if not taken.complete:
            return False
        if self._busy is not None and not self._busy.own:
            self.begin(here)
            return self._kept_its_word(None)
        return True

    def by_pieces(self) -> None:
        """Bring everything in pieces, falling back step by step."""
        self.filters = self.own.upstream.abilities().filters
        try:
            if not self.filling.frozen() and not self.filling.by_objects():
                known = self._graph() == 0
                if known and self.large and self.filters:
                    # With all commits the trees came too, and deltas hardly matter.
                    self.filling.go_by_objects()
                else:
                    self.filling.freeze()
            if self.filling.by_objects():
                self._objects(None)
                return
            self._ladder()
            self._rest()
            return
        except UpstreamLacks as error:
            # Commits in between are not given out here, or the refs were rewritten meanwhile;
            # the refs themselves tell which.
            self.telemetry.event("only_tips_given", host=self.own.upstream.host, why=error.why)
        self._by_tips()

    def finish(self) -> None:
        """End the filling, and ask once more for what turns out to be missing behind what counted as here."""
        try:
            self.filling.finish(tick=self.check_stop)
            return
        except GitFailed as error:
            if self.way is Way.STOCK:
                raise  # its server takes no ids
            self.telemetry.event("objects_missing", why=error.stderr or str(error))
        self._objects(None)
        self.filling.finish(tick=self.check_stop)

    def by_stock(self) -> None:
        """Bring everything ref by ref with stock git, from a server that speaks protocol v0 only."""
        self.way = Way.STOCK
        access = self.own.upstream.git_access()

        def bring(tips: Sequence[GitOid]) -> Taken:
            try:
                size = self.filling.take_stock(access, tips, max_bytes=self.limits.max_bytes)
            except GitFailed as error:
                cut = UpstreamUnavailable("upstream broke off the fetch", why=error.why or error.message)
                return Taken(0, 0, 0, complete=False, error=cut)
            self._came(size)
            return Taken(size, 1, 1, complete=True)

        self._tip_by_tip(bring)

    def _by_tips(self) -> None:
        self.way = Way.TIPS

        def bring(tips: Sequence[GitOid]) -> Taken:
            haves = [*reversed(list(self.filling.closed())), *self.goal.boundary][:HAVES]
            return self._ask(FetchRequest(self.goal.object_format, tips, haves), own=True)

        self._tip_by_tip(bring)

    def _tip_by_tip(self, bring: Callable[[Sequence[GitOid]], Taken]) -> None:
        """Bring the goal's tips in their order, several at once while the link lets them through."""
        closed = self.filling.closed() | frozenset(self.goal.boundary)
        todo = [tip for tip in self.goal.tips if tip not in closed]
        total, at_once = len(self.goal.tips), len(todo)
        failures = 0
        while todo:
            self.check()
            self._show(total - len(todo), total)
            some = todo[: max(1, at_once)]
            taken = bring(some)
            if taken.complete:
                self.filling.note_closed(some)
                del todo[: len(some)]
                at_once = min(max(len(some), TIPS_AT_ONCE // 2) * 2, MOST_TIPS_AT_ONCE)
                failures = 0
                continue
            at_once = min(TIPS_AT_ONCE, len(some) // 2)
            if len(some) > 1:
                continue
            failures += 1
            if failures >= self.limits.patience + min(len(todo), TIPS_AT_ONCE):
                assert taken.error is not None
                raise _too_large_a_step(taken.error)
            todo.append(todo.pop(0))  # another ref may bring this one's history closer
            self._wait(min(failures, 2))

    # ------------------------------------------------------------ graph

    def _graph(self) -> int:
        """Bring every commit, and nothing else where the server can leave the rest out; return how often was asked."""
        self.way = Way.GRAPH
        asked = 0
        vain, before, strict = 0, frozenset[GitOid](), False
        while (gap := self.filling.gap(wants=GRAPH_WANTS, haves=HAVES, strict=strict)) is not None:
            needed = frozenset(gap.wants[: gap.needed])
            vain = vain + 1 if before == needed else 0
            before = needed
            if vain >= self.limits.patience:
                if strict and not self.filters:
                    # Its packs do not begin with their commits, so this way sees none of them.
                    raise UpstreamLacks("upstream gives no commits by themselves", why="it takes no filters")
                if strict:
                    raise UpstreamInvalid(
                        "upstream's packs lack commits that it listed",
                        why=f"{len(before)} were asked for {vain} times",
                        remedy="nothing: it is asked again; clients keep the refs published before",
                    )
                # What is wanted beside the way may be made up, and without end.
                strict, vain = True, 0
                continue
            self._show(0, None)
            asked += 1
            request = FetchRequest(
                self.goal.object_format,
                gap.wants,
                [*dict.fromkeys([*gap.haves, *self.goal.boundary])][:HAVES],
                shallow=gap.shallow,
                filter="tree:0" if self.filters else "",
                thin=False,
            )
            try:
                self._ask(request, graph=True, until_trees=not self.filters, own=vain > 0)
            except UpstreamLacks:
                if strict:
                    raise
                strict = True
        return asked

    # ------------------------------------------------------------ ladder

    def _ladder(self) -> None:
        """Bring closed ranges of commits, oldest first; each makes the next one possible."""
        pace = _Pace(self.limits, self.filling.place()[1], self._guess)
        while True:
            self.check()
            self._show(*self.filling.place())
            stretch = self.filling.stretch(pace.commits)
            if stretch is None:
                return
            if (self.dense or self._look) and self._nearly_here(stretch):
                self._objects(stretch)
                self.filling.advance(stretch)
                continue
            self._look = False
            self.way = Way.LADDER
            request = FetchRequest(self.goal.object_format, stretch.wants, stretch.haves, more=True)
            taken = self._ask(request, behind=True)
            if taken.complete and self._kept_its_word(stretch):
                pace.through(stretch.commits, taken, shortest=self._shortest)
                self.filling.advance(stretch)
                continue
            if taken.complete:
                continue
            finished = stretch.commits == 1 or _worth_finishing(taken)
            pace.cut(stretch.commits, taken, finished=finished)
            if finished:
                self.filling.copy_commits(stretch)
                self._objects(stretch)
                self.filling.advance(stretch)

    def _nearly_here(self, stretch: Stretch) -> bool:
        """Tell whether what came of a broken pack spares asking for this range."""
        self.filling.copy_commits(stretch)
        return len(self.filling.lacking(stretch, limit=stretch.commits)) < stretch.commits

    def _kept_its_word(self, stretch: Stretch | None) -> bool:
        """Tell whether a whole pack of a nearer source holds what was asked for; it is not asked again if not."""
        source = self._busy
        if source is None or source.own or not self.filling.lacking(stretch, limit=1):
            return True
        self._lied(source)
        return False

    def _lied(self, source: _Source) -> None:
        source.out = True
        self.telemetry.event("git_source_lied", level="warning", host=source.upstream.host)

    # ------------------------------------------------------------ objects, blobs, tags

    def _objects(self, stretch: Stretch | None) -> None:
        """Bring single objects by their ids until ``stretch`` (or the whole goal) lacks none but those given up."""
        self.way = Way.OBJECTS
        at_once, tries, most = OBJECT_WANTS, 0, 0
        asked: frozenset[GitOid] = frozenset()
        taken: Taken | None = None
        while lacking := self.filling.lacking(stretch, limit=at_once):
            self._show(*(self.filling.place() if self.filling.frozen() else (0, None)))
            vain = bool(asked) and asked <= frozenset(lacking)
            if taken is not None and not vain:
                tries, most = 0, 0
                at_once = min(at_once * 8, OBJECT_WANTS) if taken.complete else at_once
            elif taken is not None and at_once > 1:
                at_once = max(1, len(asked) // 8)
            elif taken is not None:
                tries, most = tries + 1, max(most, taken.received)
                if self._overcome(lacking[0], taken, tries=tries, most=most):
                    at_once, tries, most, taken, asked = OBJECT_WANTS, 0, 0, None, frozenset()
                    continue
            wants = lacking[:at_once]
            asked = frozenset(wants)
            request = FetchRequest(
                self.goal.object_format, wants, (), filter="tree:0" if self.filters else "", thin=False, more=True
            )
            taken = self._ask(request, patient=at_once == 1, own=vain, behind=True)

    def _overcome(self, oid: GitOid, taken: Taken, *, tries: int, most: int) -> bool:
        """Do something about an object that did not come ``tries`` times; ``False`` to ask again.

        ``most`` is how many bytes came at best.
        """
        if tries != RANGES_AFTER and tries < SINGLE_TRIES:
            return False
        place = self.filling.locate(oid)
        if (
            tries == RANGES_AFTER
            and place is not None
            and self._from_anywhere(oid, *place, most=taken.cut_size or self.limits.max_bytes)
        ):
            return True
        if tries < SINGLE_TRIES:
            return False
        if most < LEAST_CUT and taken.error is not None:
            raise _damaged(taken.error) if isinstance(taken.error, GitFailed) else taken.error
        size = f"{taken.cut_size} bytes" if taken.cut_size else "of unknown size"
        name = printable(place[1].decode("utf-8", "surrogateescape")) if place is not None else "a tree or commit"
        reason = f"{name} ({oid[:12]}, {size}) fits through no connection, and no source gives ranges of it"
        self.filling.give_up(oid, reason)
        self._given_up += 1
        if self._given_up >= MOST_GIVEN_UP:
            raise UpstreamUnavailable("upstream breaks off at every object", why=reason)
        return True

    def _from_anywhere(self, oid: GitOid, commit: GitOid, path: bytes, *, most: int) -> bool:
        """Bring one blob of at most ``most`` bytes in parts from some place that takes ranges; ``False`` when none gives it now."""
        self.way = Way.BLOB
        try:
            for source in self.sources:
                try:
                    if not source.out and self._ranged(source, oid, commit, path, most=most):
                        return True
                except (
                    UpstreamInvalid,
                    UpstreamRefused,
                    UpstreamGone,
                    UpstreamUnavailable,
                    AddressRefused,
                    ObjectMissingUpstream,
                ) as error:
                    # Files may lie on a host of their own: what that does says nothing of git's,
                    # and what came of the blob stays for the next run.
                    self.telemetry.event("blob_not_had", host=source.upstream.host, oid=oid, why=str(error))
            return False
        finally:
            self.way = Way.OBJECTS

    def _ranged(self, source: _Source, oid: GitOid, commit: GitOid, path: bytes, *, most: int) -> bool:
        """Bring a blob from one place; ``False`` when it has no such place or gives something else."""
        part = self.filling.blob(oid)
        others, failures = part.here() > 0, 0
        while True:
            self.check()
            start = part.here()
            body = None
            try:
                body = source.upstream.open_blob(commit, path, start=start)
                if body is None:
                    return False
                # One without ranges sends again what is here; it counts only once it gets beyond.
                again = start - body.start
                for chunk in body.chunks():
                    self.check()
                    self._came(len(chunk))
                    self._show(*self.filling.place())
                    fresh, again = chunk[again:], max(0, again - len(chunk))
                    if not fresh:
                        continue
                    part.write(fresh)
                    if part.here() > most:
                        part.restart()
                        raise UpstreamInvalid(
                            f"{source.upstream.host} sends more bytes than the file has", why=f"it has {most} at most"
                        )
                if part.keep():
                    return True
                if not others:
                    return False
                others = False  # what another place had sent was wrong perhaps; once more from the start
            except RateLimited as error:
                self._sit_out(error)
            except UpstreamUnavailable:
                self.cuts += 1
                failures = 0 if part.here() > start else failures + 1
                if failures >= self.limits.patience:
                    raise
                self._wait(failures)
            finally:
                if body is not None:
                    body.close()

    def _rest(self) -> None:
        """Bring what no range of commits holds: tag objects, tags of trees and blobs, and what an answer left out."""
        tips = frozenset(self.goal.tips)
        before: frozenset[GitOid] = frozenset()
        while absent := self.filling.lacking(None, limit=OBJECT_WANTS):
            asked = frozenset(absent)
            if not asked <= tips or asked == before:
                self._objects(None)
                return
            before = asked
            self.way = Way.LADDER
            self._show(*self.filling.place())
            # Their targets are here; without naming them the whole history would come along.
            peeled = [self.goal.peeled[tip] for tip in absent if tip in self.goal.peeled]
            present = [tip for tip in self.goal.tips if tip not in asked]
            haves = [*dict.fromkeys([*peeled, *present, *self.goal.boundary])][:HAVES]
            self._ask(FetchRequest(self.goal.object_format, absent, haves))

    # ------------------------------------------------------------ one request

    def _ask(
        self,
        request: FetchRequest,
        *,
        graph: bool = False,
        until_trees: bool = False,
        own: bool = False,
        patient: bool = False,
        alone: bool = False,
        behind: bool = False,
    ) -> Taken:
        """Ask one source and return what came; what only another source or another question can mend is tried so.

        Raises when it was in vain too often in a row, except for a ``patient`` caller,
        who counts for himself, and one who asks ``alone``, for everything at once.
        """
        while True:
            self.check()
            source = self.own if own else self._choose()
            self._busy = source
            began, had = self.clock.monotonic(), self.received
            try:
                taken = self.filling.take(
                    self._watched(source.upstream, request),
                    graph=graph,
                    until_trees=until_trees,
                    behind=behind,
                    max_bytes=self.limits.max_bytes,
                )
            finally:
                source.measured(self.received - had, self.clock.monotonic() - began)
            error = taken.error
            self._weigh(taken)
            if taken.complete or taken.stopped or error is None:
                self._fruitless = 0
                return taken
            if not source.own and not isinstance(error, (UpstreamUnavailable, UpstreamInvalid)):
                self._leave(source, error)
                continue
            if isinstance(error, UpstreamDeclined):
                if not source.own:
                    self._leave(source, error)
                    continue
                if isinstance(error, UpstreamLacks) or not request.filter:
                    raise error
                # It takes filters, but not this one.
                self.filters = False
                request, until_trees = replace(request, filter=""), graph
                continue
            if isinstance(error, RateLimited):
                self._sit_out(error)
                continue
            if not isinstance(error, (UpstreamUnavailable, UpstreamInvalid, GitFailed)):
                raise error
            self._note_cut(taken)
            if taken.received and (taken.objects or patient or alone):
                self._fruitless = 0
                return taken
            self._fruitless += 1
            if not source.own:
                self._leave(source, error)
                continue
            if self._fruitless >= self.limits.patience or not self.received:
                # What never began to answer is asked again at the next poll.
                raise _damaged(error) if isinstance(error, GitFailed) else error
            self._wait(self._fruitless)
            return taken

    def _weigh(self, taken: Taken) -> None:
        """Raise when pack after pack looked sound as it came and nothing of it could be kept."""
        if taken.before is not None:
            self._hollow = 0 if taken.before else self._hollow + 1
        if self._hollow >= self.limits.patience:
            raise _damaged(
                taken.error or GitFailed("nothing could be kept of the packs that came", argv=("index-pack",))
            )

    def _note_cut(self, taken: Taken) -> None:
        self.cuts += 1
        if taken.received >= LEAST_CUT:
            self._shortest = min(self._shortest or taken.received, taken.received)

    def _choose(self) -> _Source:
        """Return the fastest source, or one nearer than upstream that was not tried yet."""
        candidates = [source for source in self.sources if not source.out]
        untried = [source for source in candidates[1:] if source.rate is None]
        if untried:
            return untried[0]
        return max(candidates, key=lambda source: (source.rate or 0.0, not source.own))

    def _leave(self, source: _Source, error: MirrorSyncError) -> None:
        source.out = True
        self._fruitless = 0
        self.telemetry.event("git_source_left", host=source.upstream.host, why=str(error))

    def _sit_out(self, error: RateLimited) -> None:
        seconds = max(FIRST_WAIT, error.until - self.clock.now())
        self._sat_out += seconds
        if self._sat_out > WORTH_WAITING:
            raise error
        if self.clock.sleep(seconds, stop=self.stop):
            raise Interrupted

    def _watched(self, upstream: Upstream, request: FetchRequest) -> Iterator[bytes]:
        for chunk in upstream.fetch(request):
            self.check()
            self._came(len(chunk))
            self._show(*self._place)
            yield chunk

    # ------------------------------------------------------------ going on, telling

    def check(self) -> None:
        """Raise :class:`Interrupted` when the process is stopping, :class:`Preempted` when others wait."""
        self.check_stop()
        if self.yielding():
            raise Preempted("the fetch makes way for other mirrors and goes on after them")

    def check_stop(self) -> None:
        """Raise :class:`Interrupted` when the process is stopping."""
        if self.stop.is_set():
            raise Interrupted

    def _wait(self, failures: int) -> None:
        seconds = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** max(0, failures - 1))
        if self.clock.sleep(seconds * (0.5 + 0.5 * self.clock.chance()), stop=self.stop):
            raise Interrupted

    def _came(self, size: int) -> None:
        self._meter.add(size, self.clock.monotonic())
        self._sat_out = 0.0

    def _show(self, done: int, total: int | None) -> None:
        self._place = (done, total)
        if total is not None and self._done_before is None:
            self._done_before = done
        now = self.clock.monotonic()
        if now - self._told_at < REPORT_SECONDS:
            return
        self._told_at = now
        self._tell(
            Progress(
                Kind.GIT,
                self.way,
                done=done,
                total=total,
                received=self.received,
                rate=self._meter.rate(now),
                connections=1,
                cuts=self.cuts,
                sources=(self._busy.upstream.host,) if self._busy is not None else (),
                began_at=self._began_at,
                at=self.clock.now(),
                done_before=self._done_before or 0,
            )
        )


class _Pace:
    """How many commits to ask for at once, learnt from what came through.

    Of a range that breaks off little can be used, unless its objects are large: so a
    range is kept below the shortest connection seen and a small share of the whole.
    """

    def __init__(self, limits: FillLimits, total: int, guess: float) -> None:
        self._limits = limits
        self._target = float(limits.first_bytes)
        self._per_commit: float | None = None
        self._most = max(total // SHARES, FEWEST_AT_MOST)
        self.commits = FIRST_COMMITS
        if guess:
            self.commits = max(1, min(int(self._target * GUESSED_SHARE * total / guess), self._most))

    def through(self, commits: int, taken: Taken, *, shortest: int | None) -> None:
        """Take note of a range that came whole; ``shortest`` is what the shortest connection brought that broke."""
        each = taken.received / commits
        self._per_commit = each if self._per_commit is None else (self._per_commit + each) / 2
        large = _has_large_objects(taken)
        if taken.received > self._target / 2:
            self._target = min(self._target * (GROWTH_LARGE if large else GROWTH_SMALL), self._limits.most_bytes)
        if shortest is not None:
            # A cut in the middle of a large object costs that object only.
            least = self._limits.first_bytes * LARGE_SHARE if large else self._limits.least_bytes
            self._target = min(self._target, max(least, shortest * SAFE_SHARE))
        self._set(commits * GROWTH)

    def cut(self, commits: int, taken: Taken, *, finished: bool) -> None:
        """Take note of a range that broke off; ``finished``: object by object, so that nothing is asked for again."""
        size = taken.received
        lower = self._target * (0.9 if finished else 0.75)
        self._target = max(self._limits.least_bytes, min(lower, size * 0.8 if size > 1 << 20 else lower))
        self._per_commit = max(self._per_commit or 0.0, size / commits)
        self._set(commits if finished else commits // 2)

    def _set(self, most: int) -> None:
        fitting = int(self._target / max(self._per_commit or 0.0, 1.0))
        self.commits = max(1, min(fitting, most, self._most))


def _has_large_objects(taken: Taken) -> bool:
    return taken.objects > 0 and taken.received / taken.objects > BIG_OBJECT


def _worth_finishing(taken: Taken) -> bool:
    """Tell whether asking for the rest of a broken range by object wastes less than asking for it again."""
    if not taken.objects:
        return False
    lacking = taken.announced - taken.objects
    return _has_large_objects(taken) or lacking * NEARLY_WHOLE < taken.announced


def _damaged(error: MirrorSyncError) -> UpstreamInvalid:
    return UpstreamInvalid(
        "upstream's packs arrive damaged",
        why=(error.stderr if isinstance(error, GitFailed) else "") or str(error),
        remedy="something on the way changes bytes: look at proxies and the link; clients keep the refs published before",
    )


def _too_large_a_step(error: MirrorSyncError) -> MirrorSyncError:
    return UpstreamUnavailable(
        error.message,
        why=f"{error.why}; this server gives nothing but whole refs, and one of them fits through no connection".lstrip(
            "; "
        ),
        remedy="name a nearer source of the same repository (accelerators), or a way out with a better link (proxy)",
        code=error.code,
    )
