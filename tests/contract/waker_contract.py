"""What every Waker promises."""

from __future__ import annotations

import threading
import time

import pytest

from mirror_sync.ports import Waker

SOON = 10.0


class WakerContract:
    @pytest.fixture
    def make(self):
        """Return a function that opens one more waker of the same group."""
        raise NotImplementedError

    def test_a_poke_ends_the_wait(self, make):
        waiter, poker = make(), make()
        assert not waiter.wait(0.01)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(waiter.wait(SOON)))
        thread.start()
        time.sleep(0.05)
        started = time.monotonic()
        poker.poke()
        thread.join()
        assert answers == [True]
        assert time.monotonic() - started < SOON / 2

    def test_a_poke_before_the_wait_is_not_lost(self, make):
        waiter, poker = make(), make()
        assert not waiter.wait(0.01)
        poker.poke()
        assert waiter.wait(SOON)

    def test_a_burst_is_one_and_never_blocks(self, make):
        waiter, poker = make(), make()
        assert not waiter.wait(0.01)
        started = time.monotonic()
        for _ in range(500):
            poker.poke()
        assert time.monotonic() - started < SOON
        assert waiter.wait(SOON)
        drained = time.monotonic() + SOON
        while waiter.wait(0.05):
            assert time.monotonic() < drained

    def test_nobody_waits_and_poking_is_harmless(self, make):
        poker = make()
        poker.poke()
        poker.close()
        poker.poke()

    def test_a_wait_ends_by_itself(self, make):
        waiter = make()
        started = time.monotonic()
        assert not waiter.wait(0.2)
        assert 0.1 < time.monotonic() - started < SOON

    def test_close_twice(self, make):
        waiter: Waker = make()
        waiter.wait(0.01)
        waiter.close()
        waiter.close()
