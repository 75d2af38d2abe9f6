"""LFS objects that clients wait for, over an in-memory world."""

from __future__ import annotations

import threading

import pytest

from mirror_sync.actions import asked
from mirror_sync.actions.transfer import TransferLimits
from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import LfsJob, MirrorId
from mirror_sync.errors import RateLimited
from tests.unit.actions.test_upkeep import Upkeep


class Waiting(Upkeep):
    """A mirror whose history has an object that is not here, and clients that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.in_hand = asked.InHand()
        self.older = self.upstream.put(b"older")
        first = self.git.commit("one", files={"w": self.older})
        self.offer(main=self.git.commit("two", parents=[first]))
        self.run()

    def ask(self) -> tuple[str, str] | None:
        return self.state.ask_lfs(self.mirror.id, self.older.oid, seconds=20.0)

    def fetch(self, *, stop: threading.Event | None = None) -> int:
        return asked.fetch_asked(
            state=self.state, in_hand=self.in_hand, open_sources=lambda _mirror, *, awaited: [self.upstream],
            objects=self.objects, parallel=self.world().parallel, clock=self.clock, telemetry=self.telemetry,
            limits=TransferLimits(), stop=stop or threading.Event(),
        )  # fmt: skip


@pytest.fixture
def house() -> Waiting:
    return Waiting()


def test_what_nobody_waits_for_is_left_to_the_queue(house: Waiting) -> None:
    assert house.fetch() == 0
    house.ask()
    house.clock.advance(21.0)
    assert house.fetch() == 0
    assert house.counts().missing == 1


def test_what_somebody_waits_for_is_here_at_once(house: Waiting) -> None:
    house.ask()
    assert house.fetch() == 1
    assert house.objects.has(house.older)
    assert house.counts().missing == 0
    assert house.fetch() == 0


def test_a_claim_of_the_queue_holds_up_nobody_who_waits(house: Waiting) -> None:
    assert house.state.claim_lfs("w2", limit=10, lease_seconds=300.0)
    house.ask()
    assert house.fetch() == 1
    assert house.counts().missing == 0


def test_what_upstream_lacks_is_said_and_known_from_then_on(house: Waiting) -> None:
    house.upstream.refusals[house.older.oid] = (404, "gone")
    house.ask()
    assert house.fetch() == 1
    told = house.ask()
    assert told is not None
    assert told[0] == "MS-L404"
    assert house.counts().known_missing == 1
    house.clock.advance(3600.0)
    house.ask()
    assert house.fetch() == 0  # the queue asks again, in its own time


def test_what_fails_is_not_tried_again_for_everyone_who_asks(house: Waiting) -> None:
    house.upstream.refusals[house.older.oid] = (422, "not today")
    house.ask()
    assert house.fetch() == 1
    told = house.ask()
    assert told is not None
    assert "not today" in told[1]
    assert house.fetch() == 0
    del house.upstream.refusals[house.older.oid]
    house.clock.advance(asked.FAILED_SECONDS + 1.0)
    assert house.ask() is None
    assert house.fetch() == 1
    assert house.counts().missing == 0


def test_a_wish_to_wait_is_obeyed_however_many_ask(house: Waiting) -> None:
    house.upstream.batch_errors.append(RateLimited(until=house.clock.now() + 500.0))
    house.ask()
    assert house.fetch() == 1
    house.clock.advance(499.0)
    assert house.ask() is not None
    assert house.fetch() == 0
    house.clock.advance(2.0)
    assert house.ask() is None
    assert house.fetch() == 1
    assert house.counts().missing == 0


def test_a_stop_keeps_the_wish(house: Waiting) -> None:
    stop = threading.Event()
    stop.set()
    house.ask()
    house.fetch(stop=stop)
    assert house.ask() is None
    assert house.fetch() == 1
    assert house.counts().missing == 0


def test_lanes_take_different_objects_of_one_mirror_at_a_time() -> None:
    def job(mirror: int, oid: int) -> LfsJob:
        return LfsJob(MirrorId(mirror), LfsOid(f"{oid:064x}"), 1, 0, 0)

    in_hand = asked.InHand()
    jobs = [job(1, 1), job(2, 2), job(1, 3)]
    assert in_hand.take(jobs) == [job(1, 1), job(1, 3)]
    assert in_hand.take(jobs) == [job(2, 2)]
    assert in_hand.take(jobs) == []
    in_hand.leave([job(1, 1), job(1, 3)])
    assert in_hand.take(jobs) == [job(1, 1), job(1, 3)]


def test_the_true_one_of_two_sizes_is_found_while_they_wait(house: Waiting) -> None:
    raw = b"two pointers name these bytes"
    true = house.upstream.put(raw)
    lie = Pointer(true.oid, true.size + 7)
    first = house.git.commit("three", files={"a": lie, "b": true})
    house.offer(main=house.git.commit("four", parents=[first]))
    house.run()
    house.state.ask_lfs(house.mirror.id, true.oid, seconds=600.0)
    tries = 0
    while house.fetch():
        tries += 1
        assert tries < 4
    assert house.objects.has(true)
