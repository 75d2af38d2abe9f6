"""Turns at computing packs: a few at once, the others in line."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

from mirror_sync.errors import Overloaded

RETRY_SECONDS: Final = 30.0


class Turn:
    """One turn taken; ended once, however often that is asked."""

    def __init__(self, turns: Turns) -> None:
        self._turns: Turns | None = turns

    def end(self) -> None:
        """Let the next in line begin."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.give_back()


class Turns:
    """``limit`` turns at once; who comes later waits in line, up to ``wait_seconds``."""

    def __init__(self, limit: int, *, wait_seconds: float) -> None:
        self._limit = limit
        self._wait_seconds = wait_seconds
        self._taken = 0
        self._line: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def take(self) -> Turn:
        """Return a turn, in the order of coming; raises :class:`Overloaded` when none came in time."""
        with self._lock:
            if self._taken < self._limit and not self._line:
                self._taken += 1
                return Turn(self)
            mine = threading.Event()
            self._line.append(mine)
        began = time.monotonic()
        if not mine.wait(self._wait_seconds):
            with self._lock:
                if not mine.is_set():
                    self._line.remove(mine)
                    raise Overloaded(
                        retry_after=RETRY_SECONDS,
                        why=f"no turn at computing a pack came free in {time.monotonic() - began:.0f} s",
                    )
        return Turn(self)

    def give_back(self) -> None:
        """End one turn: hand it to the first in line, or count it free."""
        with self._lock:
            if self._line:
                self._line.popleft().set()
            else:
                self._taken -= 1
