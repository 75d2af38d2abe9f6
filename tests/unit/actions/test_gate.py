"""Making way, asking for room, and leaving out: which refs move, which wait, and what for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mirror_sync.actions import history
from mirror_sync.actions.gate import PATIENCE_SECONDS
from mirror_sync.actions.outcome import HELD_RETRY_SECONDS
from mirror_sync.actions.sync import sync
from mirror_sync.actions.transfer import TransferLimits
from mirror_sync.actions.world import World
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import RefSnapshot
from mirror_sync.domain.runs import Outcome, RunReport, Trigger
from mirror_sync.domain.selection import Selection
from mirror_sync.errors import StateUnavailable, UpstreamUnavailable
from mirror_sync.testing.upstream import Fault
from tests.unit.actions.test_sync import DEV, MAIN, NAME, House

DAY = 86400.0
MIB = 1 << 20


class Gated(House):
    """A house whose downloads take one second for each piece, and whose mirror may be called meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.upstream.piece = MIB
        self.is_crowded: Callable[[], bool] = lambda: False
        self.at_piece: Callable[[int], None] = lambda offset: None

    def world(self, wrap: Callable[[Any], Any] = lambda part: part) -> World:
        return replace(super().world(wrap), crowded=lambda: self.is_crowded())

    def slow(self, megabytes: int, letter: bytes = b"x") -> Pointer:
        def wait(offset: int) -> None:
            self.clock.advance(1.0)
            self.at_piece(offset)

        data = letter * (megabytes * MIB)
        return self.upstream.put(data, *[Fault(before_piece=wait) for _ in range(40)])

    def run_as_it_is_due(self) -> RunReport:
        lease = self.state.claim("w1", lease_seconds=1e6)
        assert lease is not None
        return sync(lease, self.world(), self.policy, stop=threading.Event())

    def history(self, **over: Any) -> int:
        return history.fetch_history(
            "w1",
            **(
                {
                    "state": self.state,
                    "open_sources": lambda _mirror, *, awaited: [self.upstream],
                    "objects": self.objects,
                    "parallel": self.world().parallel,
                    "clock": self.clock,
                    "telemetry": self.telemetry,
                    "limits": TransferLimits(),
                    "stop": threading.Event(),
                }
                | over
            ),
        )

    def holds(self) -> dict[str, tuple[str, str]]:
        return {hold.name: (hold.code, hold.reason) for hold in self.now().holds}


@pytest.fixture
def house() -> Gated:
    return Gated()


def first_fill(house: Gated) -> str:
    """Publish main and dev without LFS objects."""
    one = house.git.commit("one")
    house.offer(main=one, dev=one)
    house.run()
    return one


def test_a_push_to_the_same_mirror_is_served_before_the_large_object_of_another_ref(house: Gated) -> None:
    one = first_fill(house)
    large = house.slow(30)
    big = house.git.commit("big", parents=[one], files={"w.bin": large})
    house.offer(main=one, dev=big)

    def push(offset: int) -> None:
        if offset == 3 * MIB:
            house.offer(main=house.git.commit("small", parents=[one]), dev=big)
            house.state.mark_due(house.mirror.id, Trigger.WEBHOOK)

    house.at_piece = push
    report = house.run()
    assert report.outcome is Outcome.HELD
    assert report.code == "MS-H007"
    assert house.holds() == {DEV: ("MS-H007", "fetched behind: 1 LFS object of 30.0 MiB")}
    assert house.now().failures == 0
    assert house.now().due_at <= house.clock.now()
    assert house.upstream.sent < 10 * MIB
    house.at_piece = lambda offset: None
    house.run_as_it_is_due()
    assert house.served() == house.upstream.snapshot, "the small one at once, the large one after it in the same run"
    assert house.upstream.sent <= 31 * MIB, "nothing came twice but the piece in its hands"


def test_a_call_for_later_does_not_stop_a_transfer(house: Gated) -> None:
    one = first_fill(house)
    house.offer(main=one, dev=house.git.commit("big", parents=[one], files={"w.bin": house.slow(8)}))
    house.at_piece = lambda offset: house.state.mark_due(house.mirror.id, Trigger.POLL, at=house.clock.now() + 900)
    assert house.run().outcome is Outcome.PUBLISHED


