from __future__ import annotations

import pytest

from mirror_sync.domain.names import UpstreamUrl
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import UpstreamInvalid, UpstreamUnavailable
from mirror_sync.upstream import reflist
from mirror_sync.upstream.memory import Capabilities
from mirror_sync.upstream.observe import list_request
from mirror_sync.upstream.pktline import pkt
from mirror_sync.upstream.reflist import parse_advertisement, parse_capabilities, parse_list

A, B = b"a" * 40, b"b" * 40
KNOWN = Capabilities(UpstreamUrl("https", "h", 443, "/a"), moved=False, protocol=2, unborn=True)
SHA256 = Capabilities(UpstreamUrl("https", "h", 443, "/a"), moved=False, protocol=2, object_format=ObjectFormat.SHA256)


def lines(*items, end=b"0000"):
    return b"".join(pkt(item) for item in items) + end


V2 = lines(b"version 2\n", b"agent=git/2\n", b"ls-refs=unborn\n", b"fetch=shallow filter\n", b"object-format=sha1\n")


def test_protocol_v2_is_found_with_and_without_the_service_line():
    for body in (V2, pkt(b"# service=git-upload-pack\n") + b"0000" + V2):
        found = parse_capabilities(body)
        assert (found.protocol, found.object_format, found.unborn) == (2, ObjectFormat.SHA1, True)
        assert found.names_format
        assert found.names_agent
        assert (found.filters, found.shallow) == (True, True)


def test_a_bare_v2_server_is_asked_nothing_it_does_not_know():
    found = parse_capabilities(lines(b"version 2", b"ls-refs", b"fetch"))
    assert (found.unborn, found.names_format, found.names_agent) == (False, False, False)
    assert (found.filters, found.shallow) == (False, False)
    assert list_request(found, ["refs/heads/*", "refs/tags/v1"]) == (
        pkt(b"command=ls-refs\n") + b"0001" + pkt(b"peel\n") + pkt(b"symrefs\n") + pkt(b"ref-prefix HEAD\n")
        + pkt(b"ref-prefix refs/heads/\n") + pkt(b"ref-prefix refs/tags/v1\n") + b"0000"
    )  # fmt: skip


HOSTILE_BODIES = [
    b"",
    b"<html>login</html>",
    b"<html>login</html>\n",
    b'{"message": "bad credentials"}',
    b"0000",
    b"0000garbage",
    pkt(b"# service=git-upload-pack\n") + b"0000",
    pkt(b"# service=git-upload-pack\n"),
    V2[:-4],
    V2[:-2],
    V2 + b"0000",
    V2 + V2,
    lines(b"version 2\n", b"ls-refs\n"),
    lines(b"version 2\n", b"ls-refs\n", b"fetch\n", b"object-format=md5\n"),
    lines(b"version 3\n"),
    lines(b"version 2\n", b"ls-refs\n", b"fetch\n", end=b"00010000"),
    lines(A + b" refs/heads/main\n"),
]


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=range(len(HOSTILE_BODIES)))
def test_nothing_else_is_an_advertisement(body):
    with pytest.raises(UpstreamInvalid):
        parse_capabilities(body)


def test_an_error_packet_is_told():
    with pytest.raises(UpstreamUnavailable, match="busy"):
        parse_capabilities(lines(b"ERR busy\x1b[31m"))
    with pytest.raises(UpstreamUnavailable, match="busy"):
        parse_list(lines(b"ERR busy"), KNOWN)


# ---- protocol v2 lists


def test_a_list_is_read():
    body = lines(A + b" HEAD symref-target:refs/heads/main\n", A + b" refs/heads/main\n", B + b" refs/tags/\xff\n")
    refs = parse_list(body, KNOWN)
    assert refs.tips == {"refs/heads/main": "a" * 40, "refs/tags/\udcff": "b" * 40}
    assert refs.head == "refs/heads/main"


def test_empty_unborn_and_detached():
    assert parse_list(b"0000", KNOWN).tips == {}
    assert parse_list(lines(b"unborn HEAD symref-target:refs/heads/x\n"), KNOWN).head == "refs/heads/x"
    assert parse_list(lines(A + b" HEAD\n"), KNOWN).head == ""


