from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.parts import merge
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store import journal

POINTER = Pointer(LfsOid("ab" * 32), 1000)
PARTS = [(0, 10), (500, 1000)]
FROM = {"one.example": [(0, 10)], "two.example": [(500, 1000)]}
AGREED = [(2, 9)]
NOTHING = journal.Told()


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
def test_what_is_written_is_read(ranges):
    parts = merge(ranges)
    sent = {"one.example": parts[::2], "two.example": parts[1::2]}
    found = journal.decode(journal.encode(POINTER, parts, sent, parts[::3]), POINTER)
    assert found.parts == parts
    assert found.origins == {source: ranges for source, ranges in sent.items() if ranges}
    assert found.agreed == parts[::3]


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_means_no_parts_or_the_same(place, change):
    data = bytearray(journal.encode(POINTER, PARTS, FROM, AGREED))
    data[place % len(data)] ^= change
    assert journal.decode(bytes(data), POINTER) in (NOTHING, journal.Told(PARTS, FROM, AGREED))


@given(st.binary(max_size=300))
def test_anything_at_all_can_be_read(data):
    assert journal.decode(data, POINTER) == NOTHING


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"7", b'"sum"', b"{}", b'{"sum":1}', b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_journal_means_no_parts(data):
    assert journal.decode(data, POINTER) == NOTHING


def test_a_cut_journal_means_no_parts():
    data = journal.encode(POINTER, PARTS, FROM, AGREED)
    assert all(journal.decode(data[:length], POINTER) == NOTHING for length in range(len(data) - 1))


@pytest.mark.parametrize("other", [Pointer(POINTER.oid, 999), Pointer(LfsOid("cd" * 32), 1000)])
def test_another_objects_journal_means_no_parts(other):
    told = journal.decode(journal.encode(POINTER, PARTS, FROM, AGREED), other)
    assert told == journal.Told(other_size=other.oid == POINTER.oid)


def test_parts_that_no_object_has_mean_no_parts():
    for parts in ([["0", 5]], [[1]], [None], {"0": 5}):
        body = {"format": 1, "oid": POINTER.oid, "size": POINTER.size, "parts": parts}
        body["sum"] = journal._sum(body)
        assert journal.decode(json.dumps(body).encode(), POINTER) == NOTHING


def test_a_journal_of_the_format_before_still_tells_of_its_parts():
    body = {"format": 1, "oid": POINTER.oid, "size": POINTER.size, "parts": PARTS}
    body["sum"] = journal._sum(body)
    assert journal.decode(json.dumps(body).encode(), POINTER) == journal.Told(PARTS)


def test_no_file_means_no_parts(tmp_path):
    assert journal.load(tmp_path / "absent", POINTER) == NOTHING
