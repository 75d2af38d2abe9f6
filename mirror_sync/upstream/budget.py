"""Every byte of a transfer passes here: it waits for its part of the link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mirror_sync.domain.budget import MACHINE, SMALLEST, Ledger, LinkRules, Payer, Urgency, quantum
from mirror_sync.ports import Clock

LOOK_SECONDS = 1.0
LONGEST_SLEEP = 0.2
SHORTEST_SLEEP = 0.001
PATIENCE_SECONDS = 10.0
"""Who waited so long may pass with little, unpaid: a connection that moves nothing is cut by its server, and
its reader has to look up now and then."""


def local_minute(now: float) -> int:
    """Return the minute of the day by this machine's clock on the wall."""
    here = time.localtime(now)
    return here.tm_hour * 60 + here.tm_min


class LinkBudget:
    """The link of this process: caps in force now, whatever they were when a transfer began.

    ``rules`` is asked about once a second while bytes come, so what it returns may change.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        rules: Callable[[], LinkRules] = LinkRules,
        minute: Callable[[float], int] = local_minute,
    ) -> None:
        self._clock = clock
        self._rules = rules
        self._minute_of = minute
        self._guard = threading.Lock()
        self._ledger = Ledger()
        self._look_at: float | None = None
        self._now_rules = LinkRules()
        self._minute = 0

    def purse(self, hosts: tuple[str, ...], urgency: Urgency) -> Purse:
        """Return what one transfer pays from: the machine's account and those of ``hosts``."""
        return Purse(self, Payer(tuple(dict.fromkeys((MACHINE, *hosts))), urgency))

    def _look(self, now: float) -> None:
        if self._look_at is not None and 0 <= self._look_at - now <= LOOK_SECONDS:
            return
        self._look_at = now + LOOK_SECONDS
        self._now_rules = self._rules()
        self._minute = self._minute_of(self._clock.now())

    def room(self, names: tuple[str, ...]) -> int:
        """Return how many bytes to read at once."""
        with self._guard:
            self._look(self._clock.monotonic())
            caps = [self._now_rules.cap(name) for name in names]
            return quantum(cap.at(self._minute) for cap in caps if cap is not None)

    def pay(self, payer: Payer, size: int) -> bool:
        """Wait until ``size`` bytes are paid for; ``False`` when patience ended first."""
        now = began = self._clock.monotonic()
        with self._guard:
            self._look(now)
            if all(self._now_rules.cap(name) is None for name in payer.names):
                return True
            claim = self._ledger.claim(payer, size, now)
        try:
            while True:
                with self._guard:
                    self._look(now)
                    self._ledger.settle(self._now_rules, minute=self._minute, now=now)
                    if claim.granted:
                        return True
                    wait = self._ledger.wait(claim)
                if now - began >= PATIENCE_SECONDS:
                    return False
                self._clock.sleep(max(SHORTEST_SLEEP, min(LONGEST_SLEEP, wait)))
                now = self._clock.monotonic()
        finally:
            with self._guard:
                self._ledger.withdraw(claim)


class Purse:
    """One transfer's part of the link."""

    def __init__(self, budget: LinkBudget, payer: Payer) -> None:
        self._budget = budget
        self._payer = payer
        self._paid = True

    def room(self) -> int:
        """Return how many bytes to read at once, never more than 256 KiB."""
        return self._budget.room(self._payer.names) if self._paid else SMALLEST

    def pay(self, size: int) -> None:
        """Return when bytes that came may be passed on, at the latest after ten seconds."""
        self._paid = self._budget.pay(self._payer, size)
