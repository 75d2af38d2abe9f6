from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.errors import UpstreamInvalid
from mirror_sync.upstream.pktline import Mark, Splitter, packets, pkt

payloads = st.lists(st.one_of(st.binary(max_size=300), st.sampled_from(list(Mark))), max_size=20)


def written(items):
    return b"".join(item.value if isinstance(item, Mark) else pkt(item) for item in items)


def whole(data):
    splitter = Splitter()
    splitter.split(data)
    splitter.finish()


@given(payloads)
def test_what_is_written_is_read(items):
    assert list(packets(written(items))) == items


@given(payloads, st.lists(st.integers(1, 50)))
def test_a_stream_may_be_cut_anywhere(items, sizes):
    data = written(items)
    pieces, at = [], 0
    for size in [*sizes, len(data)]:
        pieces.append(data[at : at + size])
        at += size
    splitter = Splitter()
    assert [packet for piece in pieces for packet in splitter.split(piece)] == items
    splitter.finish()


@pytest.mark.parametrize(
    "data",
    [
        b"0",
        b"000",
        b"0005",
        b"0006a",
        b"0003",
        b"fff1" + b"x" * 65533,
        b" 1f x",
        b"+01f",
        b"0x1f",
        b"<htm",
        b"00_5a",
        b"-001",
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(UpstreamInvalid):
        list(packets(data))
    with pytest.raises(UpstreamInvalid):
        whole(data)


def test_the_longest_packet_is_65520_bytes():
    assert len(pkt(b"x" * 65516)) == 65520
    with pytest.raises(ValueError, match="65,516"):
        pkt(b"x" * 65517)