def test_a_run_makes_way_for_other_mirrors_only_after_a_while(house: Gated) -> None:
    one = first_fill(house)
    house.is_crowded = lambda: True
    short = house.slow(int(PATIENCE_SECONDS) - 3, b"s")
    house.offer(main=one, dev=house.git.commit("short", parents=[one], files={"s": short}))
    assert house.run().outcome is Outcome.PUBLISHED
    long = house.slow(60, b"l")
    house.offer(main=one, dev=house.git.commit("long", parents=[one], files={"l": long}))
    before = house.upstream.sent
    report = house.run()
    assert (report.outcome, report.code) == (Outcome.HELD, "MS-H007")
    assert PATIENCE_SECONDS - 1 <= (house.upstream.sent - before) / MIB <= PATIENCE_SECONDS + 3
    assert house.now().due_at == pytest.approx(house.clock.now() + HELD_RETRY_SECONDS)


def test_what_a_run_left_is_fetched_behind_and_calls_the_mirror_when_it_is_here(house: Gated) -> None:
    one = first_fill(house)
    house.is_crowded = lambda: True
    long = house.slow(40, b"l")
    old = house.upstream.put(b"only history needs this")
    middle = house.git.commit("middle", parents=[one], files={"old": old})
    house.offer(main=one, dev=house.git.commit("long", parents=[middle], files={"l": long}))
    house.run()
    assert not house.objects.has(old)
    assert house.history() == 1
    assert house.objects.has(long), "what a ref waits for goes before what only history needs"
    assert not house.objects.has(old)
    assert house.now().due_at <= house.clock.now()
    assert house.now().progress is None
    assert house.run_as_it_is_due().outcome is Outcome.PUBLISHED
    assert house.served() == house.upstream.snapshot
    assert house.upstream.sent <= 41 * MIB
    assert house.history() == 1
    assert house.objects.has(old)


def test_a_run_does_not_wait_for_what_is_being_fetched_behind(house: Gated) -> None:
    one = first_fill(house)
    house.is_crowded = lambda: True
    house.offer(main=one, dev=house.git.commit("long", parents=[one], files={"l": house.slow(40)}))
    house.run()
    sent = house.upstream.sent
    (job,) = house.state.claim_lfs("another", limit=9, lease_seconds=1e6)
    with house.objects.incomplete(Pointer(job.oid, job.size)):
        house.offer(main=house.git.commit("small", parents=[one]), dev=house.upstream.snapshot.tips[DEV])
        report = house.run()
    assert (report.outcome, report.code) == (Outcome.HELD, "MS-H007")
    assert house.served().tips[MAIN] == house.upstream.snapshot.tips[MAIN]
    assert house.upstream.sent == sent


def test_a_database_that_is_away_lets_a_transfer_go_on(house: Gated) -> None:
    one = first_fill(house)
    house.offer(main=one, dev=house.git.commit("big", parents=[one], files={"w.bin": house.slow(8)}))

    class Away:
        def __init__(self, part: Any) -> None:
            self._part = part

        def __getattr__(self, name: str) -> Any:
            if name == "awaited":
                return self.away
            return getattr(self._part, name)

        def away(self, _lease: Any) -> bool:
            raise StateUnavailable

    report = house.run(wrap=lambda part: Away(part) if part is house.state else part)
    assert report.outcome is Outcome.PUBLISHED


def test_progress_is_shown_while_a_run_transfers_and_gone_after_it(house: Gated) -> None:
    one = first_fill(house)
    seen = []
    house.at_piece = lambda offset: seen.append(house.now().progress)
    house.offer(main=one, dev=house.git.commit("big", parents=[one], files={"w.bin": house.slow(8)}))
    house.run()
    told = [progress for progress in seen if progress is not None]
    assert told[-1].total == 8 * MIB
    assert told[-1].done > told[0].done
    assert house.now().progress is None


# ---------------------------------------------------------------- room


