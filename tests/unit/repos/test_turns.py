"""Turns: a few at once, the others in the order of coming, none for ever."""

from __future__ import annotations

import threading

import pytest

from mirror_sync.errors import Overloaded
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
