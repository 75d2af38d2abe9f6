from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.config.units import (
    MAX_DURATION_SECONDS,
    MAX_SIZE_BYTES,
    Unfit,
    duration_text,
    parse_duration,
    parse_hours,
    parse_rate,
    parse_size,
    size_text,
)
from mirror_sync.domain.budget import Hours


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15m", 900),
        ("2h", 7200),
        ("90d", 7776000),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("0s", 0),
        ("1.5h", 5400),
        ("2w", 1209600),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (15, 'write "15m"'),
        (1.5, 'write "1.5m"'),
        ("15", 'write "15m"'),
        (True, "text with a unit"),
        (None, "text with a unit"),
        ("15 minutes", "such as"),
        ("m", "such as"),
        ("", "such as"),
        ("-5m", "such as"),
        ("5m3", "such as"),
        ("٣m", "such as"),
        ("99999w", "hundred years"),
    ],
)
def test_what_is_no_duration_says_what_to_write(value: object, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        parse_duration(value, unit="m")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("25MiB", 25 * 2**20),
        ("100GiB", 100 * 2**30),
        ("1.5TB", 1500000000000),
        ("7B", 7),
        ("1 GiB", 2**30),
        ("2kB", 2000),
    ],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (25, 'write "25MiB"'),
        ("25", 'write "25MiB"'),
        ("25M", 'write "25MiB"'),
        ("25gib", 'write "25GiB"'),
        ("25mb", 'write "25MB"'),
        ("25X", "no unit of size"),
        (True, "text with a unit"),
        ("much", "such as"),
        ("-1B", "such as"),
        ("9999999PiB", "at most"),
    ],
)
def test_what_is_no_size_says_what_to_write(value: object, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        parse_size(value)


@given(st.integers(0, int(MAX_DURATION_SECONDS * 1000)))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-6)


@given(st.integers(0, MAX_SIZE_BYTES))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(size_text(size)) == size


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(Unfit):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20MB/s", 20e6),
        ("1.5 MiB/s", 1.5 * 2**20),
        ("100Mbit/s", 12.5e6),
        ("8kbit/s", 1000.0),
        ("1Gbit/s", 125e6),
        ("none", None),
    ],
)
def test_rates_have_units(text: str, rate: float | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (20, 'write "20MB/s"'),
        ("20", 'write "20MB/s"'),
        ("20MB", 'write "20MB/s"'),
        ("20mb/s", 'write "20MB/s"'),
        ("20 Mbps", 'write "20Mbit/s"'),
        ("20Mb/s", 'write "20Mbit/s"'),
        ("20kbps", 'write "20kbit/s"'),
        ("20Gbits/s", 'write "20Gbit/s"'),
        ("fast", "such as"),
        ("-1MB/s", "such as"),
        (None, "for example"),
        (True, "for example"),
        ("1B/s", "at least"),
        ("0MB/s", "at least"),
        ("99999PB/s", "at least"),
    ],
)
def test_what_is_no_rate_says_what_to_write(value: object, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        parse_rate(value)


def test_hours_have_two_ends_and_a_rate() -> None:
    assert parse_hours("08:00-18:30 5MB/s") == Hours(480, 1110, 5e6)
    assert parse_hours(" 22:00 - 06:00  none ") == Hours(1320, 360, None)
    assert parse_hours("18:00-24:00 1MB/s") == Hours(1080, 0, 1e6)
    assert parse_hours("00:00-24:00 1MB/s").hold(777)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("8:00-18:00 5MB/s", "such as"),
        ("08:00-18:00", "such as"),
        ("5MB/s", "such as"),
        (8, "such as"),
        ("08:00-25:00 5MB/s", "no day has"),
        ("24:00-08:00 5MB/s", "no day has"),
        ("08:60-09:00 5MB/s", "no day has"),
        ("24:01-08:00 5MB/s", "no day has"),
        ("08:00-18:00 5", 'write "5MB/s"'),
        ("08:00-18:00 5Mbps", 'write "5Mbit/s"'),
    ],
)
def test_what_are_no_hours_says_what_to_write(value: object, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        parse_hours(value)
