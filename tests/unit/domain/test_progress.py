"""How long something will take, and when a reading says nothing any more."""

from __future__ import annotations

from typing import Any

import pytest

from mirror_sync.domain.progress import SILENT_SECONDS, Kind, Meter, Progress, Way


def progress(kind: Kind = Kind.GIT, **changes: Any) -> Progress:
    told: dict[str, Any] = {
        "way": Way.LADDER, "done": 250, "total": 1000, "received": 5, "rate": 10.0, "connections": 1, "cuts": 0,
        "began_at": 1000.0, "at": 1060.0,
    }  # fmt: skip
    return Progress(kind, **told | changes)


@pytest.mark.parametrize(
    ("kind", "changes", "seconds"),
    [
        (Kind.GIT, {}, 180.0),
        (Kind.GIT, {"done_before": 200}, 900.0),
        (Kind.GIT, {"done_before": 250}, None),
        (Kind.GIT, {"done": 0}, None),
        (Kind.GIT, {"total": None}, None),
        (Kind.GIT, {"done": 1000}, None),
        (Kind.GIT, {"at": 1000.0}, None),
        (Kind.LFS, {}, 75.0),
        (Kind.LFS, {"rate": 0.0}, None),
        (Kind.LFS, {"done": 2000}, None),
    ],
)
def test_what_remains_follows_the_pace_of_this_job(kind: Kind, changes: dict[str, Any], seconds: float | None) -> None:
    assert progress(kind, **changes).remaining_seconds == seconds


def test_a_reading_is_stale_when_nobody_told_of_it_for_a_while() -> None:
    assert not progress().is_stale(1060.0)
    assert not progress().is_stale(1060.0 + SILENT_SECONDS)
    assert progress().is_stale(1060.5 + SILENT_SECONDS)
    assert not progress().is_stale(900.0), "a clock that was set back makes nothing stale"


def test_a_rate_is_that_of_the_last_twenty_seconds_or_so() -> None:
    meter = Meter(0.0)
    assert meter.rate(0.0) == 0.0
    for second in range(1, 101):
        meter.add(1000, float(second))
    assert meter.rate(100.0) == pytest.approx(1000.0)
    assert meter.received == 100_000
    for second in range(101, 141):
        meter.add(10, float(second))
    assert meter.rate(140.0) == pytest.approx(10.0)
    assert 0.0 < meter.rate(1_000.0) < 1.0
