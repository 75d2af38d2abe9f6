from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain import parts

PARTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def as_set(ranges):
    return {byte for start, end in ranges for byte in range(start, end)}


def canonical(ranges):
    return all(start < end for start, end in ranges) and all(
        left[1] < right[0] for left, right in itertools.pairwise(ranges)
    )


@given(PARTS)
def test_merge_keeps_the_bytes_and_leaves_no_neighbours(ranges):
    merged = parts.merge(ranges)
    assert as_set(merged) == as_set(ranges)
    assert canonical(merged)
    assert parts.count(merged) == len(as_set(ranges))


@given(PARTS, st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_add_is_merge_with_one_more(ranges, part):
    merged = parts.merge(ranges)
    assert parts.add(merged, part) == parts.merge([*merged, part])


@given(PARTS, st.integers(0, 60), st.integers(0, 60))
def test_subtract_leaves_exactly_the_rest(ranges, start, end):
    left = parts.subtract((start, end), parts.merge(ranges))
    assert as_set(left) == set(range(start, end)) - as_set(ranges)
    assert canonical(left)


@given(PARTS, st.integers(0, 60))
def test_clip_cuts_at_the_size(ranges, size):
    assert as_set(parts.clip(ranges, size)) == {byte for byte in as_set(ranges) if byte < size}


@given(PARTS, st.integers(0, 60))
def test_reach_is_the_first_byte_that_is_not_there(ranges, at):
    there = as_set(ranges)
    expected = next(byte for byte in range(at, 200) if byte not in there)
    assert parts.reach(parts.merge(ranges), at) == expected


@given(PARTS, st.integers(1, 20))
def test_plan_covers_each_gap_once_in_order(ranges, piece):
    gaps = parts.merge(ranges)
    asked = list(parts.plan(gaps, piece=piece))
    assert all(0 < end - start <= piece for start, end in asked)
    assert asked == sorted(asked)
    assert sum(end - start for start, end in asked) == parts.count(gaps)
    assert as_set(asked) == as_set(gaps)


def test_neighbouring_writes_stay_one_part():
    known: list[parts.Part] = []
    for at in range(0, 1000, 10):
        known = parts.add(known, (at, at + 10))
    assert known == [(0, 1000)]
