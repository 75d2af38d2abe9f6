"""Maintenance, expiry of kept tips, the sweep, removal and LFS history, over an in-memory world."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

import pytest

from mirror_sync.actions import history, maintain, reread, sweep
from mirror_sync.actions.transfer import TransferLimits
from mirror_sync.domain.names import RefName
from mirror_sync.domain.runs import Lease, LfsCounts
from mirror_sync.errors import NotFound, RateLimited
from tests.unit.actions.test_sync import DEV, MAIN, NAME, House

DAY = 86400.0


class Upkeep(House):
    """The same house with its housekeeping."""

    def keep(self, _lease: Lease) -> contextlib.AbstractContextManager[threading.Event]:
        return contextlib.nullcontext(threading.Event())

    def maintain(self) -> bool:
        return maintain.maintain_one(
            "w1", state=self.state, open_repository=lambda _lease: self.repository, clock=self.clock,
            telemetry=self.telemetry, keep=self.keep, lease_seconds=60.0,
        )  # fmt: skip

    def expire(self) -> int:
        return maintain.expire_kept(
            "w1", state=self.state, open_repository=lambda _lease: self.repository, clock=self.clock,
            telemetry=self.telemetry, keep=self.keep, lease_seconds=60.0, stop=threading.Event(),
        )  # fmt: skip

    def sweep(self, *, grace: float = 30 * DAY) -> int:
        return sweep.sweep_objects(
            state=self.state, objects=self.objects, clock=self.clock, telemetry=self.telemetry, grace=grace,
            stop=threading.Event(),
        )  # fmt: skip

    def reread(self, *, stop: bool = False) -> int:
        event = threading.Event()
        if stop:
            event.set()
        return reread.reread_objects(
            state=self.state, objects=self.objects, clock=self.clock, telemetry=self.telemetry, stop=event
        )

    def remove(self) -> bool:
        return sweep.remove_one(
            "w1", state=self.state, open_repository=lambda _lease: self.repository, telemetry=self.telemetry,
            keep=self.keep, lease_seconds=60.0,
        )  # fmt: skip

    def history(self) -> int:
        return history.fetch_history(
            "w1", state=self.state, open_sources=lambda _mirror, *, awaited: [self.upstream], objects=self.objects,
            parallel=self.world().parallel, clock=self.clock, telemetry=self.telemetry, limits=TransferLimits(),
            stop=threading.Event(),
        )  # fmt: skip

    def counts(self) -> LfsCounts:
        return self.now().lfs


@pytest.fixture
def house() -> Upkeep:
    return Upkeep()


def test_mirror_with_publishes_is_maintained_once_it_was_quiet(house: Upkeep) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    house.clock.advance(maintain.QUIET_SECONDS + 1)
    assert house.maintain()
    assert not house.maintain()
    assert house.now().maintained_at is not None


def test_kept_tip_is_protected_until_it_expires_then_its_objects_may_go(house: Upkeep) -> None:
    old = house.upstream.put(b"old weights")
    house.offer(main=house.git.commit("one", files={"w": old}))
    house.run()
    house.offer(main=house.git.commit("rewritten"))
    house.run()
    house.clock.advance(89 * DAY)
    assert house.expire() == 0
    assert house.sweep() == 0
    house.clock.advance(2 * DAY)
    assert house.expire() == 1
    assert house.state.kept_tips(house.mirror.id) == []
    assert house.counts().wanted == 0
    assert house.sweep() == 1
    assert not house.objects.has(old)


def test_history_that_returns_after_it_expired_is_found_again(house: Upkeep) -> None:
    old = house.upstream.put(b"old weights")
    first = house.git.commit("one", files={"w": old})
    house.offer(main=first)
    house.run()
    house.offer(main=house.git.commit("rewritten"))
    house.run()
    house.clock.advance(91 * DAY)
    house.expire()
    house.sweep()
    house.offer(main=first)
    house.run()
    assert house.objects.has(old)
    house.check_promise()


def test_sweep_spares_what_any_mirror_refers_to_and_what_is_in_its_grace(house: Upkeep) -> None:
    used = house.upstream.put(b"used")
    house.offer(main=house.git.commit("one", files={"w": used}))
    house.run()
    stray = house.upstream.put(b"stray")
    with house.objects.incomplete(stray) as incomplete:
        incomplete.write(0, b"stray")
        incomplete.promote()
    assert house.sweep() == 0
    house.clock.advance(31 * DAY)
    assert house.sweep() == 1
    assert house.objects.has(used)
    assert not house.objects.has(stray)


def test_every_object_is_read_again_in_thirty_days_and_a_damaged_one_is_fetched_again(house: Upkeep) -> None:
    sound, poor = house.upstream.put(b"sound"), house.upstream.put(b"poor")
    house.offer(main=house.git.commit("one", files={"s": sound, "p": poor}))
    house.run()
    house.objects.damage(poor.oid)
    assert house.objects.has(poor)
    found = 0
    for _ in range(30 * 24):
        assert house.reread(stop=True) == 0
        found += house.reread()
        house.clock.advance(3600.0)
    assert found == 1
    assert house.objects.has(sound)
    assert list(house.objects.quarantined) == [poor.oid]
    assert (house.counts().present, house.counts().missing) == (1, 1)
    assert house.history() == 1
    assert (house.counts().present, house.counts().missing) == (2, 0)
    house.check_promise()


def test_removed_mirror_goes_after_its_delay_and_not_before(house: Upkeep) -> None:
    house.offer(main=house.git.commit("one"))
    house.run()
    house.state.set_removing(house.mirror.id, at=house.clock.now() + DAY)
    assert not house.remove()
    house.clock.advance(DAY + 1)
    assert house.remove()
    assert not house.repository.exists()
    with pytest.raises(NotFound):
        house.state.mirror(NAME)


def test_objects_of_history_arrive_behind_the_tips(house: Upkeep) -> None:
    older, newer = house.upstream.put(b"older"), house.upstream.put(b"newer!")
    first = house.git.commit("one", files={"w": older})
    house.offer(main=house.git.commit("two", parents=[first], files={"w": newer}))
    house.run()
    assert (house.counts().wanted, house.counts().present) == (2, 1)
    assert house.history() == 1
    assert (house.counts().present, house.counts().missing) == (2, 0)
    assert house.history() == 0


def test_history_that_upstream_lacks_is_known_missing_and_asked_again_later(house: Upkeep) -> None:
    older = house.upstream.put(b"older")
    house.upstream.refusals[older.oid] = (404, "gone")
    first = house.git.commit("one", files={"w": older})
    house.offer(main=house.git.commit("two", parents=[first]))
    house.run()
    assert house.history() == 1
    assert house.counts().known_missing == 1
    assert house.history() == 0
    del house.upstream.refusals[older.oid]
    house.clock.advance(2 * DAY)
    assert house.history() == 1
    assert house.counts().missing == 0


def test_rate_limited_history_waits_as_long_as_it_was_asked(house: Upkeep) -> None:
    older = house.upstream.put(b"older")
    first = house.git.commit("one", files={"w": older})
    house.offer(main=house.git.commit("two", parents=[first]))
    house.run()
    house.upstream.batch_errors.append(RateLimited(until=house.clock.now() + 500.0))
    assert house.history() == 1
    house.clock.advance(499.0)
    assert house.history() == 0
    house.clock.advance(2.0)
    assert house.history() == 1
    assert house.counts().missing == 0


def test_held_ref_moves_once_its_object_arrived_behind(house: Upkeep) -> None:
    first = house.git.commit("one")
    house.offer(main=first, dev=first)
    house.run()
    late = house.upstream.put(b"late")
    house.upstream.refusals[late.oid] = (404, "not yet")
    house.offer(main=first, dev=house.git.commit("two", parents=[first], files={"l": late}))
    house.run()
    assert house.served().tips[DEV] == first
    del house.upstream.refusals[late.oid]
    house.clock.advance(2 * DAY)
    house.history()
    assert house.now().due_at <= house.clock.now()
    house.run()
    assert house.served() == house.upstream.snapshot


def test_forced_tip_of_a_policy_with_a_short_memory_is_kept_so_long(house: Upkeep) -> None:
    house.policy = replace(house.policy, keep_forced=60.0)
    house.offer(main=house.git.commit("one"))
    house.run()
    house.offer(main=house.git.commit("rewritten"))
    house.run()
    (kept,) = house.state.kept_tips(house.mirror.id)
    assert kept.ref == MAIN
    assert kept.expires_at - kept.kept_at == 60.0
    assert RefName("refs/heads/main") in house.served().tips


def test_references_of_an_expired_tip_go_though_a_ref_is_held_and_its_own_stay(house: Upkeep) -> None:
    house.policy = replace(house.policy, keep_forced=10 * DAY)
    old, late = house.upstream.put(b"old"), house.upstream.put(b"late")
    first = house.git.commit("one", files={"o": old})
    house.offer(main=first, dev=first)
    house.run()
    other = house.git.commit("two")
    house.upstream.refusals[late.oid] = (404, "not yet")
    house.offer(main=other, dev=other, held=house.git.commit("three", parents=[other], files={"l": late}))
    house.run()
    assert not house.repository.stage_is_empty()
    assert house.counts().wanted == 2
    house.clock.advance(11 * DAY)
    assert house.expire() == 1
    assert house.state.kept_tips(house.mirror.id) == []
    assert (house.counts().wanted, house.counts().present) == (1, 0)
    assert house.state.lfs_unreferenced([old.oid, late.oid]) == {old.oid}
    del house.upstream.refusals[late.oid]
    house.run()
    assert house.served() == house.upstream.snapshot
    house.check_promise()
