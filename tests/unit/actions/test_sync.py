"""The nine steps over an in-memory world: what is published, held and recorded, and what a crash leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mirror_sync.actions.sync import sync
from mirror_sync.actions.world import Policy, World
from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.refs import NO_HEAD, RefSnapshot
from mirror_sync.domain.runs import Availability, Health, Lease, Mirror, NewMirror, Outcome, RunReport, Trigger, health
from mirror_sync.errors import (
    Interrupted,
    LeaseLost,
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.objects import MemoryObjectStore
from mirror_sync.testing.parallel import OneByOne
from mirror_sync.testing.repository import MemoryRepository, ScriptedObjects
from mirror_sync.testing.state import MemoryState
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.testing.upstream import Fault, ScriptedUpstream

NAME = MirrorName("upstream.example/acme/model")
MAIN, DEV = RefName("refs/heads/main"), RefName("refs/heads/dev")


class Crash(BaseException):
    """The process died here."""


class House:
    """One mirror and everything around it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.state = MemoryState(self.clock)
        self.git = ScriptedObjects()
        self.repository = MemoryRepository(self.git)
        self.upstream = ScriptedUpstream(self.clock, pack=self._pack)
        self.objects = MemoryObjectStore(self.clock)
        self.telemetry = ListedTelemetry()
        self.policy = Policy(jitter=0.0)
        self.outside: Any = None
        self.mirror, _ = self.state.enrol(NewMirror(NAME, "https://upstream.example/acme/model", 600.0, 1800.0))

    def _pack(self, request: Any) -> list[bytes]:
        return [self.git.pack(request.wants, haves=request.haves)]

    def world(self, wrap: Callable[[Any], Any] = lambda part: part) -> World:
        return World(
            state=wrap(self.state),
            repository=wrap(self.repository),
            upstream=wrap(self.upstream),
            objects=wrap(self.objects),
            clock=self.clock,
            outside=self.outside,
            parallel=OneByOne(),
            telemetry=self.telemetry,
        )

    def run(self, *, wrap: Callable[[Any], Any] = lambda part: part, stop: threading.Event | None = None) -> RunReport:
        self.state.mark_due(self.mirror.id, Trigger.OPERATOR)
        lease = self.state.claim("w1", lease_seconds=60.0)
        assert lease is not None
        return sync(lease, self.world(wrap), self.policy, stop=stop or threading.Event())

    def offer(self, head: RefName = MAIN, **branches: GitOid) -> None:
        self.upstream.snapshot = RefSnapshot(
            {RefName(f"refs/heads/{name}"): oid for name, oid in branches.items()}, head
        )

    def now(self) -> Mirror:
        return self.state.mirror(NAME)

    def served(self) -> RefSnapshot:
        return self.repository.published().snapshot

    def check_promise(self) -> None:
        """No published tip lacks an LFS object of its checkout."""
        for oid in self.served().tips.values():
            for need in self.git[oid].needs:
                assert self.objects.has(need.pointer), (oid, need)


@pytest.fixture
def house() -> House:
    return House()


def test_first_sync_publishes_everything_and_confirms_the_start_of_the_observation(house: House) -> None:
    weights = house.upstream.put(b"weights")
    house.offer(main=house.git.commit("one", files={"w.bin": weights}), dev=house.git.commit("two"))
    began = house.clock.now()
    report = house.run()
    assert report.outcome is Outcome.PUBLISHED
    assert house.served() == house.upstream.snapshot
    mirror = house.now()
    assert mirror.confirmed_at == began
    assert mirror.known_behind_since is None
    assert (mirror.lfs.wanted, mirror.lfs.present, mirror.lfs.missing) == (1, 1, 0)
    assert health(mirror, house.clock.now()) is Health.FRESH
    assert house.repository.stage_is_empty()


