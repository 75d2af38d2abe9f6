"""Turns at computing packs: a few at once, the others in line."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

from mirror_sync.errors import Overloaded

RETRY_SECONDS: Final = 30.0

IDLE_SECONDS: Final = 5.0
"""A holder whose client has taken nothing for so long computes nothing: its turn goes to whoever waits."""

LOOK_EVERY_SECONDS: Final = 1.0


class Turn:
    """One turn taken; ended once, however often that is asked."""

    def __init__(self, turns: Turns) -> None:
        self._turns: Turns | None = turns
        self.handed_at = 0.0
        """When the client was given what it has not taken yet (monotonic seconds); 0 while git works."""

    def end(self) -> None:
        """Let the next in line begin."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.give_back(self)


class Turns:
    """``limit`` turns at once; who comes later waits in line, up to ``wait_seconds``.

    A holder that only waits for its client loses its turn to those in line: a few
    clients that stop reading would otherwise keep everybody out.
    """

    def __init__(self, limit: int, *, wait_seconds: float) -> None:
        self._limit = limit
        self._wait_seconds = wait_seconds
        self._taken = 0
        self._line: deque[threading.Event] = deque()
        self._held: set[Turn] = set()
        self._lock = threading.Lock()

    def take(self) -> Turn:
        """Return a turn, in the order of coming; raises :class:`Overloaded` when none came in time."""
        with self._lock:
            if self._taken < self._limit and not self._line:
                self._taken += 1
                return self._new()
            mine = threading.Event()
            self._line.append(mine)
        began = time.monotonic()
        while not mine.wait(min(LOOK_EVERY_SECONDS, max(0.0, began + self._wait_seconds - time.monotonic()))):
            self._take_back_idle()
            if time.monotonic() - began < self._wait_seconds:
                continue
            with self._lock:
                if not mine.is_set():
                    self._line.remove(mine)
                    raise Overloaded(
                        retry_after=RETRY_SECONDS,
                        why=f"no turn at computing a pack came free in {time.monotonic() - began:.0f} s",
                    )
        with self._lock:
            return self._new()

    def give_back(self, turn: Turn) -> None:
        """End one turn: hand it to the first in line, or count it free; a turn taken back meanwhile is no more."""
        with self._lock:
            if turn not in self._held:
                return
            self._held.remove(turn)
            if self._line:
                self._line.popleft().set()
            else:
                self._taken -= 1

    def _new(self) -> Turn:
        turn = Turn(self)
        self._held.add(turn)
        return turn

    def _take_back_idle(self) -> None:
        now = time.monotonic()
        with self._lock:
            idle = [turn for turn in self._held if turn.handed_at and now - turn.handed_at > IDLE_SECONDS]
            idle = idle[: len(self._line)]
        for turn in idle:
            turn.end()
