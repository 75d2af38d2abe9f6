"""When a mirror is due again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain import cadence

chances = st.floats(0.0, 0.999999)


@given(chances, st.floats(1.0, 1e6), st.floats(0.0, 0.5))
def test_poll_stays_within_its_jitter(chance: float, interval: float, jitter: float) -> None:
    due = cadence.next_poll(1000.0, interval, jitter=jitter, chance=chance)
    assert 1000.0 + interval * (1 - jitter) - 1e-6 <= due <= 1000.0 + interval * (1 + jitter) + 1e-6


@given(chances, st.integers(1, 10_000), st.floats(1.0, 1e6))
def test_backoff_grows_and_is_bounded(chance: float, failures: int, interval: float) -> None:
    wait = cadence.backoff(0.0, failures, interval, chance=chance)
    assert 0 < wait <= cadence.BACKOFF_MAX_SECONDS
    if failures >= 20:
        assert wait >= cadence.BACKOFF_MAX_SECONDS / 2


def test_absent_repository_is_asked_three_times_in_a_day_then_daily() -> None:
    waits = [cadence.after_absent(0.0, answers, chance=0.5) for answers in (1, 2, 3, 50)]
    assert waits[0] == waits[1] == 8 * 3600
    assert waits[2] == waits[3] == 24 * 3600