def test_a_ref_whose_objects_do_not_fit_waits_with_the_figures_and_nothing_is_asked_for(house: Gated) -> None:
    one = first_fill(house)
    house.objects.capacity = 5 * MIB
    files = {f"w{n}": house.slow(2, bytes([65 + n])) for n in range(3)}
    house.offer(main=one, dev=house.git.commit("big", parents=[one], files=files))
    report = house.run()
    assert (report.outcome, report.code) == (Outcome.HELD, "MS-S507")
    assert house.holds()[DEV] == (
        "MS-S507",
        "needs 6.0 MiB in 3 LFS objects, largest 2.0 MiB; free 5.0 MiB, reserve 0 B",
    )
    assert house.upstream.sent == 0
    house.objects.capacity = 50 * MIB
    assert house.run().outcome is Outcome.PUBLISHED


def test_what_smaller_refs_need_is_brought_when_that_alone_fits(house: Gated) -> None:
    one = first_fill(house)
    house.objects.capacity = 5 * MIB
    shared = house.slow(2, b"s")
    small = house.git.commit("small", parents=[one], files={"s": shared})
    large = house.git.commit("large", parents=[one], files={"s": shared, "l": house.slow(4, b"l")})
    house.offer(main=small, dev=large)
    report = house.run()
    assert house.served().tips[MAIN] == small
    assert house.served().tips[DEV] == one
    assert report.code == "MS-S507"
    assert "needs 4.0 MiB in 1 LFS object" in house.holds()[DEV][1]
    assert "free 5.0 MiB, 2.0 MiB of it for refs that go before" in house.holds()[DEV][1]


def test_what_is_here_of_an_object_needs_no_more_room(house: Gated) -> None:
    one = first_fill(house)
    large = house.slow(6, b"l")
    with house.objects.incomplete(large) as incomplete:
        incomplete.write(0, b"l" * (5 * MIB))
    house.objects.capacity = 7 * MIB
    house.offer(main=one, dev=house.git.commit("large", parents=[one], files={"l": large}))
    assert house.run().outcome is Outcome.PUBLISHED
    assert house.upstream.sent == MIB


# ---------------------------------------------------------------- selection


def choose(house: Gated, **selection: Any) -> None:
    house.policy = replace(house.policy, selection=Selection(**selection))


def counts(house: Gated) -> tuple[int, int, int]:
    lfs = house.now().lfs
    return lfs.present, lfs.missing, lfs.left_out


def test_a_ref_is_served_without_what_is_left_out_by_size_or_path(house: Gated) -> None:
    files = {"a.bin": house.upstream.put(b"a"), "b.ckpt": house.upstream.put(b"b"), "huge.bin": house.slow(3)}
    choose(house, exclude=("*.ckpt",), max_object=MIB)
    house.offer(main=house.git.commit("one", files=files))
    assert house.run().outcome is Outcome.PUBLISHED
    assert counts(house) == (1, 0, 2)
    assert house.objects.has(files["a.bin"])
    assert house.history() == 0
    oids = [pointer.oid for pointer in files.values()]
    reasons = house.state.lfs_left_out(house.mirror.id, oids)
    assert reasons[files["huge.bin"].oid] == "it is larger than this mirror keeps (1.0 MiB)"
    assert "no path" in reasons[files["b.ckpt"].oid]


def test_an_object_at_a_kept_and_at_another_path_is_kept(house: Gated) -> None:
    both = house.upstream.put(b"both")
    choose(house, include=("data/",))
    house.offer(main=house.git.commit("one", files={"elsewhere": both, "data/here": both}))
    house.run()
    assert house.objects.has(both)
    assert counts(house) == (1, 0, 0)


def test_only_recent_history_is_kept_and_every_tip(house: Gated) -> None:
    now = house.clock.now()
    ancient, old, recent, tip = (house.upstream.put(text) for text in (b"ancient", b"old", b"recent", b"tip"))
    first = house.git.commit("first", files={"a": ancient}, at=now - 300 * DAY)
    second = house.git.commit("second", parents=[first], files={"b": old}, at=now - 100 * DAY)
    third = house.git.commit("third", parents=[second], files={"c": recent}, at=now - 10 * DAY)
    fourth = house.git.commit("fourth", parents=[third], files={"d": tip}, at=now - 5 * DAY)
    choose(house, recent=90 * DAY)
    house.offer(main=fourth, dev=first)
    house.run()
    while house.history():
        pass
    assert [house.objects.has(pointer) for pointer in (ancient, old, recent, tip)] == [True, False, True, True]
    assert counts(house) == (3, 0, 1)


