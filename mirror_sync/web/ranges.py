"""Which part of a file a client asks for (RFC 9110, sections 13 and 14).

One range is honoured; several are answered with the whole, as the RFC allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(
    r"bytes\s*=\s*(?:(?P<start>[0-9]{1,19})\s*-\s*(?P<end>[0-9]{0,19})|-\s*(?P<suffix>[0-9]{1,19}))\s*\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Part:
    """What to send: status 200, 206, 304 or 416, and the half-open byte range."""

    status: int
    start: int = 0
    end: int = 0


def choose(
    size: int, *, etag: str, range_header: str = "", if_range: str = "", if_none_match: str = "", if_match: str = ""
) -> Part:
    """Return what to send of an immutable file of ``size`` bytes whose strong validator is ``etag`` (with quotes)."""
    if if_match and not _lists(if_match, etag, weak=False):
        return Part(412)
    if if_none_match and _lists(if_none_match, etag, weak=True):
        return Part(304)
    whole = Part(200, 0, size)
    if not range_header or (if_range and if_range.strip() != etag):
        return whole
    match = _RANGE.match(range_header.strip())
    if match is None:
        return whole
    if match["suffix"] is not None:
        length = int(match["suffix"])
        return Part(206, max(0, size - length), size) if length and size else Part(416)
    start = int(match["start"])
    end = int(match["end"]) + 1 if match["end"] else size
    if end <= start:
        return whole if match["end"] and int(match["end"]) < start else Part(416)
    if start >= size:
        return Part(416)
    return Part(206, start, min(end, size))


def _lists(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    tags = [tag.strip() for tag in header.split(",")]
    return any(tag == etag or (weak and tag.removeprefix("W/") == etag) for tag in tags)
