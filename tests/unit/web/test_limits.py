from __future__ import annotations

from contextlib import ExitStack

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from mirror_sync.config import ServeSettings, Settings
from mirror_sync.testing.clock import HandClock
from mirror_sync.web import limits as limits_module
from mirror_sync.web.limits import (
    LARGER_BODIES,
    RESERVED_THREADS,
    SMALL_BODY_BYTES,
    Limits,
    Patience,
    Slots,
    client_of,
    thread_count,
)


def test_slots_run_out_and_come_back_once() -> None:
    slots = Slots(2)
    first, second = slots.take(), slots.take()
    assert first is not None
    assert second is not None
    assert slots.take() is None
    first.release()
    first.release()
    assert slots.take() is not None
    assert slots.take() is None


def test_one_client_leaves_places_for_others() -> None:
    slots = Slots(4, per_client=3)
    mine = [slots.take(client="mine") for _ in range(4)]
    assert [slot is not None for slot in mine] == [True, True, True, False]
    theirs = slots.take(client="theirs")
    assert theirs is not None
    assert slots.take(client="others") is None
    assert mine[0] is not None
    mine[0].release()
    mine[0].release()
    assert slots.take(client="mine") is not None
    assert slots.take(client="mine") is None
    theirs.release()
    assert slots._clients == {"mine": 3}  # nothing is remembered of who has left


@pytest.mark.parametrize(("most", "share"), [(1, 1), (2, 1), (8, 6), (256, 192)])
def test_streams_have_room_for_somebody_else(most: int, share: int) -> None:
    limits = Limits(Settings(serve=ServeSettings(max_streams=most)), HandClock())
    taken = 0
    while limits.streams.take(client="one") is not None:
        taken += 1
    assert taken == share


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, client: str) -> None:
    builder = EnvironBuilder(environ_base={"REMOTE_ADDR": address})
    assert client_of(Request(builder.get_environ())) == client


def test_waiting_for_a_slot_ends() -> None:
    slots = Slots(1)
    assert slots.take() is not None
    assert slots.take(wait=0.01) is None


def test_bad_requests_use_up_patience_and_time_gives_it_back() -> None:
    clock = HandClock()
    patience = Patience(clock, burst=3, per_second=1)
    for _ in range(3):
        assert not patience.exhausted("a")
        patience.failed("a")
    assert patience.exhausted("a")
    assert not patience.exhausted("b")
    clock.advance(1.0)
    assert not patience.exhausted("a")
    patience.failed("a")
    assert patience.exhausted("a")


def test_good_requests_cost_nothing() -> None:
    patience = Patience(HandClock(), burst=1, per_second=0.1)
    assert not any(patience.exhausted("a") for _ in range(10_000))


def test_a_flood_of_sources_takes_bounded_memory() -> None:
    patience = Patience(HandClock(), sources=50)
    for index in range(1000):
        patience.failed(f"10.0.0.{index}")
    assert len(patience._spent) == 50


def test_streams_never_take_every_thread() -> None:
    settings = Settings(serve=ServeSettings(max_streams=64, threads=64))
    assert thread_count(settings) == 64 + RESERVED_THREADS
    assert thread_count(Settings(serve=ServeSettings(max_streams=8, threads=256))) == 256


def test_small_bodies_need_no_place_and_larger_ones_wait_in_a_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "BODY_WAIT_SECONDS", 0.01)
    limits = Limits(Settings(), HandClock())
    with ExitStack() as stack:
        held = [stack.enter_context(limits.body_place(None)) for _ in range(LARGER_BODIES)]
        assert all(held)
        with limits.body_place(SMALL_BODY_BYTES + 1) as placed:
            assert not placed
        with limits.body_place(SMALL_BODY_BYTES) as placed:
            assert placed
    with limits.body_place(None) as placed:
        assert placed
