from __future__ import annotations

from dataclasses import replace

import pytest

from mirror_sync.domain.names import GitOid, UpstreamUrl
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import UpstreamDeclined, UpstreamInvalid, UpstreamLacks, UpstreamUnavailable, UsageError
from mirror_sync.ports import FetchRequest
from mirror_sync.upstream.fetch import MAX_HAVES, MAX_SHALLOW, demultiplex, fetch_request
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
        (BEGIN + DATA + pkt(b"\x03out of memory\x1b") + b"0000", UpstreamDeclined),
        (BEGIN + pkt(b"ERR gone"), UpstreamDeclined),
        (pkt(b"ERR filter 'tree' not supported\n"), UpstreamDeclined),
        (BEGIN + DATA + pkt(b"\x04x") + b"0000", UpstreamInvalid),
        (BEGIN + DATA + pkt(b"") + b"0000", UpstreamInvalid),
        (pkt(b"ERR upload-pack: not our ref " + b"a" * 40), UpstreamLacks),
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


@pytest.mark.parametrize(
    "said",
    [
        "upload-pack: not our ref " + "a" * 40,
        "git upload-pack: not our ref " + "a" * 40,
        "want " + "a" * 40 + " not valid",
        "Client wants invalid object b'" + "a" * 40 + "'",
        "Missing unknown " + "a" * 40,
        "TF401035: The object '" + "a" * 40 + "' does not exist.",
    ],
)
def test_an_object_that_cannot_be_had_has_its_own_code(said):
    for stream in (pkt(b"ERR " + said.encode()), BEGIN + DATA + pkt(b"\x03" + said.encode())):
        with pytest.raises(UpstreamLacks) as caught:
            list(demultiplex(iter([stream])))
        assert caught.value.code == "MS-U409"


ABLE = replace(KNOWN, filters=True, shallow=True)


def test_a_shallow_client_says_what_it_lacks_and_filters():
    request = FetchRequest(
        ObjectFormat.SHA1, wants=[oid(1)], haves=[oid(3)], shallow=[oid(2), oid(2)], filter="tree:0", thin=False
    )
    assert fetch_request(request, ABLE) == b"".join(
        [
            pkt(b"command=fetch\n"), pkt(b"object-format=sha1\n"), b"0001", pkt(b"no-progress\n"),
            pkt(b"ofs-delta\n"), pkt(b"filter tree:0\n"), pkt(f"want {oid(1)}\n".encode()),
            pkt(f"shallow {oid(2)}\n".encode()), pkt(f"have {oid(3)}\n".encode()), pkt(b"done\n"), b"0000",
        ]
    )  # fmt: skip


def test_a_server_is_asked_for_nothing_it_does_not_offer():
    for able, more in (
        (replace(ABLE, filters=False), {"filter": "tree:0"}),
        (replace(ABLE, shallow=False), {"shallow": [oid(2)]}),
    ):
        request = FetchRequest(ObjectFormat.SHA1, wants=[oid(1)], haves=[], **more)
        with pytest.raises(UpstreamDeclined):
            fetch_request(request, able)
        assert fetch_request(request, ABLE)


def test_shallow_commits_are_told_all_or_not_at_all():
    """With some of them left out, the server takes for ours what is missing behind the others."""
    shallow = [oid(n) for n in range(10, 10 + MAX_SHALLOW)]
    request = FetchRequest(ObjectFormat.SHA1, wants=[oid(1)], haves=[oid(2)], shallow=shallow)
    body = fetch_request(request, ABLE)
    assert (body.count(b"shallow "), body.count(b"have ")) == (MAX_SHALLOW, 1)
    body = fetch_request(replace(request, shallow=[*shallow, oid(3)]), ABLE)
    assert (body.count(b"shallow "), body.count(b"have ")) == (0, 0)


def test_the_section_that_answers_shallow_lines_is_read_over():
    ours, others = oid(1), oid(2)
    head = pkt(b"shallow-info\n")
    whole = BEGIN + DATA + b"0000"
    for info in (b"", pkt(f"unshallow {ours}\n".encode()), pkt(f"shallow {ours}\n".encode())):
        stream = head + info + b"0001" + whole
        assert b"".join(demultiplex(iter([stream]), shallow=[ours])) == b"PACK\0\0\0\2more"
    with pytest.raises(UpstreamInvalid, match="shallow repository"):
        list(demultiplex(iter([head + pkt(f"shallow {others}\n".encode()) + b"0001" + whole]), shallow=[ours]))


@pytest.mark.parametrize("at", range(1, len(BEGIN + DATA + DATA)))
def test_what_came_of_a_broken_packet_is_given_out_too(at):
    more = pkt(b"\x01" + bytes(range(60)))
    stream, whole = BEGIN + DATA + more, b"PACK\0\0\0\2more" + bytes(range(60))
    came = []
    with pytest.raises((UpstreamInvalid, UpstreamUnavailable)):  # noqa: PT012 - the loop is the statement
        for piece in demultiplex(iter([stream[:at]])):
            came.append(piece)
    here = b"".join(came)
    assert whole.startswith(here)
    if at > len(BEGIN + DATA) + 5:
        assert len(here) == len(whole) - (len(stream) - at)
