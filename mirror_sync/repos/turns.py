"""Turns at computing packs: a few at once, the others in line, each client and mirror with its share."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from mirror_sync.errors import Overloaded

RETRY_SECONDS: Final = 30.0

IDLE_SECONDS: Final = 2.0
"""A holder whose client has taken nothing for so long computes nothing: its turn goes to whoever waits."""

SENDING_TIMES: Final = 4
"""For each turn at computing so many packs may be computed or sent at once: sending costs a part of the processor."""

LOOK_EVERY_SECONDS: Final = 1.0
"""How often one who waits looks whether its client is still there."""


def never() -> bool:
    """Say that the client is still there."""
    return False


class Turn:
    """One turn taken; ended once, however often that is asked."""

    def __init__(self, turns: Turns, mirror: str, client: str) -> None:
        self._turns: Turns | None = turns
        self.mirror = mirror
        self.client = client
        self.handed_at = 0.0
        """When the client was given what it has not taken yet (monotonic seconds); 0 while git works."""
        self.sending = False
        """Whether the pack is computed and on its way."""

    def sent_from_now(self) -> None:
        """Let the next in line compute: this pack is computed, and is only sent from now on."""
        if self._turns is not None:
            self._turns.only_sent(self)

    def end(self) -> None:
        """Let the next in line begin."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.give_back(self)


class _Waiting:
    """One in line; ``turn`` is set before ``called`` is."""

    def __init__(self, mirror: str, client: str) -> None:
        self.mirror = mirror
        self.client = client
        self.called = threading.Event()
        self.turn: Turn | None = None


class _Counts:
    """How many turns there are of a kind, for each mirror and each client."""

    def __init__(self) -> None:
        self.total = 0
        self.mirrors: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()

    def more(self, one: _Waiting) -> None:
        self.total += 1
        self.mirrors[one.mirror] += 1
        self.clients[one.client] += 1

    def less(self, turn: Turn) -> None:
        self.total -= 1
        _less(self.mirrors, turn.mirror)
        _less(self.clients, turn.client)


class Turns:
    """``limit`` turns at once; who comes later waits in line, up to ``wait_seconds``.

    A turn is one at computing until its pack is on its way; what is sent does not keep
    the next from computing, up to :data:`SENDING_TIMES` as many in all.
    At most ``per_mirror`` of them are for one mirror and ``per_client`` for one client,
    so that some are soon free for others however long those packs take.  A free turn
    goes to the client in line that holds the fewest; among equals to the one whose last
    turn is longest ago, and then in the order of coming.  So whoever asks for fifty
    packs at once keeps nobody waiting who asks for one.

    A holder that only waits for its client loses its turn to those in line: a few
    clients that stop reading would otherwise keep everybody out.
    """

    def __init__(
        self, limit: int, *, wait_seconds: float, per_mirror: int | None = None, per_client: int | None = None
    ) -> None:
        self._limit = limit
        self._per_mirror = limit if per_mirror is None else per_mirror
        self._per_client = limit if per_client is None else per_client
        self._wait_seconds = wait_seconds
        self._line: list[_Waiting] = []
        self._held: set[Turn] = set()
        self._computing = _Counts()
        self._all = _Counts()
        self._served: dict[str, int] = {}
        """When each client that is here was last given a turn, counted in turns."""
        self._given = 0
        self._lock = threading.Lock()

    def take(self, *, mirror: str = "", client: str = "", gone: Callable[[], bool] = never) -> Turn:
        """Return a turn; raises :class:`Overloaded` when none came in time.

        ``gone`` is asked about once a second while waiting; once it says yes,
        :class:`ConnectionResetError` is raised.
        """
        mine = _Waiting(mirror, client)
        with self._lock:
            self._line.append(mine)
            self._call()
        began = time.monotonic()
        while not mine.called.wait(min(LOOK_EVERY_SECONDS, max(0.0, began + self._wait_seconds - time.monotonic()))):
            self._take_back_idle()
            if gone():
                if not self._leave(mine) and mine.turn is not None:
                    mine.turn.end()
                raise ConnectionResetError(errno.ECONNRESET, "the client went away while it waited for its turn")
            waited = time.monotonic() - began
            if waited >= self._wait_seconds and self._leave(mine):
                raise Overloaded(
                    retry_after=RETRY_SECONDS, why=f"no turn at computing a pack came free in {waited:.0f} s"
                )
        assert mine.turn is not None
        return mine.turn

    def waiting(self) -> int:
        """Return how many are in line."""
        return len(self._line)

    def running(self) -> int:
        """Return how many turns are held."""
        return len(self._held)

    def only_sent(self, turn: Turn) -> None:
        """Count a turn no more among those at computing."""
        with self._lock:
            if turn in self._held and not turn.sending:
                turn.sending = True
                self._computing.less(turn)
                self._call()

    def give_back(self, turn: Turn) -> None:
        """End one turn and call the next in line; a turn taken back meanwhile is no more."""
        with self._lock:
            if turn not in self._held:
                return
            self._held.remove(turn)
            self._all.less(turn)
            if not turn.sending:
                self._computing.less(turn)
            self._call()
            self._forget(turn.client)

    def _leave(self, mine: _Waiting) -> bool:
        """Leave the line; ``False`` when a turn came at the last moment."""
        with self._lock:
            if mine.turn is not None:
                return False
            self._line.remove(mine)
            self._forget(mine.client)
            return True

    def _call(self) -> None:
        """Give what is free to those in line whose turn it is."""
        while True:
            may = [
                one
                for one in self._line
                if self._room(self._computing, one) and self._room(self._all, one, SENDING_TIMES)
            ]
            if not may:
                return
            chosen = min(may, key=lambda one: (self._all.clients[one.client], self._served.get(one.client, 0)))
            self._line.remove(chosen)
            self._given += 1
            self._served[chosen.client] = self._given
            self._computing.more(chosen)
            self._all.more(chosen)
            chosen.turn = Turn(self, chosen.mirror, chosen.client)
            self._held.add(chosen.turn)
            chosen.called.set()

    def _room(self, counts: _Counts, one: _Waiting, times: int = 1) -> bool:
        """Tell whether one more fits into ``times`` the limits."""
        return (
            counts.total < times * self._limit
            and counts.mirrors[one.mirror] < times * self._per_mirror
            and counts.clients[one.client] < times * self._per_client
        )

    def _forget(self, client: str) -> None:
        """Forget when a client was last served that neither holds a turn nor waits: what is known stays bounded."""
        if client not in self._all.clients and all(one.client != client for one in self._line):
            self._served.pop(client, None)

    def _take_back_idle(self) -> None:
        now = time.monotonic()
        with self._lock:
            idle = [turn for turn in self._held if turn.handed_at and now - turn.handed_at > IDLE_SECONDS]
            idle = idle[: len(self._line)]
        for turn in idle:
            turn.end()


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
