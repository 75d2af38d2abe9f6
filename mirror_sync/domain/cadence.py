"""When a mirror should next be observed."""

from __future__ import annotations

BACKOFF_FIRST_SECONDS = 15.0
BACKOFF_MAX_SECONDS = 6 * 3600.0
ABSENT_SPACING_SECONDS = 8 * 3600.0
ABSENT_ANSWERS = 3
"""A repository counts as gone or denied after this many answers, spread over a day."""
ABSENT_INTERVAL_SECONDS = 24 * 3600.0


def next_poll(now: float, interval: float, *, jitter: float, chance: float) -> float:
    """Return the next due time: ``interval`` seconds on, moved by up to ``jitter`` (a share) either way.

    ``chance`` is a uniform number in [0, 1).
    """
    return now + interval * (1.0 + jitter * (2.0 * chance - 1.0))


def backoff(
    now: float, failures: int, interval: float, *, maximum: float = BACKOFF_MAX_SECONDS, chance: float
) -> float:
    """Return when to try again after ``failures`` (1 or more) failures in a row.

    Doubles from fifteen seconds with full jitter over the upper half, never past ``maximum``;
    a mirror polled rarely is not retried more rarely than it would be polled anyway,
    unless the doubling says so.
    """
    step = min(maximum, BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    step = min(step, max(interval, BACKOFF_FIRST_SECONDS)) if failures <= 3 else step
    return now + step * (0.5 + 0.5 * chance)


def after_absent(now: float, answers: int, *, chance: float) -> float:
    """Return when to ask again after upstream answered ``answers`` times in a row that it is not there (or not for us)."""
    spacing = ABSENT_SPACING_SECONDS if answers < ABSENT_ANSWERS else ABSENT_INTERVAL_SECONDS
    return now + spacing * (0.9 + 0.2 * chance)
