"""Turns: a few at once, the others in the order of coming, none for ever."""

from __future__ import annotations

import threading
import time

import pytest

from mirror_sync.errors import Overloaded
from mirror_sync.repos import turns as turns_module
from mirror_sync.repos.turns import Turns


def waiting(turns: Turns, count: int) -> None:
    """Return when ``count`` threads wait in line."""
    while len(turns._line) < count:
        threading.Event().wait(0.001)


def test_takes_up_to_the_limit_and_no_more() -> None:
    turns = Turns(2, wait_seconds=0.01)
    first = turns.take()
    turns.take()
    with pytest.raises(Overloaded) as raised:
        turns.take()
    assert raised.value.code == "MS-V429"
    assert raised.value.retry_after > 0
    first.end()
    turns.take()


def test_ending_twice_frees_one() -> None:
    turns = Turns(1, wait_seconds=0.01)
    turn = turns.take()
    turn.end()
    turn.end()
    turns.take()
    with pytest.raises(Overloaded):
        turns.take()


def test_serves_in_the_order_of_coming() -> None:
    turns = Turns(1, wait_seconds=30)
    holding = turns.take()
    order: list[int] = []

    def come(number: int) -> None:
        turn = turns.take()
        order.append(number)
        turn.end()

    threads = [threading.Thread(target=come, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        waiting(turns, number)
    holding.end()
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2, 3, 4]


def test_who_gives_up_leaves_the_line() -> None:
    turns = Turns(1, wait_seconds=0.05)
    holding = turns.take()
    with pytest.raises(Overloaded):
        turns.take()
    holding.end()
    turns.take().end()
    turns.take()


def test_never_more_at_once_than_allowed() -> None:
    turns = Turns(3, wait_seconds=30)
    lock = threading.Lock()
    running = 0
    most = 0

    def work() -> None:
        nonlocal running, most
        for _ in range(50):
            turn = turns.take()
            with lock:
                running += 1
                most = max(most, running)
            with lock:
                running -= 1
            turn.end()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most <= 3
    assert (turns._taken, len(turns._line)) == (0, 0)


def test_who_only_waits_for_a_client_loses_the_turn_to_those_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(turns_module, "LOOK_EVERY_SECONDS", 0.02)
    turns = Turns(2, wait_seconds=5.0)
    stuck, busy = turns.take(), turns.take()
    stuck.handed_at = time.monotonic()
    began = time.monotonic()
    third = turns.take()
    assert 0.04 < time.monotonic() - began < 2.0
    stuck.end()  # too late: it is no longer its own
    assert turns._taken == 2
    busy.end()
    third.end()
    assert turns._taken == 0


def test_nobody_in_line_means_nobody_loses_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "IDLE_SECONDS", 0.0)
    turns = Turns(1, wait_seconds=0.05)
    working = turns.take()
    with pytest.raises(Overloaded):
        turns.take()
    assert turns._taken == 1
    working.end()
    assert turns._taken == 0