def test_new_history_is_judged_as_it_comes(house: Gated) -> None:
    choose(house, exclude=("left/",))
    one = house.git.commit("one", files={"left/a": house.upstream.put(b"a"), "k": house.upstream.put(b"k")})
    house.offer(main=one)
    house.run()
    assert counts(house) == (1, 0, 1)
    again = house.upstream.put(b"a")
    middle = house.git.commit("two", parents=[one], files={"left/b": house.upstream.put(b"b")})
    house.offer(main=house.git.commit("three", parents=[middle], files={"kept/a": again}))
    assert house.run().outcome is Outcome.PUBLISHED
    assert counts(house) == (2, 0, 1), "what lay at a path that is left out lies now at another one"


def test_a_changed_selection_is_obeyed_though_upstream_did_not_change(house: Gated) -> None:
    small, large = house.upstream.put(b"small"), house.slow(3)
    older = house.upstream.put(b"older")
    one = house.git.commit("one", files={"o": older})
    choose(house, max_object=MIB, include=("s",))
    house.offer(main=house.git.commit("two", parents=[one], files={"s": small, "l": large}))
    house.run()
    assert counts(house) == (1, 0, 2)
    choose(house)
    assert house.run().outcome is Outcome.UNCHANGED
    assert counts(house) == (1, 2, 0)
    assert house.now().lfs_selection == ""
    assert [house.history() for _ in range(3)] == [1, 1, 0]
    assert house.upstream.opened[-1][0] == older.oid, "what served refs lack goes before history"
    assert counts(house) == (3, 0, 0)
    choose(house, max_object=MIB)
    house.run()
    assert counts(house) == (3, 0, 0), "what is here stays"
    observed = house.upstream.observed
    assert house.run().outcome is Outcome.UNCHANGED
    assert house.upstream.observed == observed + 1


class Died(BaseException):
    """The process died here."""


@pytest.mark.parametrize("calls", range(6))
def test_a_run_that_died_while_it_judged_is_made_good(house: Gated, calls: int) -> None:
    files = {"s": house.upstream.put(b"small"), "l": house.slow(3)}
    one = house.git.commit("one", files={"o": house.upstream.put(b"older")})
    house.offer(main=house.git.commit("two", parents=[one], files=files))
    choose(house, exclude=("o",), max_object=MIB)
    left = calls

    class Mortal:
        def __init__(self, part: Any) -> None:
            self._part = part

        def __getattr__(self, name: str) -> Any:
            nonlocal left
            if name in ("judge_lfs", "add_scan", "rank_lfs"):
                left -= 1
                if left < 0:
                    raise Died
            return getattr(self._part, name)

    try:
        house.run(wrap=lambda part: Mortal(part) if part is house.state else part)
    except Died:
        house.clock.advance(120)
    choose(house, max_object=MIB)
    house.run()
    while house.history():
        pass
    assert counts(house) == (2, 0, 1)
    choose(house)
    house.run()
    while house.history():
        pass
    assert counts(house) == (3, 0, 0)


def test_known_missing_objects_that_are_left_out_hold_no_ref(house: Gated) -> None:
    gone = house.upstream.put(b"gone")
    house.upstream.refusals[gone.oid] = (404, "not there")
    house.offer(main=house.git.commit("one", files={"g": gone}))
    assert house.run().code == "MS-H004"
    choose(house, exclude=("g",))
    assert house.run().outcome is Outcome.PUBLISHED
    assert counts(house) == (0, 0, 1)
    assert house.now().lfs.known_missing == 0
    assert house.served() == RefSnapshot(house.upstream.snapshot.tips, MAIN)
    assert house.now().name == NAME


# ---------------------------------------------------------------- pointers that claim another size