def test_unchanged_poll_fetches_nothing_and_makes_no_run_record(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    stored = len(house.state.runs(house.mirror.id))
    house.clock.advance(300.0)
    report = house.run()
    assert report.outcome is Outcome.UNCHANGED
    assert len(house.upstream.fetched) == 1
    assert len(house.state.runs(house.mirror.id)) == stored
    assert house.now().confirmed_at == house.clock.now()


def test_forced_and_deleted_tips_are_kept(house: House) -> None:
    first, side = house.git.commit("one"), house.git.commit("side")
    house.offer(main=first, dev=side)
    house.run()
    house.offer(main=house.git.commit("rewritten"))
    house.run()
    kept = house.state.kept_tips(house.mirror.id)
    assert {(tip.ref, tip.oid) for tip in kept} == {(MAIN, first), (DEV, side)}
    assert set(house.served().tips) == {MAIN}


def test_forced_update_may_be_held_by_policy(house: House) -> None:
    house.policy = replace(house.policy, hold_forced=True)
    first = house.git.commit("one")
    house.offer(main=first)
    house.run()
    house.offer(main=house.git.commit("rewritten"))
    report = house.run()
    assert report.outcome is Outcome.HELD
    assert report.code == "MS-H002"
    assert house.served().tips[MAIN] == first


def test_ref_whose_object_upstream_lacks_waits_and_the_others_move(house: House) -> None:
    first = house.git.commit("one")
    house.offer(main=first, dev=first)
    house.run()
    gone = house.upstream.put(b"gone")
    house.upstream.refusals[gone.oid] = (404, "not here")
    second = house.git.commit("two", parents=[first])
    house.offer(main=second, dev=house.git.commit("three", parents=[first], files={"g": gone}))
    report = house.run()
    assert report.outcome is Outcome.HELD
    assert house.served().tips == {MAIN: second, DEV: first}
    mirror = house.now()
    assert mirror.lfs.known_missing == 1
    assert mirror.known_behind_since is not None
    assert mirror.holds[0].code == "MS-H004"
    del house.upstream.refusals[gone.oid]
    assert house.run().outcome is Outcome.PUBLISHED
    assert house.served() == house.upstream.snapshot
    assert house.now().known_behind_since is None


def test_known_missing_object_may_be_published_and_is_shown(house: House) -> None:
    house.policy = replace(house.policy, publish_known_missing=True)
    gone = house.upstream.put(b"gone")
    house.upstream.refusals[gone.oid] = (404, "not here")
    house.offer(main=house.git.commit("one", files={"g": gone}))
    assert house.run().outcome is Outcome.PUBLISHED
    assert health(house.now(), house.clock.now()) is Health.INCOMPLETE


def test_first_publish_has_the_default_branch_in_it(house: House) -> None:
    weights = house.upstream.put(b"w" * 100)
    flips: list[set[RefName]] = []
    house.repository.before_flip = lambda: flips.append(set(house.served().tips))
    house.offer(main=house.git.commit("one", files={"w": weights}), dev=house.git.commit("two"))
    house.run()
    assert flips == [set()]
    assert set(house.served().tips) == {MAIN, DEV}


def test_an_object_that_two_refs_need_frees_both_at_once(house: House) -> None:
    weights = house.upstream.put(b"w" * 100)
    first = house.git.commit("one", files={"w": weights})
    house.offer(main=first, dev=house.git.commit("two", parents=[first], files={"w": weights}))
    assert house.run().outcome is Outcome.PUBLISHED
    assert house.served() == house.upstream.snapshot


def test_small_update_is_served_before_a_large_object_arrives(house: House) -> None:
    first = house.git.commit("one")
    house.offer(main=first, dev=first)
    house.run()
    seen: list[GitOid] = []
    second = house.git.commit("two", parents=[first])
    large = house.upstream.put(b"L" * 100, Fault(before_piece=lambda _at: seen.append(house.served().tips[MAIN])))
    house.offer(main=second, dev=house.git.commit("three", parents=[first], files={"l": large}))
    house.run()
    assert seen == [second]
    assert house.served() == house.upstream.snapshot


def test_broken_transfer_fails_the_run_and_publishes_what_it_can(house: House) -> None:
    first = house.git.commit("one")
    house.offer(main=first, dev=first)
    house.run()
    poor = house.upstream.put(b"p" * 10, *[Fault(flip=True)] * 20)
    second = house.git.commit("two", parents=[first])
    house.offer(main=second, dev=house.git.commit("three", parents=[first], files={"p": poor}))
    report = house.run()
    assert report.outcome is Outcome.FAILED
    assert report.code == "MS-L422"
    assert house.served().tips == {MAIN: second, DEV: first}
    house.upstream.faults.clear()
    assert house.run().outcome is Outcome.PUBLISHED


@pytest.mark.parametrize("wrong", [-3, 7, 5_000_000])
@pytest.mark.parametrize("liar", ["main", "dev"])
def test_a_pointer_that_lies_about_the_size_holds_its_own_ref_only(house: House, liar: str, wrong: int) -> None:
    true = house.upstream.put(b"w" * 100)
    lie = replace(true, size=true.size + wrong)
    honest = "dev" if liar == "main" else "main"
    tips = {liar: house.git.commit("lie", files={"w": lie}), honest: house.git.commit("truth", files={"w": true})}
    house.offer(**tips)
    for _ in range(3):
        house.run()
        house.check_promise()
        assert house.served().tips == {RefName(f"refs/heads/{honest}"): tips[honest]}
        assert [hold.name for hold in house.now().holds] == [f"refs/heads/{liar}"]
        house.clock.advance(700.0)


def test_an_object_that_fails_does_not_keep_larger_ones_of_other_refs_from_coming(house: House) -> None:
    first = house.git.commit("one")
    house.offer(main=first, dev=first)
    house.run()
    poor = house.upstream.put(b"p" * 10, *[Fault(flip=True)] * 20)
    large = house.upstream.put(b"L" * 11_000_000)
    second = house.git.commit("two", parents=[first], files={"l": large})
    house.offer(main=second, dev=house.git.commit("three", parents=[first], files={"p": poor}))
    report = house.run()
    assert (report.outcome, report.code) == (Outcome.FAILED, "MS-L422")
    assert house.served().tips == {MAIN: second, DEV: first}


def test_bad_objects_hold_their_refs_only(house: House) -> None:
    house.offer(main=house.git.commit("one"), dev=house.git.commit("evil", fault="hasDotgit: tree entry .git"))
    report = house.run()
    assert report.outcome is Outcome.HELD
    assert report.code == "MS-H003"
    assert set(house.served().tips) == {MAIN}


def test_emptied_list_is_held_until_three_polls_agree(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    served = house.served()
    house.offer()
    outcomes = []
    for _ in range(3):
        house.clock.advance(610.0)
        outcomes.append(house.run().outcome)
    assert outcomes == [Outcome.HELD, Outcome.HELD, Outcome.PUBLISHED]
    assert served.tips
    assert not house.served().tips


def test_operator_lets_held_deletions_through(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    house.offer()
    assert house.run().code == "MS-H001"
    assert house.state.release_guard(house.mirror.id)
    assert house.run().outcome is Outcome.PUBLISHED


def test_empty_repository_is_published_with_upstreams_unborn_head(house: House) -> None:
    house.upstream.snapshot = RefSnapshot({}, RefName("refs/heads/trunk"))
    assert house.run().outcome is Outcome.PUBLISHED
    assert house.served() == RefSnapshot({}, RefName("refs/heads/trunk"))
    assert house.now().confirmed_at is not None


def test_head_follows_and_never_dangles(house: House) -> None:
    first = house.git.commit("one")
    house.offer(main=first)
    house.run()
    house.offer(head=RefName("refs/heads/trunk"), trunk=first)
    house.run()
    assert house.served() == RefSnapshot({RefName("refs/heads/trunk"): first}, RefName("refs/heads/trunk"))
    house.upstream.snapshot = RefSnapshot({MAIN: first}, NO_HEAD)
    house.clock.advance(1.0)
    house.run()
    assert house.served().head == MAIN


def test_old_default_branch_stays_while_the_new_one_is_held(house: House) -> None:
    first = house.git.commit("one")
    house.offer(main=first)
    house.run()
    house.offer(head=RefName("refs/heads/trunk"), trunk=house.git.commit("bad", fault="nullSha1: x"))
    assert house.run().outcome is Outcome.HELD
    assert house.served() == RefSnapshot({MAIN: first}, MAIN)


def test_gone_upstream_keeps_serving_and_is_marked_after_three_answers(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    for _ in range(3):
        house.upstream.observe_errors.append(UpstreamGone(for_everybody=True))
        house.run()
        house.clock.advance(9 * 3600.0)
    mirror = house.now()
    assert mirror.availability is Availability.GONE
    assert mirror.shown_upstream is True
    assert house.served().tips
    house.run()
    assert house.now().availability is Availability.PRESENT


def test_rate_limit_makes_the_mirror_due_when_asking_is_welcome(house: House) -> None:
    until = house.clock.now() + 4321.0
    house.upstream.observe_errors.append(RateLimited(until=until))
    house.run()
    assert house.now().due_at == until
    assert house.state.host_blocked_until("upstream.example") == until


def test_other_mirrors_of_a_host_that_asked_to_wait_do_not_ask(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    until = house.clock.now() + 600.0
    house.state.block_host("upstream.example", until=until)
    report = house.run()
    assert report.outcome is Outcome.ABANDONED
    assert house.upstream.observed == 0
    mirror = house.now()
    assert until <= mirror.due_at <= until + 30.0
    assert mirror.failures == 0
    house.clock.advance(601.0)
    assert house.run().outcome is Outcome.PUBLISHED


def test_failures_back_off_and_recover(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    waits = []
    for _ in range(4):
        house.upstream.observe_errors.append(UpstreamUnavailable())
        house.run()
        waits.append(house.now().due_at - house.clock.now())
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]
    assert health(house.now(), house.clock.now()) is Health.FAILING
    house.run()
    assert house.now().failures == 0


def test_stop_ends_the_run_and_leaves_the_mirror_due(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    stop = threading.Event()
    stop.set()
    report = house.run(stop=stop)
    assert report.outcome is Outcome.ABANDONED
    assert report.code == Interrupted.code
    assert house.now().due_at <= house.clock.now()
    assert not house.served().tips


def test_late_worker_cannot_publish(house: House) -> None:
    house.offer(main=house.git.commit("one"))

    confirm = house.state.confirm

    def confirm_after_a_long_sleep(lease: Lease) -> None:
        house.clock.advance(3600.0)
        assert house.state.claim("w2", lease_seconds=60.0) is not None
        confirm(lease)

    house.state.confirm = confirm_after_a_long_sleep  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        house.run()
    assert house.repository.current_view() == 0


def test_lost_database_is_derived_again_from_disk(house: House) -> None:
    weights = house.upstream.put(b"weights")
    house.offer(main=house.git.commit("one", files={"w": weights}))
    house.run()
    opened = len(house.upstream.opened)
    house.state = MemoryState(house.clock)
    house.mirror, _ = house.state.enrol(NewMirror(NAME, "https://upstream.example/acme/model", 600.0, 1800.0))
    house.run()
    mirror = house.now()
    assert mirror.view == house.repository.current_view()
    assert mirror.confirmed_at is not None
    assert mirror.lfs.wanted == 1
    assert len(house.upstream.opened) == opened


def test_lfs_switched_on_later_finds_what_the_published_refs_need(house: House) -> None:
    weights = house.upstream.put(b"weights")
    house.policy = replace(house.policy, lfs=False)
    house.offer(main=house.git.commit("one", files={"w": weights}))
    house.run()
    assert house.run().outcome is Outcome.UNCHANGED
    assert house.now().lfs.wanted == 0
    house.policy = replace(house.policy, lfs=True)
    house.run()
    assert house.now().lfs.wanted == 1
    fetched = len(house.upstream.fetched)
    assert house.run().outcome is Outcome.UNCHANGED
    assert len(house.upstream.fetched) == fetched


def test_pack_that_lacks_what_was_listed_changes_nothing(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.upstream.pack = lambda _request: [house.git.pack([])]
    report = house.run()
    assert report.outcome is Outcome.FAILED
    assert report.code == UpstreamInvalid.code
    assert not house.served().tips


# ---------------------------------------------------------------- crashes


class Crashing:
    """Stands before a port and dies before or after its k-th call."""

    def __init__(self, part: Any, counter: list[int], at: int) -> None:
        self._part, self._counter, self._at = part, counter, at

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            self._count()
            result = value(*arguments, **named)
            self._count()
            return result

        return call

    def _count(self) -> None:
        self._counter[0] += 1
        if self._counter[0] == self._at:
            raise Crash


def scenario() -> House:
    house = House()
    first = house.git.commit("one", files={"a": house.upstream.put(b"a" * 40)})
    side = house.git.commit("side")
    house.offer(main=first, dev=side, gone=side)
    house.run()
    house.clock.advance(700.0)
    second = house.git.commit("two", parents=[first], files={"a": house.upstream.put(b"b" * 40)})
    house.offer(main=second, dev=house.git.commit("forced", files={"c": house.upstream.put(b"c" * 900)}), new=second)
    return house


def count_calls() -> int:
    house, counter = scenario(), [0]
    house.run(wrap=lambda part: Crashing(part, counter, -1))
    return counter[0]


@pytest.mark.parametrize("at", range(1, count_calls() + 1))
def test_a_crash_at_any_port_call_breaks_no_promise_and_the_next_run_converges(at: int) -> None:
    house, counter = scenario(), [0]
    before = house.served()
    with pytest.raises(Crash):
        house.run(wrap=lambda part: Crashing(part, counter, at))
    house.repository.disk.lock = threading.Lock()  # the kernel frees a dead process's lock
    house.check_promise()
    assert house.served().tips.keys() <= before.tips.keys() | house.upstream.snapshot.tips.keys()
    house.clock.advance(3600.0)
    report = house.run()
    assert report.outcome in (Outcome.PUBLISHED, Outcome.UNCHANGED)
    assert house.served() == house.upstream.snapshot
    house.check_promise()
    mirror = house.now()
    assert mirror.view == house.repository.current_view()
    assert mirror.known_behind_since is None
    assert {tip.ref for tip in house.state.kept_tips(house.mirror.id)} == {DEV, RefName("refs/heads/gone")}
    assert house.state.open_intent(house.mirror.id) is None


# ------------------------------------------------------------ whether upstream shows it to everybody


class Outside:
    """The upstream as somebody without credentials sees it."""

    def __init__(self) -> None:
        self.answer: Exception | None = None
        self.asked = 0

    def observe(self, patterns: object, *, known_digest: str = "") -> None:
        self.asked += 1
        if self.answer is not None:
            raise self.answer


def test_without_a_credential_the_observation_itself_tells_who_sees_it(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    assert house.now().shown_upstream is True
    for error, shown in (
        (UpstreamGone(for_everybody=True), True),
        (UpstreamUnavailable(), True),
        (UpstreamGone(), False),
        (UpstreamRefused(), False),
        (UpstreamUnavailable(), False),
        (None, True),
        (UpstreamRefused(), False),
    ):
        house.upstream.observe_errors.append(error)
        house.run()
        assert house.now().shown_upstream is shown, error
    assert house.served().tips


def test_the_answer_that_closed_a_mirror_is_asked_for_again_soon_and_not_counted(house: House) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    due = []
    for _ in range(5):
        house.upstream.observe_errors.append(UpstreamGone())
        house.run()
        due.append((house.now().due_at - house.clock.now(), house.now().absent_answers, house.now().availability))
        house.clock.advance(9 * 3600.0)
    assert 0 < due[0][0] <= 600.0
    assert [answers for _, answers, _ in due] == [0, 1, 2, 3, 4]
    assert [word for _, _, word in due][2:4] == [Availability.PRESENT, Availability.GONE]
    assert due[1][0] > 6 * 3600.0


@pytest.mark.parametrize(
    ("answer", "shown"),
    [(None, True), (UpstreamRefused(), False), (UpstreamGone(), False), (UpstreamUnavailable(), False)],
)
def test_with_a_credential_outsiders_are_asked_about_before_anything_is_served(
    house: House, answer: Exception | None, shown: bool
) -> None:
    outside = Outside()
    outside.answer = answer
    house.outside = outside
    house.offer(main=house.git.commit("one"))
    noted: list[bool] = []
    publish = house.state.intend

    def watched(*arguments: object, **named: object) -> object:
        noted.append(house.now().shown_upstream is shown)
        return publish(*arguments, **named)  # type: ignore[arg-type]

    house.state.intend = watched  # type: ignore[method-assign]
    house.run()
    assert (house.now().shown_upstream, noted, outside.asked) == (shown, [True], 1)


def test_what_was_known_of_outsiders_stays_when_they_cannot_be_asked_about(house: House) -> None:
    outside = Outside()
    house.outside = outside
    house.offer(main=house.git.commit("one"))
    house.run()
    outside.answer = UpstreamUnavailable()
    house.run()
    assert house.now().shown_upstream is True
    outside.answer = UpstreamRefused()
    house.run()
    assert house.now().shown_upstream is False


def test_outsiders_are_not_asked_about_where_nobody_is_served_by_it(house: House) -> None:
    outside = Outside()
    house.outside = outside
    house.policy = replace(house.policy, public=False)
    house.offer(main=house.git.commit("one"))
    house.run()
    assert (outside.asked, house.now().shown_upstream) == (0, False)
