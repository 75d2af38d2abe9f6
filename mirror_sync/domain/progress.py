"""How far a fetch or a transfer is, for people and for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

STEADY_SECONDS = 20.0
"""A rate is measured over about this long, so that one slow second does not frighten anybody."""

SILENT_SECONDS = 20.0
"""Progress is told about once a second; one not told of for longer than this tells nothing of the present."""


class Kind(StrEnum):
    """What is on its way."""

    GIT = "git"
    LFS = "lfs"


class Way(StrEnum):
    """How bytes are being fetched now; shown to people as it is."""

    PLAIN = "plain"
    """Everything that is new in one pack."""
    GRAPH = "graph"
    """Commits alone, to know what to ask for."""
    LADDER = "ladder"
    """Closed ranges of commits, oldest first."""
    OBJECTS = "objects"
    """Single objects by their ids."""
    BLOB = "blob"
    """One blob that fits through no connection, in parts from a place that takes ranges."""
    TIPS = "tips"
    """Ref by ref, from a server that gives nothing but its refs."""
    STOCK = "stock"
    """Ref by ref through stock git, from a server that speaks protocol v0 only."""
    PARTS = "parts"
    """LFS objects in parts."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One job under way.

    ``done`` and ``total`` count bytes for LFS objects and commits for Git; ``total`` is
    ``None`` while it is not known.  ``received`` is what came over the link so far,
    ``rate`` bytes a second lately.  ``received`` and ``cuts`` begin at nothing with the
    job, at ``began_at``.
    """

    kind: Kind
    way: Way
    done: int
    total: int | None
    received: int
    rate: float
    connections: int
    cuts: int
    """Connections that broke and were survived."""
    items: int = 0
    items_total: int | None = None
    """LFS objects arrived, and of how many."""
    sources: tuple[str, ...] = ()
    """Hosts that bytes come from now, the busiest first."""
    began_at: float = 0.0
    at: float = 0.0
    """Unix seconds of this reading."""
    done_before: int = 0
    """What of ``done`` was here when the job began, by an earlier one: no measure of the pace."""

    def is_stale(self, now: float) -> bool:
        """Tell whether nobody has told of it for a while: nothing arrives, or its worker is gone."""
        return now - self.at > SILENT_SECONDS

    @property
    def remaining_seconds(self) -> float | None:
        """Return about how long it will take at the present pace, ``None`` when nobody can know."""
        if self.total is None or self.done >= self.total:
            return None
        left = self.total - self.done
        if self.kind is Kind.LFS:
            return left / self.rate if self.rate > 0 else None
        took, gained = self.at - self.began_at, self.done - self.done_before
        return left * took / gained if gained > 0 and took > 0 else None


class Meter:
    """Counts bytes and tells the rate of late; not safe for threads by itself."""

    def __init__(self, now: float) -> None:
        self.received = 0
        self._marks: list[tuple[float, int]] = [(now, 0)]

    def add(self, size: int, now: float) -> None:
        """Count ``size`` bytes that came just before the monotonic time ``now``."""
        self.received += size
        if now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, self.received))
            while len(self._marks) > 2 and now - self._marks[1][0] >= STEADY_SECONDS:
                del self._marks[0]

    def rate(self, now: float) -> float:
        """Return bytes per second over the last twenty seconds or so."""
        since, had = self._marks[0]
        return (self.received - had) / (now - since) if now > since else 0.0
