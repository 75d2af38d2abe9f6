"""The lanes behind: claims kept alive, turns, order, and what the queue is told."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from mirror_sync.actions.history import LEASE_SECONDS, SMALL_BYTES, TURN_SECONDS
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.domain.runs import NewMirror
from mirror_sync.errors import RateLimited, StateUnavailable, StorageFull
from mirror_sync.testing.repository import scripted_oid
from tests.unit.actions.test_gate import MIB, Gated
from tests.unit.actions.test_sync import MAIN

OTHER = MirrorName("upstream.example/acme/other")


@pytest.fixture
def house() -> Gated:
    return Gated()


def want(house: Gated, *pointers: Pointer, name: MirrorName | None = None, ranks: dict[str, int] | None = None) -> None:
    """Let a mirror's history refer to these objects."""
    mirror = house.now() if name is None else house.state.enrol(NewMirror(name, f"https://{name}", 600.0, 1800.0))[0]
    lease = house.state.claim_mirror(mirror.id, "w1", lease_seconds=60.0, purpose="test")
    assert lease is not None
    found = [PointerBlob(scripted_oid(pointer.oid), pointer) for pointer in pointers]
    house.state.add_scan(lease, found, scanned=None)
    house.state.rank_lfs(lease, ranks or {})
    house.state.release(lease)


def test_a_claim_lives_as_long_as_its_transfer_and_no_longer(house: Gated) -> None:
    seconds = int(LEASE_SECONDS * 2.5)
    house.upstream.piece = MIB // 16
    large = house.slow(seconds // 16, b"l")
    want(house, large)
    stolen = []
    house.at_piece = lambda offset: stolen.extend(house.state.claim_lfs("thief", limit=9, lease_seconds=1.0))
    began = house.clock.now()
    assert house.history() == 1
    assert house.clock.now() - began > LEASE_SECONDS * 2
    assert stolen == []
    assert house.objects.has(large)


def test_a_claim_whose_process_died_is_free_again_soon(house: Gated) -> None:
    want(house, house.upstream.put(b"x"))
    assert house.state.claim_lfs("dead", limit=9, lease_seconds=LEASE_SECONDS)
    assert house.history() == 0
    house.clock.advance(LEASE_SECONDS)
    assert house.history() == 1


def test_a_large_object_makes_way_for_another_mirror_and_loses_nothing(house: Gated) -> None:
    large, other = house.slow(int(TURN_SECONDS) * 2, b"l"), house.upstream.put(b"other")
    want(house, large)

    def another(offset: int) -> None:
        if offset == 10 * MIB:
            want(house, other, name=OTHER)

    house.at_piece = another
    assert house.history() == 1
    assert not house.objects.has(large)
    assert house.upstream.sent <= (TURN_SECONDS + 3) * MIB
    assert house.history() == 1
    assert house.objects.has(other)
    assert not house.objects.has(large)
    house.at_piece = lambda offset: None
    assert house.history() == 1
    assert house.objects.has(large)
    assert house.upstream.sent <= (TURN_SECONDS * 2 + 1) * MIB + len(b"other")


def test_small_objects_do_not_stand_behind_large_ones(house: Gated) -> None:
    large = Pointer(house.upstream.put(b"large").oid, SMALL_BYTES + 1)
    small = house.upstream.put(b"small")
    want(house, large, small)
    jobs = house.state.claim_lfs("w1", limit=1, lease_seconds=60.0, largest=None)
    assert [job.oid for job in jobs] == [small.oid], "small before large in the lane that takes any, too"
    house.state.release_lfs("w1", jobs)
    assert house.history(largest=SMALL_BYTES) == 1
    assert house.objects.has(small)
    assert house.history(largest=SMALL_BYTES) == 0
    assert [job.oid for job in house.state.claim_lfs("w1", limit=9, lease_seconds=60.0)] == [large.oid]


def test_sources_are_asked_for_as_for_whoever_waits_and_closed(house: Gated) -> None:
    waited, history = house.upstream.put(b"waited"), house.upstream.put(b"history")
    want(house, waited, history, ranks={waited.oid: 0})
    asked = []

    def opened(mirror, *, awaited):
        asked.append((mirror.name, awaited))
        house.upstream.closed = False
        return [house.upstream]

    assert house.history(open_sources=opened) == 1
    assert house.history(open_sources=opened) == 1
    assert asked == [(house.now().name, True), (house.now().name, False)]
    assert house.upstream.closed


def test_what_was_stopped_is_given_back_untouched(house: Gated) -> None:
    want(house, house.slow(8))
    stop = threading.Event()
    house.at_piece = lambda offset: stop.set()
    assert house.history(stop=stop) == 1
    (job,) = house.state.claim_lfs("w1", limit=9, lease_seconds=60.0)
    assert job.attempts == 0


def test_what_an_error_kept_from_being_tried_waits_as_long_as_it_says(house: Gated) -> None:
    pointer = house.upstream.put(b"x")
    want(house, pointer)
    house.upstream.batch_errors.append(RateLimited(until=house.clock.now() + 500))
    house.history()
    house.clock.advance(499)
    assert house.history() == 0
    house.clock.advance(1)
    assert house.history() == 1
    assert house.objects.has(pointer)


def test_a_ref_that_waits_for_what_upstream_lacks_is_looked_at_again_at_once(house: Gated) -> None:
    house.policy = replace(house.policy, publish_known_missing=True)
    lost = Pointer(LfsOid("a" * 64), 65 * MIB)
    house.upstream.refusals[lost.oid] = (404, "not here")
    want(house, lost, ranks={lost.oid: 1})
    (job,) = house.state.claim_lfs("behind", limit=9, lease_seconds=60.0)
    house.offer(main=house.git.commit("one", files={"w": lost}))
    assert house.run().code == "MS-H007"  # somebody else is at it
    house.state.release_lfs("behind", [job])
    house.clock.advance(1)
    assert house.now().due_at > house.clock.now()
    assert house.history() == 1
    assert house.now().due_at <= house.clock.now()
    house.run_as_it_is_due()
    assert MAIN in house.served().tips


def test_what_does_not_fit_is_told_and_tried_again(house: Gated) -> None:
    want(house, house.slow(3))
    house.objects.capacity = MIB
    assert house.history() == 1
    ((_, code, _),) = house.state.lfs_missing(house.mirror.id)
    assert code == StorageFull.code
    assert house.upstream.sent == 0


def test_progress_is_shown_while_a_lane_fetches(house: Gated) -> None:
    want(house, house.slow(8))
    seen = []
    house.at_piece = lambda offset: seen.append(house.now().progress)
    house.history()
    assert [progress.total for progress in seen if progress is not None][-1] == 8 * MIB
    assert house.now().progress is None


def test_a_database_that_is_away_for_a_while_ends_no_transfer(house: Gated) -> None:
    large = house.slow(int(TURN_SECONDS) + 40, b"l")
    want(house, large)

    class Away:
        def __getattr__(self, name: str):
            if name in ("renew_lfs", "lfs_queued"):

                def away(*_given, **_named):
                    raise StateUnavailable

                return away
            return getattr(house.state, name)

    assert house.history(state=Away()) == 1
    assert house.objects.has(large)
