"""A place that LFS objects come from: its download actions, asked for just ahead of need, and how fast it is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from mirror_sync.errors import MirrorSyncError, RateLimited
from mirror_sync.ports import LfsAnswer, Upstream

EXPIRY_MARGIN = 60.0
SETTLED = frozenset({"MS-L501", "MS-L509"})
"""No LFS here, budget used up: trying again within the minute changes nothing."""

RATE_WEIGHT = 0.3
LIMITED_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class Granted:
    """A batch answer and when it was asked for (Unix seconds)."""

    answer: LfsAnswer
    asked_at: float
    used: bool = False
    """Whether bytes came through its action."""
    tried: bool = False
    short: bool = False
    """Whether it was as good as expired when it came: then it is tried once all the same."""

    def usable(self, now: float) -> bool:
        """Tell whether its action may be used at the Unix time ``now``."""
        return (self.short and not self.tried) or not self.stale(now)

    def stale(self, now: float) -> bool:
        """Tell whether the action expires within a minute, or within half of its life where that is shorter."""
        expires_at = self.answer.action.expires_at if self.answer.action else None
        if expires_at is None:
            return False
        return now >= expires_at - min(EXPIRY_MARGIN, max(0.0, expires_at - self.asked_at) / 2)

    @property
    def host(self) -> str:
        """The host that the action leads to."""
        return urlsplit(self.answer.action.href).netloc.rpartition("@")[2] if self.answer.action else ""


class Source:
    """The upstream (``number`` 0) or an accelerator; guarded by the board's lock."""

    def __init__(self, number: int, upstream: Upstream) -> None:
        self.number = number
        self.upstream = upstream
        self.host = upstream.host
        self.dead: MirrorSyncError | None = None
        """Why it is not used any more."""
        self.served_by = ""
        """The host that its actions lead to."""
        self.limited: RateLimited | None = None
        """How it asked us to wait, last."""
        self.waits_since: dict[bool, float] = {}
        """Since when it has done nothing but ask us to wait, in monotonic seconds: when asked for actions, for bytes."""
        self.ask_after = 0.0
        """Until when it wants no batch request, in Unix seconds."""
        self.retry_at = 0.0
        """When it may be asked for actions again, in monotonic seconds."""
        self.failures = 0
        self.asked = 0
        """How far the order was asked for."""
        self.asking = 0
        """Batch requests under way."""
        self.legs = 0
        """Requests for bytes under way."""
        self.tries = 0
        """Requests for bytes so far."""
        self.rate: float | None = None
        """Bytes per second of one connection."""
        self.delay = 0.0
        """Seconds from a request to its first byte."""

    @property
    def first(self) -> bool:
        """Whether it is the upstream itself."""
        return self.number == 0

    def measured(self, *, size: int, seconds: float) -> None:
        """Take note of how fast one connection was."""
        if seconds <= 0:
            return
        rate = size / seconds
        self.rate = rate if self.rate is None else (1 - RATE_WEIGHT) * self.rate + RATE_WEIGHT * rate

    def answered(self, seconds: float) -> None:
        """Take note of how long the first byte took."""
        self.delay = seconds if not self.delay else (1 - RATE_WEIGHT) * self.delay + RATE_WEIGHT * seconds