BAD_LISTS = [
    b"",
    b"<html>login</html>",
    lines(A + b" refs/heads/a", end=b""),
    lines(A + b" refs/heads/a", end=b"0001"),
    lines(A + b" refs/heads/a") + lines(B + b" refs/heads/b"),
    lines(A + b" refs/heads/a", B + b" refs/heads/a"),
    lines(A + b" HEAD", A + b" HEAD"),
    lines(A[:39] + b" refs/heads/a"),
    lines(A + b"a refs/heads/a"),
    lines(A.upper() + b" refs/heads/a"),
    lines(b"0" * 40 + b" refs/heads/a"),
    lines(b"c" * 64 + b" refs/heads/a"),
    lines(b"refs/heads/a"),
    lines(A),
    lines(A + b" "),
    lines(A + b" refs/heads/a\nx"),
    lines(A + b" refs/heads/a\0x"),
    lines(b"unborn refs/heads/a symref-target:refs/heads/b"),
    lines(b"unborn HEAD symref-target:refs/heads/b", b"unborn HEAD symref-target:refs/heads/b"),
    lines(A + b" HEAD symref-target:refs/heads/a symref-target:refs/heads/b"),
    lines(b""),
    lines(A + b" refs/tags/v1 peeled:" + B[:39]),
    lines(A + b" refs/tags/v1 peeled:" + b"0" * 40),
    lines(A + b" refs/tags/v1 peeled:"),
]


@pytest.mark.parametrize("body", BAD_LISTS, ids=range(len(BAD_LISTS)))
def test_a_list_with_anything_wrong_is_refused_whole(body):
    with pytest.raises(UpstreamInvalid):
        parse_list(body, KNOWN)


def test_what_tags_stand_for_is_read():
    refs = parse_list(lines(A + b" refs/tags/v1 peeled:" + B, B + b" refs/heads/main new-attribute"), KNOWN)
    assert refs.tips == {"refs/tags/v1": "a" * 40, "refs/heads/main": "b" * 40}
    assert refs.peeled == {"refs/tags/v1": "b" * 40}


def test_ids_have_the_length_of_their_format():
    assert parse_list(lines(b"c" * 64 + b" refs/heads/a"), SHA256).tips
    with pytest.raises(UpstreamInvalid):
        parse_list(lines(A + b" refs/heads/a"), SHA256)


def test_a_list_has_an_end(monkeypatch):
    monkeypatch.setattr(reflist, "MAX_REFS", 3)
    parse_list(lines(*(A + b" refs/heads/%d" % n for n in range(3))), KNOWN)
    with pytest.raises(UpstreamInvalid, match="more than 3 refs"):
        parse_list(lines(*(A + b" refs/heads/%d" % n for n in range(4))), KNOWN)


# ---- protocol v0 and v1

CAPS = b"\0multi_ack symref=HEAD:refs/heads/main object-format=sha1 agent=git/2\n"


@pytest.mark.parametrize("prefix", [b"", pkt(b"# service=git-upload-pack\n") + b"0000", pkt(b"version 1\n")])
def test_an_old_list_is_read(prefix):
    body = prefix + lines(
        A + b" HEAD" + CAPS, A + b" refs/heads/main\n", B + b" refs/tags/v\n", A + b" refs/tags/v^{}\n"
    )
    refs, object_format = parse_advertisement(body)
    assert refs.tips == {"refs/heads/main": "a" * 40, "refs/tags/v": "b" * 40}
    assert refs.head == "refs/heads/main"
    assert object_format is ObjectFormat.SHA1
    assert parse_capabilities(body).protocol == 0


def test_an_old_empty_list_says_so():
    refs, _ = parse_advertisement(lines(b"0" * 40 + b" capabilities^{}\0agent=git/2 object-format=sha1"))
    assert refs.tips == {}
    refs, object_format = parse_advertisement(lines(b"0" * 64 + b" capabilities^{}\0object-format=sha256"))
    assert refs.tips == {}
    assert object_format is ObjectFormat.SHA256
    with pytest.raises(UpstreamInvalid):
        parse_advertisement(lines(b"0" * 40 + b" capabilities^{}\0agent", A + b" refs/heads/a"))


def test_an_empty_repository_of_older_git_says_nothing_at_all():
    body = pkt(b"# service=git-upload-pack\n") + b"0000" + b"0000"
    assert parse_capabilities(body).protocol == 0
    assert parse_advertisement(body)[0].tips == {}


def test_a_shallow_upstream_cannot_be_mirrored():
    with pytest.raises(UpstreamInvalid) as caught:
        parse_advertisement(lines(A + b" refs/heads/main" + CAPS, b"shallow " + B))
    assert caught.value.code == "MS-U512"


@pytest.mark.parametrize(
    "body",
    [
        lines(A + b" refs/heads/main" + CAPS, end=b""),
        lines(A + b" refs/heads/main" + CAPS, A + b" refs/heads/main"),
        lines(A + b" refs/heads/main" + CAPS, b"zz refs/heads/b"),
        lines(A + b" refs/heads/main\0object-format=md5"),
        lines(A + b" refs/heads/main\0object-format=sha256"),
        lines(A + b" refs/heads/main"),
    ],
)
def test_an_old_list_with_anything_wrong_is_refused(body):
    with pytest.raises(UpstreamInvalid):
        parse_advertisement(body)
