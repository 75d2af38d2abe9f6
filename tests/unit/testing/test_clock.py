from __future__ import annotations

import threading

from mirror_sync.testing.clock import HandClock


def test_time_stands_still_until_told():
    clock = HandClock(100.0)
    assert (clock.now(), clock.monotonic()) == (100.0, 0.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 2.5)


def test_sleep_advances_and_says_whether_it_was_stopped():
    clock = HandClock(0.0)
    stop = threading.Event()
    assert clock.sleep(3.0, stop=stop) is False
    assert clock.now() == 3.0
    clock.on_sleep = lambda _: stop.set()
    assert clock.sleep(1.0, stop=stop) is True
    assert clock.sleep(1.0, stop=stop) is True
    assert clock.slept == [3.0, 1.0]


def test_a_jump_moves_the_wall_clock_only():
    clock = HandClock(50.0)
    clock.jump(-20.0)
    assert (clock.now(), clock.monotonic()) == (30.0, 0.0)
