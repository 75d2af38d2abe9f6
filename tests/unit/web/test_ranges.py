from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.web.ranges import Part, choose

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("", Part(200, 0, 100)),
        ("bytes=0-", Part(206, 0, 100)),
        ("bytes=0-0", Part(206, 0, 1)),
        ("bytes=10-19", Part(206, 10, 20)),
        ("bytes=90-200", Part(206, 90, 100)),
        ("bytes=99-", Part(206, 99, 100)),
        ("bytes=-1", Part(206, 99, 100)),
        ("bytes=-100", Part(206, 0, 100)),
        ("bytes=-500", Part(206, 0, 100)),
        ("Bytes=5-5", Part(206, 5, 6)),
        ("bytes = 5 - 6", Part(206, 5, 7)),
        ("bytes=100-", Part(416)),
        ("bytes=100-200", Part(416)),
        ("bytes=-0", Part(416)),
        ("bytes=20-10", Part(200, 0, 100)),
        ("bytes=0-1,5-6", Part(200, 0, 100)),
        ("bytes=a-b", Part(200, 0, 100)),
        ("items=0-1", Part(200, 0, 100)),
        ("bytes=--1", Part(200, 0, 100)),
        ("bytes=0-99999999999999999999999", Part(200, 0, 100)),
        ("bytes=3000000000-", Part(416)),
    ],
)
def test_ranges(header: str, part: Part) -> None:
    assert choose(100, etag=TAG, range_header=header) == part


def test_offsets_beyond_four_gigabytes_are_exact() -> None:
    assert choose(50 * 10**9, etag=TAG, range_header="bytes=5000000000-5000000009") == Part(
        206, 5 * 10**9, 5 * 10**9 + 10
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"range_header": "bytes=5-", "if_range": TAG}, 206),
        ({"range_header": "bytes=5-", "if_range": '"other"'}, 200),
        ({"range_header": "bytes=5-", "if_range": f"W/{TAG}"}, 200),
        ({"range_header": "bytes=5-", "if_range": "Wed, 21 Oct 2026 07:28:00 GMT"}, 200),
        ({"if_none_match": TAG}, 304),
        ({"if_none_match": f"W/{TAG}"}, 304),
        ({"if_none_match": f'"x", {TAG}'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"x"'}, 200),
        ({"if_match": TAG}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"x"'}, 412),
        ({"if_match": f"W/{TAG}"}, 412),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    assert choose(100, etag=TAG, **headers).status == status


def test_an_empty_file_has_no_range() -> None:
    assert choose(0, etag=TAG, range_header="bytes=0-") == Part(416)
    assert choose(0, etag=TAG, range_header="bytes=-5") == Part(416)
    assert choose(0, etag=TAG) == Part(200, 0, 0)


@given(st.integers(0, 50), st.text(alphabet="bytes=0123456789-, ", max_size=20))
def test_a_part_always_lies_inside(size: int, header: str) -> None:
    part = choose(size, etag=TAG, range_header=header)
    assert 0 <= part.start <= part.end <= size
    if part.status == 206:
        assert part.start < part.end
