"""Fetching over a link that breaks, over scripted upstreams: what is asked for, kept, given up, and what crashes leave."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from mirror_sync.actions.fill import SINGLE_TRIES, FillLimits, FillReport, fill
from mirror_sync.domain.names import GitOid
from mirror_sync.domain.progress import Progress, Way
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import (
    Interrupted,
    MirrorSyncError,
    Preempted,
    RateLimited,
    UpstreamDeclined,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamUnavailable,
)
from mirror_sync.ports import Abilities, BlobBody, FetchRequest, GitAccess, Goal, Upstream
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.filling import PACK
from mirror_sync.testing.repository import MemoryRepository, ScriptedObjects
from mirror_sync.testing.telemetry import ListedTelemetry

LINE = 41
"""Bytes that one object takes in a pack of names."""


@dataclass
class FileBody:
    """A file from ``start`` on, cut after ``most`` bytes; implements :class:`mirror_sync.ports.BlobBody`."""

    start: int
    data: bytes
    most: int
    size: int | None = None

    def chunks(self) -> Iterator[bytes]:
        for at in range(self.start, len(self.data)):
            if at - self.start >= self.most:
                raise UpstreamUnavailable("cut")
            yield self.data[at : at + 1]

    def close(self) -> None:
        pass


@dataclass
class Link(Upstream):  # only what a fill asks for is scripted; anything else fails loudly
    """An upstream whose connections break after some bytes."""

    objects: ScriptedObjects
    clock: HandClock
    cut: Callable[[], int] = lambda: 1 << 30
    filters: bool = True
    only_tips: frozenset[GitOid] | None = None
    lacks: frozenset[GitOid] = frozenset()
    lies: bool = False
    heavy: dict[GitOid, int] = field(default_factory=dict)
    """Bytes of an object beyond its name."""
    errors: list[MirrorSyncError] = field(default_factory=list)
    """Raised, one for each request, instead of an answer."""
    files: Callable[[GitOid], bytes] | None = None
    file_cut: int = 1 << 30
    name: str = "upstream.example"
    asked: list[FetchRequest] = field(default_factory=list)
    sent: int = 0
    during: Callable[[], None] = lambda: None

    @property
    def host(self) -> str:
        return self.name

    def abilities(self) -> Abilities:
        return Abilities(2, ObjectFormat.SHA1, self.filters)

    def git_access(self) -> GitAccess:
        return GitAccess("https://upstream.example/x", {})

    def fetch(self, request: FetchRequest) -> Iterator[bytes]:
        self.asked.append(request)
        if self.errors:
            raise self.errors.pop(0)
        if request.filter and not self.filters:
            raise UpstreamDeclined("upstream gave up during the fetch", why="filter 'tree' not supported")
        if self.lacks & set(request.wants):
            raise UpstreamLacks("not here")
        if self.only_tips is not None and not set(request.wants) <= self.only_tips:
            raise UpstreamLacks("not our ref")
        left = self.cut()
        for piece in self._pieces(request):
            self.during()
            self.clock.advance(0.1)
            if len(piece) > left:
                self.sent += left
                yield piece[:left]
                raise UpstreamUnavailable("upstream broke off in the middle of a pack")
            left -= len(piece)
            self.sent += len(piece)
            yield piece

    def _pieces(self, request: FetchRequest) -> Iterator[bytes]:
        yield PACK
        names = [GitOid("e" * 40)] if self.lies else self._reached(request)
        for oid in names:
            yield f"{oid}\n".encode()
        yield b"end\n"

    def _reached(self, request: FetchRequest) -> list[GitOid]:
        """What a real server sends: wants alone under a filter of trees by id, else all that haves do not reach."""
        if not request.haves and not request.shallow and not request.thin and len(request.wants) and self._single:
            return list(request.wants)
        grafts, hidden, todo = set(request.shallow), set(), list(request.haves)
        while todo:
            oid = todo.pop()
            if oid not in hidden and oid in self.objects:
                hidden.add(oid)
                todo += [] if oid in grafts else self.objects[oid].parents
        found: dict[GitOid, None] = {}
        todo = list(request.wants)
        while todo:
            oid = todo.pop(0)
            if oid not in hidden and oid not in found:
                found[oid] = None
                todo += [] if oid in grafts else self.objects[oid].parents
        return list(found)

    @property
    def _single(self) -> bool:
        return any(request.thin for request in self.asked[1:])

    def open_blob(self, commit: GitOid, path: bytes, *, start: int) -> BlobBody | None:
        assert path == b"file"
        if self.files is None:
            return None
        return FileBody(start, self.files(commit), self.file_cut)


class Scene:
    """One repository with a history upstream, and the link to it."""

    def __init__(self, commits: int = 40) -> None:
        self.clock = HandClock()
        self.objects = ScriptedObjects()
        self.telemetry = ListedTelemetry()
        self.repository = MemoryRepository(self.objects)
        self.tips: list[GitOid] = []
        self.history: list[GitOid] = []
        self.stop = threading.Event()
        self.told: list[Progress] = []
        self.goal_tips: list[GitOid] = []
        parent: list[GitOid] = []
        for number in range(commits):
            oid = self.objects.commit(str(number), parents=parent)
            if number % 7 == 3:
                side = self.objects.commit(f"side {number}", parents=[oid])
                self.history.append(side)
                self.tips.append(side)
            self.history.append(oid)
            parent = [oid, *self.tips[-1:]] if number % 11 == 5 else [oid]
        self.tips.append(self.history[-1])
        tag = self.objects.tag("v1", self.history[10])
        self.tips.append(tag)
        self.history.append(tag)
        self.peeled = {tag: self.history[10]}
        self.link = Link(self.objects, self.clock)

    def run(
        self,
        *more: Link,
        boundary: Sequence[GitOid] = (),
        protocol: int = 2,
        yielding: Callable[[], bool] = lambda: False,
        here: Sequence[GitOid] = (),
        max_bytes: int = 1 << 50,
    ) -> FillReport:
        with self.repository.lock():
            return fill(
                Goal(ObjectFormat.SHA1, self.tips, boundary, self.peeled),
                filling=self.repository.filling(),
                sources=[self.link, *more],
                protocol=protocol,
                clock=self.clock,
                telemetry=self.telemetry,
                report=self.told.append,
                stop=self.stop,
                limits=FillLimits(max_bytes=max_bytes, first_bytes=8 * LINE, least_bytes=LINE),
                here=here,
                yielding=yielding,
            )

    def assert_whole(self) -> None:
        assert set(self.history) <= self.repository.disk.stage | self.repository.disk.store
        assert not self.repository.filling().begun()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def cuts(seed: int, low: int, high: int) -> Callable[[], int]:
    chance = random.Random(seed)
    return lambda: chance.randint(low, high)


def test_a_sound_link_takes_one_request(scene):
    report = scene.run()
    assert len(scene.link.asked) == 1
    assert report.cuts == 0
    assert report.received == scene.link.sent
    scene.assert_whole()


def test_an_update_names_what_is_here(scene):
    scene.repository.disk.store.update(scene.objects.reach([scene.history[20]]))
    scene.run(boundary=[scene.history[20]])
    assert scene.link.asked[0].haves == [scene.history[20]]
    scene.assert_whole()


@pytest.mark.parametrize("seed", range(20))
def test_every_link_that_lets_one_object_through_brings_everything(seed):
    scene = Scene(commits=60)
    scene.link.cut = cuts(seed, len(PACK) + LINE, len(PACK) + 20 * LINE)
    report = scene.run()
    assert report.cuts > 0
    scene.assert_whole()


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_process_goes_on_where_it_was(seed):
    scene = Scene(commits=60)
    chance = random.Random(seed)
    scene.link.cut = cuts(seed, len(PACK) + LINE, len(PACK) + 20 * LINE)
    kills = 0

    class Killed(BaseException):
        pass

    def during() -> None:
        if chance.random() < 0.02:
            raise Killed

    scene.link.during = during
    while True:
        try:
            scene.run()
        except Killed:
            kills += 1
            continue
        break
    scene.assert_whole()
    assert kills or seed


def test_commits_are_asked_for_as_a_shallow_client_asks(scene):
    limits = iter([len(PACK) + 3 * LINE, len(PACK) + 9 * LINE])
    scene.link.cut = lambda: next(limits, 1 << 30)
    scene.run()
    graph = [request for request in scene.link.asked if request.filter == "tree:0"]
    assert graph[0].shallow
    assert not set(graph[0].shallow) & set(graph[0].wants)
    assert all(not request.thin for request in graph)
    scene.assert_whole()


def test_tags_come_last_and_alone(scene):
    first = iter([len(PACK) + LINE])
    scene.link.cut = lambda: next(first, 1 << 30)
    scene.run()
    tag = scene.tips[-1]
    assert scene.link.asked[-1].wants == [tag]
    assert scene.peeled[tag] in scene.link.asked[-1].haves
    scene.assert_whole()


def test_a_server_without_filters_is_asked_without(scene):
    scene.link.filters = False
    scene.link.cut = cuts(2, len(PACK) + 2 * LINE, len(PACK) + 9 * LINE)
    scene.run()
    assert not any(request.filter for request in scene.link.asked)
    scene.assert_whole()


def test_a_server_that_refuses_its_own_filter_is_asked_without(scene):
    scene.link.cut = cuts(3, len(PACK) + 2 * LINE, len(PACK) + 9 * LINE)
    asked = scene.link.fetch

    def fetch(request: FetchRequest) -> Iterator[bytes]:
        if request.filter:
            raise UpstreamDeclined("upstream gave up during the fetch", why="filter 'tree' not supported")
        yield from asked(request)

    scene.link.fetch = fetch
    scene.run()
    scene.assert_whole()


def test_a_server_that_gives_only_refs_is_asked_ref_by_ref(scene):
    scene.link.only_tips = frozenset(scene.tips)
    limits = iter([len(PACK) + 3 * LINE, len(PACK) + 20])
    scene.link.cut = lambda: next(limits, len(PACK) + 45 * LINE)
    scene.run()
    scene.assert_whole()
    assert scene.told == [] or scene.told[-1].way in set(Way)


def test_a_ref_too_large_for_a_server_that_gives_only_refs_says_what_would_help(scene):
    scene.link.only_tips = frozenset(scene.tips)
    scene.link.cut = lambda: len(PACK) + 3 * LINE
    with pytest.raises(UpstreamUnavailable) as caught:
        scene.run()
    assert "accelerators" in caught.value.remedy


def test_v0_goes_ref_by_ref_through_stock_git(scene):
    scene.run(protocol=0)
    assert scene.link.asked == []
    scene.assert_whole()


def test_a_ref_rewritten_meanwhile_is_said_so(scene):
    scene.link.lacks = frozenset(scene.tips[:1])
    with pytest.raises(UpstreamLacks):
        scene.run()


def test_the_first_refusal_ends_the_run_at_once(scene):
    scene.link.errors = [UpstreamUnavailable("no connection")]
    with pytest.raises(UpstreamUnavailable):
        scene.run()
    assert len(scene.link.asked) == 1
    scene.link.errors = [UpstreamInvalid("a login page")]
    with pytest.raises(UpstreamInvalid):
        scene.run()


def test_an_outage_in_the_middle_is_sat_out_with_patience(scene):
    first = iter([len(PACK) + 5 * LINE])
    scene.link.cut = lambda: next(first, 1 << 30)
    asked = scene.link.fetch
    down = iter(range(5))

    def fetch(request: FetchRequest) -> Iterator[bytes]:
        if scene.link.sent and next(down, None) is not None:
            raise UpstreamUnavailable("no connection")
        yield from asked(request)

    scene.link.fetch = fetch
    scene.run()
    scene.assert_whole()


def test_an_outage_that_stays_ends_the_run_and_keeps_what_came(scene):
    first = iter([len(PACK) + 5 * LINE])
    scene.link.cut = lambda: next(first, 0)
    with pytest.raises(UpstreamUnavailable):
        scene.run()
    kept = set(scene.repository.disk.stage)
    assert len(kept) == 5
    scene.link.cut = lambda: 1 << 30
    scene.run()
    assert kept <= scene.repository.disk.stage
    scene.assert_whole()


def test_a_short_wish_to_wait_is_granted_and_a_long_one_ends_the_run(scene):
    scene.link.errors = [RateLimited("slow down", until=scene.clock.now() + 60)]
    began = scene.clock.now()
    scene.run()
    assert scene.clock.now() >= began + 60
    fresh = Scene()
    fresh.link.errors = [RateLimited("slow down", until=fresh.clock.now() + 3600)]
    with pytest.raises(RateLimited):
        fresh.run()


def test_stopping_and_making_way_end_it_between_two_pieces(scene):
    scene.link.during = scene.stop.set
    with pytest.raises(Interrupted):
        scene.run()
    scene.stop.clear()
    scene.link.during = lambda: None
    with pytest.raises(Preempted):
        scene.run(yielding=lambda: True)
    scene.run()
    scene.assert_whole()


@pytest.mark.parametrize("reason", ["stopping", "making way"])
def test_what_upstream_said_is_raised_though_nobody_waits_for_what_is_checked(scene, monkeypatch, reason):
    waits = threading.Event()

    def settle(self, *, tick=lambda: None) -> None:
        (scene.stop if reason == "stopping" else waits).set()
        for _ in range(1000):
            tick()
        pytest.fail("nothing ends this")

    monkeypatch.setattr(type(scene.repository.filling()), "settle", settle)
    first = iter([len(PACK) + 5 * LINE])
    scene.link.cut = lambda: next(first, 0)
    with pytest.raises(UpstreamUnavailable):
        scene.run(yielding=waits.is_set)


def test_another_goal_keeps_what_came_for_the_old_one():
    scene = Scene(commits=80)
    limits = iter([len(PACK) + 10 * LINE, 1 << 30, *[len(PACK) + 12 * LINE] * 6])
    scene.link.cut = lambda: next(limits, 0)
    with pytest.raises(UpstreamUnavailable):
        scene.run()
    newer = scene.objects.commit("newer", parents=[scene.history[-2]])
    scene.tips = [newer]
    scene.history = scene.objects.reach([newer])
    scene.link.cut = lambda: 1 << 30
    before = scene.link.sent
    scene.run()
    scene.assert_whole()
    assert scene.link.sent - before < 2 * len(scene.history) * LINE


# ---------------------------------------------------------------- an object larger than every cut


def heavy_scene() -> tuple[Scene, GitOid]:
    scene = Scene()
    heavy = scene.history[25]
    scene.link.heavy = {heavy: 1 << 20}
    scene.link.cut = lambda: (1 << 17) + 50

    # The heavy object's name is the last thing of it to come.
    pieces = scene.link._pieces

    def heavy_first(request: FetchRequest) -> Iterator[bytes]:
        for piece in pieces(request):
            by_id = heavy in request.wants and not request.shallow and not request.haves
            if piece == f"{heavy}\n".encode() and (by_id or not request.filter):
                yield b"\n" * scene.link.heavy[heavy]
            yield piece

    scene.link._pieces = heavy_first
    return scene, heavy


def test_a_blob_too_large_for_the_link_comes_in_ranges():
    scene, heavy = heavy_scene()
    scene.link.files = lambda commit: commit.encode()
    scene.link.file_cut = 3
    report = scene.run()
    assert report.given_up == {}
    assert heavy in scene.repository.disk.stage
    scene.assert_whole()


def test_a_blob_that_no_source_gives_in_ranges_is_given_up_with_its_path_and_the_rest_is_here():
    scene, heavy = heavy_scene()
    report = scene.run()
    assert list(report.given_up) == [heavy]
    assert "file" in report.given_up[heavy]
    assert set(scene.history) - scene.repository.disk.stage == {heavy}
    assert scene.repository.filling().begun()
    assert sum(request.wants == [heavy] for request in scene.link.asked) <= SINGLE_TRIES + 1


# ---------------------------------------------------------------- nearer sources


def test_bytes_come_from_a_nearer_source(scene):
    near = Link(scene.objects, scene.clock, name="near.example")
    scene.run(near)
    assert len(near.asked) == 1
    assert scene.link.asked == []
    scene.assert_whole()


def test_an_update_asks_upstream_first(scene):
    near = Link(scene.objects, scene.clock, name="near.example")
    scene.repository.disk.store.update(scene.objects.reach([scene.history[20]]))
    scene.run(near, boundary=[scene.history[20]])
    assert near.asked == []


@pytest.mark.parametrize(
    "near",
    [
        {"lies": True},
        {"errors": [UpstreamGone("404")]},
        {"errors": [UpstreamUnavailable("down")]},
        {"errors": [UpstreamDeclined("no")]},
        {"errors": [RateLimited("wait", until=1e12)]},
    ],
    ids=["lies", "gone", "down", "declines", "limits"],
)
def test_a_nearer_source_that_is_no_use_costs_time_and_nothing_else(scene, near):
    source = Link(scene.objects, scene.clock, name="near.example", **near)
    scene.run(source)
    scene.assert_whole()
    assert len(source.asked) <= 2
    assert scene.link.asked


def test_a_stale_nearer_source_is_left_and_a_liar_reported(scene):
    stale = Link(scene.objects, scene.clock, name="stale.example", lacks=frozenset(scene.tips[-2:-1]))
    liar = Link(scene.objects, scene.clock, name="liar.example", lies=True)
    scene.run(stale, liar)
    scene.assert_whole()
    assert [fields["host"] for _, fields in scene.telemetry.named("git_source_left")] == ["stale.example"]
    assert [fields["host"] for _, fields in scene.telemetry.named("git_source_lied")] == ["liar.example"]


@pytest.mark.parametrize("seed", range(5))
def test_a_nearer_source_over_a_breaking_link_helps(seed):
    scene = Scene(commits=60)
    near = Link(scene.objects, scene.clock, name="near.example")
    near.cut = scene.link.cut = cuts(seed, len(PACK) + LINE, len(PACK) + 20 * LINE)
    scene.run(near)
    scene.assert_whole()
    assert near.asked


def test_people_are_told_the_way_and_how_far_it_is(scene):
    scene.link.cut = cuts(4, len(PACK) + 2 * LINE, len(PACK) + 9 * LINE)
    scene.run()
    ladder = [told for told in scene.told if told.way is Way.LADDER]
    assert ladder
    assert ladder[-1].total
    assert ladder[-1].done <= ladder[-1].total
    assert [told.received for told in scene.told] == sorted(told.received for told in scene.told)
    assert scene.told[-1].cuts > 0
    assert scene.told[-1].sources == ("upstream.example",)


# ---------------------------------------------------------------- nothing goes on for ever


def test_a_server_that_asks_for_a_moment_again_and_again_ends_the_run(scene):
    scene.link.errors = [RateLimited("wait", until=0.0) for _ in range(1000)]
    with pytest.raises(RateLimited):
        scene.run()
    assert len(scene.link.asked) <= 300


def test_a_moment_asked_for_now_and_then_is_waited_for(scene):
    scene.link.cut = cuts(1, len(PACK) + 2 * LINE, len(PACK) + 6 * LINE)
    asked, turn = scene.link.fetch, iter(range(1000))

    def fetch(request: FetchRequest) -> Iterator[bytes]:
        if next(turn) % 2:
            raise RateLimited("wait", until=scene.clock.now() + 100)
        yield from asked(request)

    scene.link.fetch = fetch
    scene.run()
    scene.assert_whole()


def test_a_file_from_a_server_without_ranges_gets_on_by_what_lies_beyond():
    scene, _ = heavy_scene()
    sizes = iter([3, 30, 5, 35, 2, 12, 36, 1, 40, 41])
    asked = []

    def open_blob(commit: GitOid, path: bytes, *, start: int) -> BlobBody:
        asked.append(start)
        return FileBody(0, commit.encode(), next(sizes))

    scene.link.open_blob = open_blob
    assert scene.run().given_up == {}
    assert asked == sorted(asked)
    scene.assert_whole()


def test_a_file_that_breaks_off_at_the_same_place_again_and_again_is_given_up():
    scene, heavy = heavy_scene()
    asked, chance = [], random.Random(1)

    def open_blob(commit: GitOid, path: bytes, *, start: int) -> BlobBody:
        asked.append(start)
        assert len(asked) < 1000
        return FileBody(0, commit.encode(), chance.randrange(1, 30))

    scene.link.open_blob = open_blob
    report = scene.run()
    assert list(report.given_up) == [heavy]
    assert set(scene.history) - scene.repository.disk.stage == {heavy}


def test_a_host_of_files_that_is_down_holds_up_one_object_only():
    scene, heavy = heavy_scene()

    def open_blob(commit: GitOid, path: bytes, *, start: int) -> BlobBody:
        raise UpstreamUnavailable("no connection to the host of files")

    scene.link.open_blob = open_blob
    report = scene.run()
    assert list(report.given_up) == [heavy]
    assert set(scene.history) - scene.repository.disk.stage == {heavy}


def test_a_file_without_end_is_dropped():
    scene, heavy = heavy_scene()
    came = []

    class Endless(FileBody):
        def chunks(self) -> Iterator[bytes]:
            while True:
                came.append(1)
                yield b"x" * 100

    scene.link.open_blob = lambda commit, path, start: Endless(start, b"", 0)
    report = scene.run(max_bytes=1 << 20)
    assert list(report.given_up) == [heavy]
    assert len(came) < 3 * (1 << 20) // 100
    assert scene.repository.filling().blob(heavy).here() == 0


def test_wrong_beginnings_from_one_place_do_not_spoil_what_another_has():
    scene, heavy = heavy_scene()
    near = Link(scene.objects, scene.clock, name="near.example", heavy=scene.link.heavy)
    with scene.repository.lock():
        scene.repository.filling().blob(heavy).write(b"wrong")
    scene.link.files = lambda commit: commit.encode()
    assert scene.run(near).given_up == {}
    scene.assert_whole()


def test_a_whole_ref_that_was_not_whole_is_asked_for_again(scene):
    """A server gives refs only, and what it called a whole pack was none."""
    scene.link.only_tips = frozenset(scene.tips)
    limits = iter([len(PACK) + 3 * LINE])
    scene.link.cut = lambda: next(limits, 1 << 30)
    asked = scene.link.fetch

    def fetch(request: FetchRequest) -> Iterator[bytes]:
        if scene.link.asked and request.thin:
            scene.link.asked.append(request)
            yield from [PACK, b"end\n"]
        else:
            yield from asked(request)

    scene.link.fetch = fetch
    with pytest.raises((UpstreamLacks, UpstreamInvalid)):
        scene.run()
    scene.link.fetch = asked
    scene.run()
    scene.assert_whole()
