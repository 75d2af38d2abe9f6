from __future__ import annotations

import pytest

from mirror_sync.domain.names import GitOid, UpstreamUrl
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import UpstreamInvalid, UpstreamUnavailable, UsageError
from mirror_sync.ports import FetchRequest
from mirror_sync.upstream.fetch import MAX_HAVES, demultiplex, fetch_request
from mirror_sync.upstream.memory import Capabilities
from mirror_sync.upstream.pktline import pkt

KNOWN = Capabilities(UpstreamUrl("https", "h", 443, "/a"), moved=False, protocol=2, names_format=True)
BEGIN = pkt(b"packfile\n")
DATA = pkt(b"\x01PACK\0\0\0\2more")


def oid(number: int) -> GitOid:
    return GitOid(f"{number:040x}")


def test_a_request_is_one_question_with_done():
    request = FetchRequest(ObjectFormat.SHA1, wants=[oid(1), oid(2), oid(1)], haves=[oid(3)])
    assert fetch_request(request, KNOWN) == b"".join(
        [
            pkt(b"command=fetch\n"), pkt(b"object-format=sha1\n"), b"0001", pkt(b"thin-pack\n"), pkt(b"no-progress\n"),
            pkt(b"ofs-delta\n"), *(pkt(f"want {oid(n)}\n".encode()) for n in (1, 2)),
            pkt(f"have {oid(3)}\n".encode()), pkt(b"done\n"), b"0000",
        ]
    )  # fmt: skip


def test_haves_are_capped_and_ids_are_ids():
    request = FetchRequest(ObjectFormat.SHA1, wants=[oid(1)], haves=[oid(n) for n in range(2, 30_000)])
    assert fetch_request(request, KNOWN).count(b"have ") == MAX_HAVES
    with pytest.raises(UsageError):
        fetch_request(FetchRequest(ObjectFormat.SHA1, wants=[GitOid("refs/heads/main")], haves=[]), KNOWN)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_pack_is_demultiplexed_however_it_is_cut(size):
    stream = BEGIN + pkt(b"\x02progress\x1b[31m") + pkt(b"\x01PA") + pkt(b"\x01CK") + pkt(b"\x01rest" * 9) + b"0000"
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert b"".join(demultiplex(iter(pieces))) == b"PACK" + (b"\x01rest" * 9)[1:]


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (b"", UpstreamUnavailable),
        (b"0000", UpstreamInvalid),
        (BEGIN, UpstreamUnavailable),
        (BEGIN + b"0000", UpstreamInvalid),
        (BEGIN + DATA, UpstreamUnavailable),
        (BEGIN + DATA[:-3], UpstreamInvalid),
        (BEGIN + DATA + b"0001", UpstreamInvalid),
        (BEGIN + DATA + b"0000" + DATA, UpstreamInvalid),
        (BEGIN + pkt(b"\x01<html>") + b"0000", UpstreamInvalid),
        (BEGIN + pkt(b"\x01PA") + b"0000", UpstreamInvalid),
        (BEGIN + DATA + pkt(b"\x03out of memory\x1b") + b"0000", UpstreamUnavailable),
        (BEGIN + DATA + pkt(b"\x04x") + b"0000", UpstreamInvalid),
        (BEGIN + DATA + pkt(b"") + b"0000", UpstreamInvalid),
        (pkt(b"ERR upload-pack: not our ref " + b"a" * 40), UpstreamUnavailable),
        (pkt(b"shallow-info\n") + pkt(b"shallow " + b"a" * 40) + b"0001" + BEGIN, UpstreamInvalid),
        (pkt(b"acknowledgments\n"), UpstreamInvalid),
        (b"<html>login</html>", UpstreamInvalid),
    ],
)
def test_a_stream_that_is_no_whole_pack_raises(stream, kind):
    with pytest.raises(kind) as caught:
        b"".join(demultiplex(iter([stream])))
    assert type(caught.value) is kind
    assert "\x1b" not in str(caught.value)


def test_an_object_that_went_away_has_its_own_code():
    with pytest.raises(UpstreamUnavailable) as caught:
        list(demultiplex(iter([pkt(b"ERR upload-pack: not our ref " + b"a" * 40)])))
    assert caught.value.code == "MS-U409"