@pytest.mark.parametrize("lie", [50, 99, 101, 1 << 50])
@pytest.mark.parametrize("first", ["lie", "truth"])
def test_what_history_needs_comes_in_its_true_size_whatever_other_pointers_claim(
    house: Gated, lie: int, first: str
) -> None:
    true = house.upstream.put(b"w" * 100)
    pointers = {"lie": replace(true, size=lie), "truth": true}
    second = "truth" if first == "lie" else "lie"
    one = house.git.commit("one", files={"w": pointers[first]})
    house.offer(main=house.git.commit("two", parents=[one]))
    assert house.run().outcome is Outcome.PUBLISHED
    two = house.git.commit("three", parents=[one], files={"w": pointers[second]})
    house.offer(main=house.git.commit("four", parents=[two]))
    assert house.run().outcome is Outcome.PUBLISHED
    for _ in range(2):
        house.history()
    assert house.objects.has(true), "at once, not after the wait for another try"
    assert house.history() == 0
    counted = house.now().lfs
    assert (counted.present, counted.present_bytes) == (1, 100)


def test_a_lane_for_small_objects_leaves_the_large_true_one_to_the_other(house: Gated) -> None:
    true = house.slow(2)
    one = house.git.commit("one", files={"w": replace(true, size=10)})
    two = house.git.commit("two", parents=[one])
    house.offer(main=two)
    house.run()
    three = house.git.commit("three", parents=[two], files={"w": true})
    house.offer(main=house.git.commit("four", parents=[three]))
    house.run()
    assert house.history(largest=MIB) == 1
    assert house.history(largest=MIB) == 0
    assert house.history() == 1
    assert house.objects.has(true)


@pytest.mark.parametrize("lie", [5, 1 << 40])
@pytest.mark.parametrize("liar", ["main", "dev"])
def test_a_ref_whose_pointer_claims_a_size_that_its_object_has_not_is_held_and_says_so(
    house: Gated, liar: str, lie: int
) -> None:
    true = house.upstream.put(b"w" * 100)
    honest = "dev" if liar == "main" else "main"
    wrong = house.git.commit("lie", files={"a/w": replace(true, size=lie)})
    house.offer(**{liar: wrong, honest: house.git.commit("truth", files={"w": true})})
    house.run()
    house.clock.advance(700.0)
    asked = len(house.upstream.batches)
    house.run()
    assert len(house.upstream.batches) == asked, "what nobody can have is not asked for"
    code, reason = house.holds()[f"refs/heads/{liar}"]
    assert code == "MS-H004"
    assert "a/w" in reason
    assert f"this object has 100 bytes, not {lie}" in reason
    house.policy = replace(house.policy, publish_known_missing=True)
    house.clock.advance(700.0)
    assert house.run().outcome is Outcome.PUBLISHED
    assert house.served() == house.upstream.snapshot


def test_what_upstream_says_of_a_wrong_pointer_is_not_said_of_the_true_one(house: Gated) -> None:
    house.policy = replace(house.policy, publish_known_missing=True)
    true = house.upstream.put(b"w" * 100, *[Fault(error=UpstreamUnavailable("the line is down"))] * 5)
    batch = house.upstream.batch

    def particular(pointers: Any, *, ref: Any) -> Any:
        if any(pointer.size == 5 for pointer in pointers):
            house.upstream.refusals[true.oid] = (404, "never seen")
        try:
            return batch(pointers, ref=ref)
        finally:
            house.upstream.refusals.clear()

    house.upstream.batch = particular  # type: ignore[method-assign]
    both = house.git.commit("both", files={"lie": replace(true, size=5), "w": true})
    house.offer(main=both)
    assert house.run().outcome is Outcome.FAILED
    assert house.served().tips == {}
    house.clock.advance(700.0)
    house.run()
    assert house.objects.has(true)
    assert house.served() == house.upstream.snapshot


def test_an_object_that_is_damaged_at_rest_makes_no_pointer_wrong(house: Gated) -> None:
    house.policy = replace(house.policy, publish_known_missing=True)
    true = house.upstream.put(b"w" * 100)
    house.objects.objects[true.oid] = b"w" * 60
    house.objects.times[true.oid] = house.clock.now()
    house.upstream.refusals[true.oid] = (403, "not for you")
    house.offer(main=house.git.commit("one", files={"w": true}))
    assert house.run().outcome is Outcome.FAILED
    assert house.served().tips == {}
    house.upstream.refusals.clear()
    house.clock.advance(700.0)
    assert house.run().outcome is Outcome.PUBLISHED
    assert house.objects.verify(true.oid)
