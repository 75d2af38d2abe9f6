"""What a request asks for, and where a pack begins in an answer, whatever the pieces it comes in."""

from __future__ import annotations

import io
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.repos.conversation import Asked, Opening, notice_packet, packet, what_is_asked

OID = b"1" * 40
WANT = packet(b"want " + OID + b"\n")
HAVE = packet(b"have " + OID + b"\n")
DONE = packet(b"done\n")
FETCH = packet(b"command=fetch\n") + b"0001"
V0 = packet(b"want " + OID + b" side-band-64k ofs-delta\n") + b"0000"


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (packet(b"command=ls-refs\n") + b"0001" + packet(b"peel\n") + b"0000", Asked.NO_PACK),
        (packet(b"command=object-info\n") + b"0001" + packet(b"size\n") + b"0000", Asked.NO_PACK),
        (b"0000", Asked.NO_PACK),
        (b"", Asked.NO_PACK),
        (FETCH + DONE + b"0000", Asked.NO_PACK),
        (FETCH + WANT + DONE + b"0000", Asked.PACK),
        (FETCH + WANT + HAVE + DONE + b"0000", Asked.PACK),
        (FETCH + WANT + packet(b"done") + b"0000", Asked.PACK),
        (FETCH + packet(b"want-ref refs/heads/main\n") + HAVE + b"0000", Asked.PERHAPS),
        (FETCH + WANT + HAVE + b"0000", Asked.PERHAPS),
        (FETCH + DONE + WANT + b"0000", Asked.PERHAPS),
        (V0 + DONE, Asked.PACK),
        (V0 + HAVE + b"0000", Asked.PERHAPS),
        (FETCH + HAVE * 2000 + WANT + DONE + b"0000", Asked.PACK),
        (b"junk", Asked.NO_PACK),
    ],
)
def test_what_requests_ask_for(body: bytes, asked: Asked) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + body)
        file.flush()
        file.seek(6)
        assert what_is_asked(file.fileno()) is asked
        assert file.read() == body


NOTICE = notice_packet("old")
ACKS = packet(b"acknowledgments\n") + packet(b"ACK " + OID + b"\n") + packet(b"ready\n") + b"0001"
BAND = packet(b"\x02Counting\n") + packet(b"\x01PACK....") + packet(b"\x01more") + b"0000"

ANSWERS = [
    # an answer, and where the notice stands in it; nowhere when it has no pack in a band
    (ACKS + packet(b"packfile\n"), BAND),
    (packet(b"shallow-info\n") + packet(b"shallow " + OID + b"\n") + b"0001" + packet(b"packfile\n"), BAND),
    (packet(b"packfile\n"), packet(b"\x01") + b"0000"),
    (packet(b"NAK\n"), BAND),
    (packet(b"shallow " + OID + b"\n") + b"0000" + packet(b"NAK\n"), BAND),
    (packet(b"ACK " + OID + b" common\n") + packet(b"ACK " + OID + b"\n"), BAND),
    (packet(b"NAK\n") + b"PACK\0\0\0\x02rest", None),
    (packet(b"acknowledgments\n") + packet(b"NAK\n") + b"0000", None),
    (packet(b"ERR upload-pack: not our ref"), None),
    (b"", None),
    (b"00", None),
    (packet(b"NAK\n") + b"0032cut sh", None),
]


@given(st.sampled_from(ANSWERS), st.lists(st.integers(1, 40), max_size=40))
def test_a_notice_stands_where_the_pack_begins_and_nothing_else_changes(
    answer: tuple[bytes, bytes | None], sizes: list[int]
) -> None:
    head, band = answer
    stream = io.BytesIO(head + (band or b""))
    opening = Opening("old")
    told = b""
    for size in [*sizes, *[7] * 100]:
        piece = stream.read(size)
        told += opening.feed(piece) if piece else b""
    told += opening.end()
    assert told == (head + NOTICE + band if band is not None else head)
    assert opening.banded == (band is not None)


@given(st.sampled_from(ANSWERS), st.lists(st.integers(1, 40), max_size=40))
def test_where_the_pack_begins_an_answer_can_be_ended(answer: tuple[bytes, bytes | None], sizes: list[int]) -> None:
    head, band = answer
    stream = io.BytesIO(head + (band or b""))
    opening = Opening()
    told = b""
    for size in [*sizes, *[7] * 100]:
        piece = opening.feed(stream.read(size))
        if opening.began:
            told += piece[: opening.pack_at]
            break
        told += piece
    if band is not None:
        assert told == head


@given(st.lists(st.integers(1, 40), max_size=40))
def test_a_pack_is_on_its_way_once_bytes_of_it_come(sizes: list[int]) -> None:
    quiet = (
        packet(b"packfile\n")
        + packet(b"\x02Counting\n")
        + packet(b"\x01")
        + packet(b"\x02" + b"." * 60)
        + packet(b"\x01")
    )
    stream = io.BytesIO(quiet + packet(b"\x01PACK"))
    opening, read = Opening("old"), 0
    for size in [*sizes, *[7] * 100]:
        piece = stream.read(size)
        if piece:
            opening.feed(piece)
            read += len(piece)
        # the length and the band of a packet with bytes tell it
        assert opening.flows == (read >= len(quiet) + 5)
    assert opening.end() == b""


def test_a_notice_is_one_packet_of_any_side_band() -> None:
    assert len(notice_packet("\u4e2d" * 1000)) < 1000
    assert notice_packet("x\n") == packet(b"\x02x\n")
