"""How many connections LFS objects may use: for the machine, for each host, and for each transfer its share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from mirror_sync.ports import Clock

SETTLE_SECONDS = 0.04
"""What comes so soon after the last connection was made is not counted: it lay ready, or was slow to begin."""

SHORT_SECONDS = 0.06
LONG_SECONDS = 0.4
"""A number of connections is judged after the short time when it brings more, after the long one when it does not."""

SLOWEST_SECONDS = 1.0
STEADY_SECONDS = 1.0
GAIN = 0.4
"""More connections stay when the rate grows by at least this share of what they would bring at best."""

ENOUGH_BYTES = 64 << 10
ENOUGH_ANSWERS = 3
"""So much of either, for each connection, makes a measurement."""

ANSWER_WORTH = 64 << 10
"""An answered request counts as so many bytes beside its own, so that many small objects are work too."""

FIRST_PROBE_SECONDS = 2.0
LAST_PROBE_SECONDS = 30.0
SHY_SECONDS = 5.0
IDLE_SECONDS = 30.0
HUNGER_SECONDS = 1.0
DISTRUST_SECONDS = 3600.0
RULES_SECONDS = 1.0
MOST_HOSTS = 4096


class Window:
    """How many connections one host is worth: more while more bring more, half when it pushes back.

    Time is monotonic seconds.  Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self.size = 1
        self._growing = True
        self._base: tuple[int, float] | None = None
        """The last number that was worth it, and its rate."""
        self._wait = FIRST_PROBE_SECONDS
        self._probe_at = 0.0
        self._pushed_at = float("-inf")
        self._last_at = float("-inf")
        self._begin(None)

    def _begin(self, now: float | None) -> None:
        self._since = now
        self._late = False
        self._work = 0
        self._bytes = 0
        self._answers = 0
        if now is None:
            self._flowing: set[object] = set()

    def came(self, connection: object, size: int, *, answers: int, now: float, most: int) -> None:
        """Note what one connection brought; ``most`` is the largest number allowed."""
        if now - self._last_at > IDLE_SECONDS:
            self.size, self._growing, self._base = max(1, self.size // 2), True, None
            self._begin(None)
        self._last_at = now
        if self._since is None:
            # What is judged is the number of connections that bring something, not of those being made.
            self._flowing.add(connection)
            if len(self._flowing) >= self.size:
                self._begin(now + SETTLE_SECONDS)
            return
        if now <= self._since:
            return
        self._work += size + answers * ANSWER_WORTH
        self._bytes += size
        self._answers += answers
        self._judge(now, most)

    def _judge(self, now: float, most: int) -> None:
        assert self._since is not None
        took = now - self._since
        enough = self._bytes >= ENOUGH_BYTES * self.size or self._answers >= ENOUGH_ANSWERS * self.size
        base = self._base
        # A few more connections are told from a lucky moment by a longer look than twice as many.
        doubled = base is None or self.size >= 2 * base[0] or self.size == base[0]
        least = SHORT_SECONDS if doubled else LONG_SECONDS
        if took < least or (not enough and took < SLOWEST_SECONDS):
            return
        rate = self._work / took
        if base is not None and self.size > base[0]:
            wanted = base[1] * (1 + GAIN * (self.size - base[0]) / base[0])
            if rate >= wanted:
                self._base = (self.size, rate)
                self._wait = FIRST_PROBE_SECONDS
                self._probe(now, most)
            elif not self._late:
                # The first moments may have been the making of connections.
                self._begin(now)
                self._late = True
            elif took >= LONG_SECONDS:
                self.size = base[0]
                self._growing = False
                self._probe_at = now + self._wait
                self._wait = min(LAST_PROBE_SECONDS, self._wait * 2)
                self._begin(now)
            return
        if self._growing or (took >= STEADY_SECONDS and now >= self._probe_at):
            self._base = (self.size, rate)
            self._probe(now, most)
        elif took >= STEADY_SECONDS:
            self._base = (self.size, rate)
            self._begin(now)

    def _probe(self, now: float, most: int) -> None:
        more = self.size * (4 if self.size == 1 else 2) if self._growing else self.size + max(1, self.size // 4)
        if self.size >= most:
            self._growing = False
            self._probe_at = now + LAST_PROBE_SECONDS
            self._begin(now)
            return
        self.size = min(most, more)
        self._begin(None)

    def pushed_back(self, now: float) -> None:
        """Note that the host refused, failed or asked to slow down: half as many, and no more for a while."""
        if now - self._pushed_at < 1.0:
            return  # all of one moment are one refusal
        self._pushed_at = now
        self.size = max(1, self.size // 2)
        self._growing = False
        self._base = None
        self._probe_at = now + SHY_SECONDS
        self._begin(now)


class Advice(Enum):
    """What follows from bytes that came."""

    GO_ON = auto()
    MORE = auto()
    """One more connection may be worth it."""
    LEAVE = auto()
    """This connection is one too many."""


@dataclass(slots=True)
class _Host:
    window: Window = field(default_factory=Window)
    used: int = 0
    leaving: int = 0
    most: int | None = None
    """What the rules allow, as it was when they were asked last."""
    asked_at: float = 0.0
    rests_until: float = 0.0
    """Unix seconds."""


class Share:
    """What one transfer holds of the budget."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.leaving: dict[str, int] = {}
        """Of those, the ones that are to be given back soon."""
        self.hungry_at: dict[str, float] = {}
        """When a connection to a host was last denied."""
        self.total = 0
        """What it holds of all hosts."""


@dataclass(eq=False, slots=True)
class Place:
    """Leave to use one connection to one host."""

    share: Share
    host: str
    leaving: bool = False
    """Whether it was asked to be given back soon."""


class Budget:
    """The connections that this process may use for LFS objects; make one and share it.

    ``connections`` is the number for the machine, ``per_host`` tells the most for one
    host at this moment.  How many a host is really given is learnt while bytes arrive.
    """

    def __init__(self, connections: int, *, clock: Clock, per_host: Callable[[str], int] | None = None) -> None:
        self.connections = max(1, connections)
        self._per_host = per_host
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._shares: set[Share] = set()
        self._distrusted: dict[str, float] = {}
        self._used = 0
        self._guard = threading.Lock()

    # -- transfers

    def join(self) -> Share:
        """Begin a transfer."""
        share = Share()
        with self._guard:
            self._shares.add(share)
        return share

    def leave(self, share: Share) -> None:
        """End a transfer that has given every place back."""
        with self._guard:
            self._shares.discard(share)

    # -- places

    def take(self, share: Share, host: str, *, instead: Place | None = None) -> Place | None:
        """Return a place, or ``None`` when there is none for this transfer now.

        ``instead`` names a place at another host that is given back for it.
        """
        with self._guard:
            if instead is None:
                return self._take(share, host)
            self._count(instead, -1)
            place = self._take(share, host)
            self._count(instead, +1)
            if place is not None:
                self._stay(instead)
                self._count(instead, -1)
            return place

    def _take(self, share: Share, host: str) -> Place | None:
        known = self._known(host)
        if self._clock.now() < known.rests_until:
            return None
        now = self._clock.monotonic()
        most = min(known.window.size, self._most(host))
        full = self._used >= self.connections or known.used >= most
        if full or self._surplus(share, host, most, now) >= 0:
            share.hungry_at[host] = now
            return None
        place = Place(share, host)
        self._count(place, +1)
        share.hungry_at.pop(host, None)
        return place

    def keep(self, place: Place) -> bool:
        """Tell whether the place may be used once more."""
        now = self._clock.monotonic()
        with self._guard:
            known = self._hosts[place.host]
            most = min(known.window.size, self._most(place.host))
            return (
                not place.leaving
                and self._used <= self.connections
                and known.used <= most
                and self._surplus(place.share, place.host, most, now) <= 0
                and self._clock.now() >= known.rests_until
            )

    def give_back(self, place: Place) -> None:
        """Free a place."""
        with self._guard:
            self._stay(place)
            self._count(place, -1)

    def _stay(self, place: Place) -> None:
        if place.leaving:
            place.leaving = False
            self._count_leaving(place, -1)

    def _count_leaving(self, place: Place, step: int) -> None:
        self._hosts[place.host].leaving += step
        place.share.leaving[place.host] = place.share.leaving.get(place.host, 0) + step

    def _count(self, place: Place, step: int) -> None:
        self._used += step
        self._hosts[place.host].used += step
        place.share.held[place.host] = place.share.held.get(place.host, 0) + step
        place.share.total += step

    def _most(self, host: str) -> int:
        if self._per_host is None:
            return self.connections
        known, now = self._hosts[host], self._clock.monotonic()
        if known.most is None or not 0 <= now - known.asked_at < RULES_SECONDS:
            known.most, known.asked_at = max(1, min(self.connections, self._per_host(host))), now
        return known.most

    def _known(self, host: str) -> _Host:
        if host not in self._hosts and len(self._hosts) >= MOST_HOSTS:
            # Hosts come from upstreams' answers too, so there is no end to them.
            now = self._clock.now()
            self._hosts = {name: at for name, at in self._hosts.items() if at.used or at.rests_until > now}
        return self._hosts.setdefault(host, _Host())

    def _surplus(self, share: Share, host: str, most: int, now: float) -> int:
        """Return how many connections to ``host`` one transfer holds more than is fair to others that want some.

        Negative when it may have more.  Those that it is about to give back count as given back.
        """
        held = share.held.get(host, 0) - share.leaving.get(host, 0)
        over = held - self._fair(share, most, now, host)
        if self._used >= self.connections:
            total = sum(share.held.values()) - sum(share.leaving.values())
            over = max(over, total - self._fair(share, self.connections, now, ""))
        return over

    def _fair(self, share: Share, most: int, now: float, host: str) -> int:
        """Return one transfer's part of ``most`` connections, to ``host`` or (empty) to any."""
        rivals, hungry = 1, False
        for other in self._shares:
            if other is share:
                continue
            denied = other.hungry_at.get(host) if host else max(other.hungry_at.values(), default=None)
            wants = denied is not None and now - denied < HUNGER_SECONDS
            holds = other.held.get(host, 0) if host else sum(other.held.values())
            hungry = hungry or wants
            rivals += wants or holds > 0
        return max(1, -(-min(most, self.connections) // rivals)) if hungry else most

    # -- what is learnt

    def came(self, place: Place, size: int, *, answers: int = 0) -> Advice:
        """Note bytes that came through a place, and answers that ended; tell what follows from it."""
        now = self._clock.monotonic()
        with self._guard:
            known = self._hosts[place.host]
            most = self._most(place.host)
            before = known.window.size
            known.window.came(place, size, answers=answers, now=now, most=most)
            if known.window.size > before:
                return Advice.MORE
            if place.leaving:
                return Advice.LEAVE
            most = min(known.window.size, most)
            if known.used - known.leaving > most or self._surplus(place.share, place.host, most, now) > 0:
                place.leaving = True
                self._count_leaving(place, +1)
                return Advice.LEAVE
            return Advice.GO_ON

    def pushed_back(self, host: str, *, until: float | None = None) -> None:
        """Note that a host refused or failed; ``until`` (Unix seconds) it wants to be left alone."""
        with self._guard:
            known = self._known(host)
            known.window.pushed_back(self._clock.monotonic())
            if until is not None:
                known.rests_until = max(known.rests_until, until)

    def rests_until(self, host: str) -> float:
        """Return until when (Unix seconds) a host wants to be left alone; in the past when it does not."""
        with self._guard:
            known = self._hosts.get(host)
            return known.rests_until if known is not None else 0.0

    def distrust(self, host: str) -> None:
        """Note that a host sent wrong bytes: no transfer need try it for a while."""
        with self._guard:
            self._distrusted[host] = self._clock.monotonic() + DISTRUST_SECONDS

    def distrusts(self, host: str) -> bool:
        """Tell whether a host sent wrong bytes a while ago."""
        with self._guard:
            return self._clock.monotonic() < self._distrusted.get(host, float("-inf"))
