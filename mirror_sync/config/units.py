"""Durations, sizes, rates and hours of the day: strings with units, parsed here and nowhere else."""

from __future__ import annotations

import re

from mirror_sync.domain.budget import Hours

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZE_UNITS = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
}
RATE_UNITS = {
    **{f"{name}/s": float(size) for name, size in SIZE_UNITS.items()},
    "kbit/s": 1e3 / 8,
    "Mbit/s": 1e6 / 8,
    "Gbit/s": 1e9 / 8,
}
MIN_RATE = 1000.0
MAX_DURATION_SECONDS = 100 * 365 * 86400.0
MAX_SIZE_BYTES = 2**63 - 1


class Unfit(ValueError):
    """A configured value is not understood; the text says what to write instead."""


_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)\Z", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+(?:/s)?)\Z", re.ASCII)
_HOURS = re.compile(r"(\d\d):(\d\d) ?- ?(\d\d):(\d\d) +(\S.*)\Z", re.ASCII)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?\Z", re.ASCII)


def parse_duration(text: object, *, unit: str = "s") -> float:
    """Return the seconds in ``"15m"``, ``"1h30m"`` or ``"90d"``.

    Raises :class:`Unfit` whose text says what to write; ``unit`` is the unit to suggest
    for a bare number.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise Unfit(f'a duration needs a unit; write "{text:g}{unit}"')
    if not isinstance(text, str):
        raise Unfit(f'a duration is text with a unit; write for example "15{unit}"')
    text = text.strip()
    if _NUMBER.match(text):
        raise Unfit(f'a duration needs a unit; write "{text.lstrip("-")}{unit}"')
    if not _DURATION.match(text):
        raise Unfit('a duration is a number with ms, s, m, h, d or w behind it, such as "15m" or "1h30m"')
    seconds = sum(float(number) * DURATION_UNITS[name] for number, name in _DURATION_PART.findall(text))
    if seconds > MAX_DURATION_SECONDS:
        raise Unfit("a duration is at most a hundred years")
    return seconds


def parse_size(text: object, *, unit: str = "MiB") -> int:
    """Return the bytes in ``"25MiB"`` or ``"1.5TB"``; raises :class:`Unfit` as :func:`parse_duration` does."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise Unfit(f'a size needs a unit; write "{text:g}{unit}"')
    if not isinstance(text, str):
        raise Unfit(f'a size is text with a unit; write for example "25{unit}"')
    text = text.strip()
    if _NUMBER.match(text):
        raise Unfit(f'a size needs a unit; write "{text.lstrip("-")}{unit}"')
    found = _SIZE.match(text)
    if not found:
        raise Unfit('a size is a number with a unit behind it, such as "25MiB" or "100GiB"')
    number, name = found.groups()
    if name not in SIZE_UNITS:
        raise Unfit(f'{name!r} is no unit of size; write "{number}{_nearest_size_unit(name)}"')
    size = int(float(number) * SIZE_UNITS[name]) if "." in number else int(number) * SIZE_UNITS[name]
    if size > MAX_SIZE_BYTES:
        raise Unfit("a size is at most 8 EiB")
    return size


def parse_rate(text: object) -> float | None:
    """Return the bytes per second in ``"20MB/s"`` or ``"100Mbit/s"``, ``None`` for ``"none"``.

    Raises :class:`Unfit` as :func:`parse_duration` does.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise Unfit(f'a rate needs a unit; write "{text:g}MB/s"')
    if not isinstance(text, str):
        raise Unfit('a rate is text with a unit; write for example "20MB/s", or "none"')
    text = text.strip()
    if text == "none":
        return None
    if _NUMBER.match(text):
        raise Unfit(f'a rate needs a unit; write "{text.lstrip("-")}MB/s"')
    found = _RATE.match(text)
    if not found:
        raise Unfit('a rate is a number with a unit behind it, such as "20MB/s" or "100Mbit/s", or "none"')
    number, name = found.groups()
    if name not in RATE_UNITS:
        raise Unfit(f'{name!r} is no unit of a rate; write "{number}{_nearest_rate_unit(name)}"')
    rate = float(number) * RATE_UNITS[name]
    if not MIN_RATE <= rate <= MAX_SIZE_BYTES:
        raise Unfit('a rate is at least "1kB/s"; "none" means no cap')
    return rate


def _nearest_rate_unit(name: str) -> str:
    bits = re.fullmatch(r"([kmg]?)(?:bps|bits?(?:/s|ps)?)", name.lower()) or re.fullmatch(r"([kMG])b/s", name)
    if bits:
        return {"k": "kbit/s", "g": "Gbit/s"}.get(bits[1].lower(), "Mbit/s")
    return f"{_nearest_size_unit(name.removesuffix('/s'))}/s"


def parse_hours(text: object) -> Hours:
    """Return the hours and their rate in ``"08:00-18:00 5MB/s"``; raises :class:`Unfit`."""
    found = _HOURS.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise Unfit('hours are two times of day and a rate, such as "08:00-18:00 5MB/s" or "22:00-06:00 none"')
    begin_hour, begin_minute, end_hour, end_minute = (int(part) for part in found.groups()[:4])
    begin, end = 60 * begin_hour + begin_minute, 60 * end_hour + end_minute
    if max(begin_minute, end_minute) > 59 or begin >= 24 * 60 or end > 24 * 60:
        raise Unfit(f"{text!r} names a time that no day has; a day goes from 00:00 to 24:00")
    return Hours(begin, end % (24 * 60), parse_rate(found[5]))


def _nearest_size_unit(name: str) -> str:
    by_letter = {"b": "B", "k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", "p": "PiB"}
    same = {unit.lower(): unit for unit in SIZE_UNITS}
    return same.get(name.lower()) or by_letter.get(name[0].lower(), "MiB")


def duration_text(seconds: float) -> str:
    """Return the shortest text that :func:`parse_duration` reads as ``seconds`` (to the millisecond)."""
    if seconds == 0:
        return "0s"
    left = round(seconds * 1000)
    out = []
    for name in ("d", "h", "m", "s", "ms"):
        step = round(DURATION_UNITS[name] * 1000)
        count, left = divmod(left, step)
        if count:
            out.append(f"{count}{name}")
    return "".join(out)


def size_text(size: int) -> str:
    """Return the shortest exact text that :func:`parse_size` reads as ``size``."""
    for name in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        if size and size % SIZE_UNITS[name] == 0:
            return f"{size // SIZE_UNITS[name]}{name}"
    return f"{size}B"
