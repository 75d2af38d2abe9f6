from __future__ import annotations

from contextlib import ExitStack

import pytest

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
