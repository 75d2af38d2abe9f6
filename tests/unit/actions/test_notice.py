"""The line that those who clone a stale mirror see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror_sync.actions.notice import stale_notice
from mirror_sync.domain.names import MirrorName, RefName
from mirror_sync.domain.refs import Hold
from mirror_sync.domain.runs import Availability, LastRun, Mirror, NewMirror, Outcome, Trigger
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.state import MemoryState

OBJECTIVE = 3600.0
NAME = MirrorName("git.example/acme/model")


def lagging(seconds: float) -> tuple[Mirror, float]:
    clock = HandClock()
    state = MemoryState(clock)
    mirror, _ = state.enrol(NewMirror(NAME, f"https://{NAME}", 600.0, OBJECTIVE))
    now = clock.now()
    return replace(mirror, confirmed_at=now - seconds, published_at=now - seconds), now


@pytest.mark.parametrize("lag", [0.0, 60.0, OBJECTIVE])
def test_nothing_is_said_within_the_objective(lag: float) -> None:
    assert stale_notice(*lagging(lag)) == ""


def test_nothing_is_said_of_what_cannot_be_cloned() -> None:
    mirror, now = lagging(1e6)
    assert stale_notice(replace(mirror, published_at=None), now) == ""


@pytest.mark.parametrize(
    ("lag", "told"),
    [
        (3601.0, "61 min"),
        (7140.0, "119 min"),
        (7200.0, "2 h"),
        (8041.0, "2 h 15 min"),
        (47 * 3600.0 + 1, "47 h 1 min"),
        (47 * 3600.0 + 3590, "2 days"),
        (3 * 86400.0 + 3601, "3 days 2 h"),
    ],
)
def test_a_lag_is_never_understated(lag: float, told: str) -> None:
    assert stale_notice(*lagging(lag)) == (
        f"{NAME} may lack what its upstream got in the last {told}: no sync has ended well since"
    )


def test_it_says_why() -> None:
    mirror, now = lagging(2 * OBJECTIVE)
    failed = LastRun(Outcome.FAILED, "MS-U503", "it does\x1b[31m not answer" + "x" * 900, now, now, Trigger.POLL)
    for changed, why in [
        (replace(mirror, paused_at=now), "syncing is paused by the operator"),
        (replace(mirror, availability=Availability.GONE), "its upstream is gone"),
        (replace(mirror, availability=Availability.DENIED), "its upstream refuses access"),
        (replace(mirror, holds=(Hold(RefName("refs/heads/a"), "MS-H004", "x"),), held_refs=1), "1 ref is held back (MS-H004)"),
    ]:  # fmt: skip
        assert stale_notice(changed, now).endswith(f": {why}")
    told = stale_notice(replace(mirror, last_run=failed), now)
    assert told.endswith("(MS-U503)")
    assert "\x1b" not in told
    assert len(told.encode()) < 900
