"""Parts of one LFS object: half-open byte ranges, kept ascending, apart and not touching."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

Part = tuple[int, int]
"""``(start, end)``: bytes from ``start`` (included) to ``end`` (excluded)."""


def merge(parts: Iterable[Part]) -> list[Part]:
    """Return the same bytes as ascending parts that neither touch nor overlap; empty parts vanish."""
    merged: list[Part] = []
    for start, end in sorted(part for part in parts if part[0] < part[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def add(parts: Sequence[Part], part: Part) -> list[Part]:
    """Return merged ``parts`` with one more part; a part that follows the last one costs no search."""
    start, end = part
    if start >= end:
        return list(parts)
    first = bisect_left(parts, start, key=lambda known: known[1])
    last = bisect_right(parts, end, key=lambda known: known[0])
    if first < last:
        start = min(start, parts[first][0])
        end = max(end, parts[last - 1][1])
    return [*parts[:first], (start, end), *parts[last:]]


def remove(parts: Sequence[Part], part: Part) -> list[Part]:
    """Return merged ``parts`` without the bytes of ``part``."""
    start, end = part
    first = bisect_right(parts, start, key=lambda known: known[1])
    last = bisect_left(parts, end, key=lambda known: known[0])
    if start >= end or first >= last:
        return list(parts)
    left = (parts[first][0], start)
    right = (end, parts[last - 1][1])
    return [*parts[:first], *(part for part in (left, right) if part[0] < part[1]), *parts[last:]]


def subtract(whole: Part, parts: Sequence[Part]) -> list[Part]:
    """Return what of ``whole`` the merged ``parts`` leave, ascending."""
    at, end = whole
    left: list[Part] = []
    for known_start, known_end in parts:
        if known_end <= at:
            continue
        if known_start >= end:
            break
        if at < known_start:
            left.append((at, known_start))
        at = known_end
    if at < end:
        left.append((at, end))
    return left


def clip(parts: Iterable[Part], size: int) -> list[Part]:
    """Return merged ``parts`` without what lies outside ``0`` to ``size``."""
    return merge((max(0, start), min(end, size)) for start, end in parts)


def reach(parts: Sequence[Part], at: int) -> int:
    """Return how far the merged ``parts`` go on without a gap from ``at``; ``at`` itself when it is in none."""
    index = bisect_right(parts, at, key=lambda known: known[0]) - 1
    return max(at, parts[index][1]) if index >= 0 else at


def count(parts: Iterable[Part]) -> int:
    """Return how many bytes merged ``parts`` hold."""
    return sum(end - start for start, end in parts)


def plan(missing: Iterable[Part], *, piece: int) -> Iterator[Part]:
    """Yield the parts to ask for, in order: each gap of ``missing`` in pieces of at most ``piece`` bytes."""
    for start, end in missing:
        for at in range(start, end, piece):
            yield at, min(at + piece, end)
