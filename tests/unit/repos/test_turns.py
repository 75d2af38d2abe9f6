"""Turns: a few at once, the others in the order of coming, none for ever."""

from __future__ import annotations

import threading
import time

import pytest

from mirror_sync.errors import Overloaded
from mirror_sync.repos import turns as turns_module
from mirror_sync.repos.turns import Turn, Turns


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
    assert (turns.running(), turns.waiting()) == (0, 0)


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
    assert turns.running() == 2
    busy.end()
    third.end()
    assert turns.running() == 0


def test_nobody_in_line_means_nobody_loses_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "IDLE_SECONDS", 0.0)
    turns = Turns(1, wait_seconds=0.05)
    working = turns.take()
    with pytest.raises(Overloaded):
        turns.take()
    assert turns.running() == 1
    working.end()
    assert turns.running() == 0


class Crowd:
    """Threads that each ask for one turn, and the order in which they got it."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.held: dict[str, list[Turn]] = {}
        self.threads: list[threading.Thread] = []

    def come(self, client: str, mirror: str = "m") -> None:
        before = self.turns.waiting()

        def ask() -> None:
            turn = self.turns.take(client=client, mirror=mirror)
            self.held.setdefault(client, []).append(turn)
            self.order.append(client)

        thread = threading.Thread(target=ask)
        thread.start()
        self.threads.append(thread)
        waiting(self.turns, before + 1)

    def served(self, count: int) -> list[str]:
        """Return who has had a turn once ``count`` have."""
        while len(self.order) < count:
            threading.Event().wait(0.001)
        return self.order


def test_a_client_with_many_in_line_keeps_nobody_waiting_who_comes_later() -> None:
    turns = Turns(1, wait_seconds=30)
    first = turns.take(client="many")
    crowd = Crowd(turns)
    for _ in range(5):
        crowd.come("many")
    crowd.come("one")
    crowd.come("other")
    first.end()
    for count, expected in enumerate(["one", "other", "many"], 1):
        assert crowd.served(count)[-1] == expected
        crowd.held[expected].pop().end()
    assert crowd.served(4)[-1] == "many"
    crowd.come("one")
    crowd.held["many"].pop().end()
    assert crowd.served(5)[-1] == "one"
    crowd.held["one"].pop().end()
    for count in (6, 7, 8):
        assert crowd.served(count)[-1] == "many"
        crowd.held["many"].pop().end()
    for thread in crowd.threads:
        thread.join(30)
    assert (turns.running(), turns.waiting()) == (0, 0)
    assert not turns._served  # nothing is remembered of who has left


def test_what_is_only_sent_lets_others_compute_up_to_a_limit() -> None:
    turns = Turns(2, wait_seconds=0.02, per_client=1)
    sending = []
    for number in range(turns_module.SENDING_TIMES):
        turn = turns.take(client="many", mirror=str(number))
        with pytest.raises(Overloaded):
            turns.take(client="many")
        turn.sent_from_now()
        turn.sent_from_now()
        sending.append(turn)
    with pytest.raises(Overloaded):
        turns.take(client="many")  # it computes nothing, and has its share of what is sent
    others = [turns.take(client=f"c{number}") for number in range(2)]
    with pytest.raises(Overloaded):
        turns.take(client="c9")
    for turn in [*sending, *others]:
        turn.end()
        turn.sent_from_now()
    assert turns.running() == 0
    assert turns._computing.total == turns._all.total == 0
    assert not turns._all.clients


@pytest.mark.parametrize("share", ["per_client", "per_mirror"])
def test_a_share_leaves_turns_for_others(share: str) -> None:
    turns = Turns(3, wait_seconds=0.02, per_client=2 if share == "per_client" else None, per_mirror=2)
    client, mirror = ("c", "") if share == "per_client" else ("", "m")
    mine = [turns.take(client=client or f"c{number}", mirror=mirror or f"m{number}") for number in range(2)]
    with pytest.raises(Overloaded):
        turns.take(client=client or "c9", mirror=mirror or "m9")
    turns.take(client="another", mirror="another")
    mine[0].end()
    turns.take(client=client or "c9", mirror=mirror or "m9")
    assert turns.running() == 3


def test_who_leaves_while_waiting_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "LOOK_EVERY_SECONDS", 0.01)
    turns = Turns(1, wait_seconds=30)
    holding = turns.take()
    with pytest.raises(ConnectionResetError):
        turns.take(gone=lambda: True)
    assert (turns.running(), turns.waiting()) == (1, 0)
    holding.end()
    turns.take().end()
