"""What somebody who clones is told of a mirror that is behind, in one line."""

from __future__ import annotations

import math

from mirror_sync.domain.names import printable
from mirror_sync.domain.runs import Availability, Mirror, Outcome, lag_seconds

MAX_CAUSE = 200
"""Characters of a cause that are told; pages have the rest."""


def stale_notice(mirror: Mirror, now: float) -> str:
    """Return how old what is served may be, and why; nothing while the mirror keeps to its objective."""
    lag = lag_seconds(mirror, now)
    if mirror.published_at is None or lag <= mirror.objective_seconds:
        return ""
    return f"{mirror.name} may lack what its upstream got in the last {_length(lag)}: {_cause(mirror)}"


def _cause(mirror: Mirror) -> str:
    last = mirror.last_run
    if mirror.paused_at is not None:
        return "syncing is paused by the operator"
    if mirror.availability is Availability.GONE:
        return "its upstream is gone"
    if mirror.availability is Availability.DENIED:
        return "its upstream refuses access"
    if last is not None and last.outcome is Outcome.FAILED:
        return f"{printable(last.message)[:MAX_CAUSE]} ({last.code})"
    if mirror.holds:
        refs = "1 ref is" if mirror.held_refs == 1 else f"{mirror.held_refs} refs are"
        return f"{refs} held back ({mirror.holds[0].code})"
    return "no sync has ended well since"


def _length(seconds: float) -> str:
    """Return a length of time in words, rounded up: a lag is never understated."""
    minutes = math.ceil(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = math.ceil(minutes / 60)
    return f"{hours // 24} days {hours % 24} h" if hours % 24 else f"{hours // 24} days"
