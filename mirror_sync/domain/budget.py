"""How a link is shared: caps by host and by hour, updates before first fills, connections alike."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MACHINE = ""
"""The account that every byte is paid from, whatever host it comes from."""

ACTIVE_SECONDS = 2.0
"""Updates want some of a cap until they have asked for nothing for so long."""

BURST_SECONDS = 0.25
QUANTUM_SECONDS = 0.1
SMALLEST = 4096
LARGEST = 1 << 18


class Urgency(StrEnum):
    """Who waits for the bytes."""

    UPDATE = "update"
    """News for a mirror that is served already."""
    FILL = "fill"
    """A first fill, or LFS objects of the history."""


@dataclass(frozen=True, slots=True)
class Hours:
    """A rate for part of every day: from ``begin`` to before ``end``, in minutes after midnight, over midnight too.

    Equal ends mean the whole day.  ``rate`` is in bytes per second, ``None`` for no cap.
    """

    begin: int
    end: int
    rate: float | None

    def hold(self, minute: int) -> bool:
        """Tell whether ``minute`` lies in these hours."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True)
class Cap:
    """Bytes per second at most, ``None`` for as fast as it goes; the first of ``hours`` that hold goes before ``rate``."""

    rate: float | None = None
    hours: tuple[Hours, ...] = ()

    def at(self, minute: int) -> float | None:
        """Return the rate in force at this minute of the day."""
        return next((hours.rate for hours in self.hours if hours.hold(minute)), self.rate)

    @property
    def narrows(self) -> bool:
        """Whether it ever limits anything."""
        return self.rate is not None or any(hours.rate is not None for hours in self.hours)


@dataclass(frozen=True, slots=True)
class LinkRules:
    """What is decided about a link.  ``fill_share`` is what fills may use of a cap while updates want some."""

    machine: Cap = Cap()
    hosts: Mapping[str, Cap] = field(default_factory=dict)
    fill_share: float = 0.8

    def cap(self, name: str) -> Cap | None:
        """Return the cap of an account, ``None`` when it has none."""
        cap = self.machine if name == MACHINE else self.hosts.get(name)
        return cap if cap is not None and cap.narrows else None


class Account:
    """What may be spent under one cap now.

    Bytes are paid for after they came, so it may be overdrawn by one reading; what is
    over is made up for before anything else is granted.
    """

    __slots__ = ("_at", "_fills", "_free", "_share", "_update_at", "rate")

    def __init__(self, now: float) -> None:
        self.rate: float | None = None
        self._share = 1.0
        self._at = now
        self._free = 0.0
        self._fills = 0.0
        self._update_at: float | None = None

    def turn(self, now: float, *, rate: float | None, share: float) -> None:
        """Put ``rate`` and the fills' ``share`` in force and add what has become free since the last time."""
        elapsed, self._at = max(0.0, now - self._at), now
        self.rate = rate
        self._share = share if self._updates_want(now) else 1.0
        if rate is None:
            self._free = self._fills = 0.0
            return
        most, least = rate * BURST_SECONDS, -max(rate, 2.0 * SMALLEST)
        self._free = max(least, min(most, self._free + elapsed * rate))
        self._fills = max(least, min(most, self._fills + elapsed * rate * self._share))

    def _updates_want(self, now: float) -> bool:
        return self._update_at is not None and 0 <= now - self._update_at < ACTIVE_SECONDS

    def note(self, urgency: Urgency, now: float) -> None:
        """Remember that somebody wants some."""
        if urgency is Urgency.UPDATE:
            self._update_at = now

    def wait(self, urgency: Urgency) -> float:
        """Return in how many seconds something can be granted; 0 when it can now."""
        if self.rate is None:
            return 0.0
        seconds = max(0.0, -self._free / self.rate)
        if urgency is Urgency.FILL and self._share < 1.0:
            seconds = max(seconds, -self._fills / (self.rate * self._share))
        return seconds

    def spend(self, urgency: Urgency, size: int) -> None:
        """Take ``size`` bytes off."""
        if self.rate is not None:
            self._free -= size
            if urgency is Urgency.FILL:
                self._fills -= size


@dataclass(slots=True, eq=False)
class Payer:
    """One connection: the accounts it pays from, and how far its bytes have brought it in the queue."""

    names: tuple[str, ...]
    urgency: Urgency
    turn: float = 0.0


@dataclass(slots=True, eq=False)
class Claim:
    """Bytes that one connection read and waits to have paid for."""

    payer: Payer
    size: int
    turn: float
    granted: bool = False


class Ledger:
    """Every account, and who waits: updates before fills, among each whoever has had the fewest bytes.

    (Start-time fair queueing: a turn counts bytes, and who was away takes up where the
    others are.)  Not safe for threads by itself; the caller says what time it is
    (monotonic seconds).
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._waiting: dict[Urgency, list[Claim]] = {urgency: [] for urgency in Urgency}
        self._turns: dict[Urgency, float] = dict.fromkeys(Urgency, 0.0)

    def claim(self, payer: Payer, size: int, now: float) -> Claim:
        """Join the queue; :meth:`settle` grants."""
        turn = max(payer.turn, self._turns[payer.urgency])
        payer.turn = turn + size
        claim = Claim(payer, size, turn)
        for name in payer.names:
            self._accounts.setdefault(name, Account(now)).note(payer.urgency, now)
        insort(self._waiting[payer.urgency], claim, key=lambda waiting: waiting.turn)
        return claim

    def withdraw(self, claim: Claim) -> None:
        """Leave the queue; nothing happens when it was granted."""
        if not claim.granted:
            self._waiting[claim.payer.urgency].remove(claim)

    def settle(self, rules: LinkRules, *, minute: int, now: float) -> None:
        """Put ``rules`` in force and grant whatever they allow now; ``minute`` is that of the day."""
        for name in list(self._accounts):
            cap = rules.cap(name)
            self._accounts[name].turn(now, rate=None if cap is None else cap.at(minute), share=rules.fill_share)
        for urgency in Urgency:
            self._grant(urgency, now)
        self._forget(rules)

    def _grant(self, urgency: Urgency, now: float) -> None:
        waiting, exhausted = self._waiting[urgency], set[str]()
        at = 0
        while at < len(waiting) and MACHINE not in exhausted:
            claim = waiting[at]
            empty = [name for name in claim.payer.names if name in exhausted or self._accounts[name].wait(urgency) > 0]
            if empty:
                exhausted.update(empty)
                at += 1
                continue
            for name in claim.payer.names:
                self._accounts[name].spend(urgency, claim.size)
                self._accounts[name].note(urgency, now)
            self._turns[urgency] = max(self._turns[urgency], claim.turn)
            claim.granted = True
            del waiting[at]

    def _forget(self, rules: LinkRules) -> None:
        wanted = {name for waiting in self._waiting.values() for claim in waiting for name in claim.payer.names}
        for name in [name for name in self._accounts if name not in wanted and rules.cap(name) is None]:
            del self._accounts[name]

    def wait(self, claim: Claim) -> float:
        """Return in about how many seconds ``claim`` can be granted at the soonest."""
        payer = claim.payer
        return max((self._accounts[name].wait(payer.urgency) for name in payer.names), default=0.0)


def quantum(rates: Iterable[float | None]) -> int:
    """Return how many bytes to read at once under these rates, so that nobody has to wait long for his turn."""
    lowest = min((rate for rate in rates if rate is not None), default=None)
    return LARGEST if lowest is None else int(max(SMALLEST, min(LARGEST, lowest * QUANTUM_SECONDS)))
