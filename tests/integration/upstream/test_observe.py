"""Observation against real git, and against everything a hostile or broken server may say."""

from __future__ import annotations

import pytest

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import (
    AddressRefused,
    MirrorSyncError,
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamStalled,
    UpstreamUnavailable,
)
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream import Access
from mirror_sync.upstream.pktline import pkt
from tests.support.upstream_client import LOOPBACK, Heard, client

USUAL = ["refs/heads/*", "refs/tags/*", "refs/notes/*"]
ADVERTISEMENT = {"Content-Type": "application/x-git-upload-pack-advertisement"}
RESULT = {"Content-Type": "application/x-git-upload-pack-result"}
LINE = pkt(b"a" * 40 + b" refs/heads/main\n")


@pytest.fixture
def repo(up):
    repo = up.create("acme/model")
    first = repo.commit({"README": "hello"})
    repo.commit({"a": "b"}, branch="dev", start="main")
    repo.tag("v1", message="one")
    repo.update("refs/notes/commits", first)
    repo.update("refs/pull/1/head", first)
    return repo


@pytest.mark.parametrize("protocol", [2, 0])
@pytest.mark.parametrize("object_format", list(ObjectFormat))
@pytest.mark.parametrize("preamble", [False, True])
def test_what_git_lists_is_observed(up, protocol, object_format, preamble):
    repo = up.create("acme/model", object_format=object_format)
    repo.preamble, up.protocol = preamble, protocol
    with client(repo.url) as upstream:
        empty = upstream.observe(USUAL)
        assert dict(empty.snapshot.tips) == {}
        if protocol == 2:
            assert empty.object_format == object_format
            assert empty.snapshot.head == "refs/heads/main", "an unborn default branch is named"
        first = repo.commit({"README": "hello"}, branch="trunk")
        repo.tag("v1", target="trunk", message="one")
        repo.update("refs/pull/1/head", first)
        repo.set_head("refs/heads/trunk")
        seen = upstream.observe(USUAL, known_digest=empty.digest)
        assert seen.snapshot.tips == {name: oid for name, oid in repo.refs().items() if "pull" not in name}
        assert (seen.snapshot.head, seen.protocol, seen.object_format) == ("refs/heads/trunk", protocol, object_format)
        assert seen.peeled == {repo.refs()["refs/tags/v1"]: first}
        assert upstream.observe(USUAL, known_digest=seen.digest) is None
        branches = upstream.observe(["refs/heads/*"], known_digest=seen.digest)
        assert branches is not None, "another question"
        assert branches.peeled == {}


def test_an_unchanged_poll_is_one_request_on_one_connection(up, repo):
    heard = Heard()
    with client(repo.url, heard=heard) as upstream:
        digest = upstream.observe(USUAL).digest
        up.forget()
        for _ in range(3):
            assert upstream.observe(USUAL, known_digest=digest) is None
    assert [item.line for item in up.seen()] == ["POST /acme/model/git-upload-pack"] * 3
    assert heard.requests == [(f"127.0.0.1:{up.port}", "observe", 200)] * 5


def test_capabilities_are_asked_again_after_a_day(up, repo):
    clock = HandClock()
    with client(repo.url, clock=clock) as upstream:
        upstream.observe(USUAL)
        clock.advance(86_399)
        upstream.observe(USUAL)
        assert len(up.seen("GET")) == 1
        clock.advance(1)
        upstream.observe(USUAL)
        assert len(up.seen("GET")) == 2


def test_a_server_that_forgot_protocol_v2_is_asked_from_the_start(up, repo):
    with client(repo.url) as upstream:
        new = upstream.observe(USUAL)
        up.protocol = 0
        up.fault("POST .*git-upload-pack", status=400, body=b"what is command=ls-refs?")
        old = upstream.observe(USUAL)
        assert (new.protocol, old.protocol) == (2, 0)
        assert old.snapshot == new.snapshot


def test_detached_and_dangling_heads(up, repo):
    with client(repo.url) as upstream:
        repo.set_head("refs/heads/nowhere")
        assert upstream.observe(USUAL).snapshot.head == "refs/heads/nowhere"
        repo.git("update-ref", "--no-deref", "HEAD", repo.refs()["refs/heads/main"])
        assert upstream.observe(USUAL).snapshot.head == ""


def test_refs_no_client_could_hold_are_left_out_with_the_reason(up, repo):
    tip = repo.refs()["refs/heads/main"]
    with (repo.path / "packed-refs").open("a") as file:
        file.write(f"{tip} refs/heads/{'x' * 251}\n")
    with client(repo.url) as upstream:
        seen = upstream.observe(USUAL)
    assert [len(name) for name in seen.refused] == [262]
    assert "refs/heads/main" in seen.snapshot.tips


# ---------------------------------------------------------------- lies

NOT_LISTS = {
    "empty": b"",
    "html": b"<html>login</html>",
    "html line": b"<html>login</html>\n",
    "json": b'{"message":"bad credentials"}',
    "no flush": LINE,
    "half a packet": LINE[:-3],
    "twice": LINE + LINE + b"0000",
    "more behind": LINE + b"0000" + LINE + b"0000",
    "delimiter": LINE + b"00010000",
    "zero id": pkt(b"0" * 40 + b" refs/heads/main\n") + b"0000",
}


@pytest.mark.parametrize("name", NOT_LISTS)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("honest_type", [True, False])
def test_a_200_that_is_no_list_is_never_an_empty_one(up, repo, name, method, honest_type):
    headers = {"Content-Type": "text/html"} if honest_type else ADVERTISEMENT if method == "GET" else RESULT
    up.fault(method, times=None, body=NOT_LISTS[name], headers=headers)
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid):
        upstream.observe(USUAL)


def test_a_list_under_another_name_is_not_believed(up, repo):
    up.fault("POST", times=None, body=LINE + b"0000", headers={"Content-Type": "application/octet-stream"})
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid, match="octet-stream"):
        upstream.observe(USUAL)


def test_a_compressed_list_that_nobody_asked_for_is_refused(up, repo):
    up.fault("POST", times=None, headers={"Content-Encoding": "gzip"}, rewrite=lambda body: body)
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid, match="compressed"):
        upstream.observe(USUAL)


TRAVERSALS = [
    "refs/heads/../../../PWN", "../../x", "/etc/passwd", "refs/heads/a/../b", "refs/heads/.hidden", "refs/heads/a.lock",
    "refs/heads/" + "x" * 300, "refs/mirror-sync/kept/1", "config", "HEAD", "refs/heads/a~1", "refs/heads/\x07",
]  # fmt: skip


@pytest.mark.parametrize("target", TRAVERSALS)
def test_a_hostile_head_is_dropped_and_said(up, repo, target):
    tip = repo.refs()["refs/heads/main"]
    head = pkt(f"{tip} HEAD symref-target:{target}\n".encode())
    up.fault("POST", times=None, body=head + pkt(f"{tip} refs/heads/main\n".encode()) + b"0000", headers=RESULT)
    with client(repo.url) as upstream:
        seen = upstream.observe(USUAL)
    assert seen.snapshot.head == ""
    assert seen.snapshot.tips == {"refs/heads/main": tip}
    assert "points at" in seen.refused["HEAD"]
    assert "\x07" not in seen.refused["HEAD"]


def test_a_hostile_head_of_an_old_server_is_dropped_too(up, repo):
    up.protocol = 0
    up.fault("GET", rewrite=lambda body: body.replace(b"symref=HEAD:refs/heads/main", b"symref=HEAD:refs/heads/../x"))
    with client(repo.url) as upstream:
        assert upstream.observe(USUAL).snapshot.head == ""


def test_an_endless_list_ends(up, repo, monkeypatch):
    monkeypatch.setattr("mirror_sync.upstream.observe.MAX_LIST_BYTES", 100)
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid, match="more than 100 bytes"):
        upstream.observe(USUAL)


# ---------------------------------------------------------------- statuses, silence


@pytest.mark.parametrize(
    ("status", "headers", "kind", "code"),
    [
        (401, {}, UpstreamRefused, "MS-A401"),
        (403, {}, UpstreamRefused, "MS-A401"),
        (404, {}, UpstreamGone, "MS-U404"),
        (410, {}, UpstreamGone, "MS-U404"),
        (451, {}, UpstreamGone, "MS-U404"),
        (429, {"Retry-After": "30"}, RateLimited, "MS-U429"),
        (403, {"Retry-After": "30"}, RateLimited, "MS-U429"),
        (500, {}, UpstreamUnavailable, "MS-U503"),
        (503, {}, UpstreamUnavailable, "MS-U503"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_statuses(up, repo, method, status, headers, kind, code):
    clock = HandClock()
    up.fault(method, times=None, status=status, headers=headers, body=b"go \x1b[31maway")
    with client(repo.url, clock=clock) as upstream, pytest.raises(kind) as caught:
        upstream.observe(USUAL)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert "\x1b" not in str(caught.value)
    if isinstance(caught.value, RateLimited):
        assert caught.value.until == clock.now() + 30


def test_nobody_listens(up, repo):
    up.stop()
    with client(repo.url) as upstream, pytest.raises(UpstreamUnavailable) as caught:
        upstream.observe(USUAL)
    assert "refused" in caught.value.why


def test_connections_closed_meanwhile_are_not_an_error(up, repo):
    with client(repo.url) as upstream:
        digest = upstream.observe(USUAL).digest
        up.stop()
        up.start()
        assert upstream.observe(USUAL, known_digest=digest) is None
        up.fault("POST", drop=True)
        assert upstream.observe(USUAL, known_digest=digest) is None, "a kept-alive connection may die at any time"


def test_a_connection_that_always_breaks_is_one(up, repo):
    up.fault("", times=None, drop=True)
    with client(repo.url) as upstream, pytest.raises(UpstreamUnavailable):
        upstream.observe(USUAL)


QUICK = Access(allow_http=True, allow_private=True, stall_timeout=0.3)


@pytest.mark.parametrize(
    "what",
    [
        {"hang": 3.0},
        {"body": LINE * 30 + b"0000", "headers": RESULT, "drip": (1, 0.02)},
        {"body": LINE + b"0000", "headers": RESULT, "pause_after": (5, 3.0)},
    ],
    ids=["silence", "drip", "pause"],
)
def test_silence_and_trickles_end(up, repo, what):
    up.fault("POST", times=None, **what)
    with client(repo.url, rule=QUICK) as upstream, pytest.raises(UpstreamStalled):
        upstream.observe(USUAL)


def test_a_list_cut_short_is_no_list(up, repo):
    up.fault("POST", times=None, cut_after=30)
    with client(repo.url) as upstream, pytest.raises(UpstreamUnavailable):
        upstream.observe(USUAL)


# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 308])
def test_a_permanent_redirect_on_the_same_host_is_followed_and_told(up, repo, status):
    up.create("acme/old")
    up.fault("GET /acme/old/info/refs", status=status, redirect="/acme/model.git/info/refs?service=git-upload-pack")
    with client(up.url("acme/old")) as upstream:
        seen = upstream.observe(USUAL)
        assert seen.moved_to == f"{repo.url}.git"
        assert seen.snapshot.tips["refs/heads/main"] == repo.refs()["refs/heads/main"]
        assert upstream.observe(USUAL, known_digest=seen.digest) is None
        assert upstream.git_access().url == seen.moved_to
        oid, size = repo.lfs.put(b"data")
        assert upstream.batch([_pointer(oid, size)])[0].action is not None, "its LFS server moved along"


def _pointer(oid, size):
    from mirror_sync.domain.pointers import Pointer

    return Pointer(oid, size)


def test_a_redirect_after_the_capabilities_were_learnt_is_found(up, repo):
    with client(repo.url) as upstream:
        upstream.observe(USUAL)
        new = up.create("acme/new")
        new.commit({"x": "y"})
        repo.moved_to = "acme/new"
        seen = upstream.observe(USUAL)
        assert seen.moved_to == new.url
        assert seen.snapshot.tips == new.refs()


REFUSED_REDIRECTS = [
    (302, "/acme/new/info/refs?service=git-upload-pack"),
    (303, "/acme/new/info/refs?service=git-upload-pack"),
    (307, "/acme/new/info/refs?service=git-upload-pack"),
    (301, "OTHER/acme/new/info/refs?service=git-upload-pack"),
    (308, "OTHER/acme/new/info/refs?service=git-upload-pack"),
    (301, "//127.0.0.2/acme/new/info/refs?service=git-upload-pack"),
    (301, "http://169.254.169.254/latest/info/refs?service=git-upload-pack"),
    (301, "file:///etc/info/refs?service=git-upload-pack"),
    (301, "ftp://127.0.0.1/a/info/refs?service=git-upload-pack"),
    (301, "/login"),
    (301, "/acme/new/info/refs"),
    (301, "/acme/new/info/refs?service=git-receive-pack"),
    (301, "/%2e%2e/x/info/refs?service=git-upload-pack"),
    (301, "http://user:pw@127.0.0.1/a/info/refs?service=git-upload-pack"),
    (301, ""),
]


@pytest.mark.parametrize(("status", "location"), REFUSED_REDIRECTS)
def test_every_other_redirect_is_refused_and_nobody_learns_the_token(up, other, repo, status, location):
    up.fault("GET", times=None, status=status, redirect=location.replace("OTHER", other.origin) or " ")
    rule = Access(allow_http=True, allow_private=True, token=lambda: "canary")
    with client(repo.url, rule=rule) as upstream, pytest.raises((AddressRefused, UpstreamInvalid)) as caught:
        upstream.observe(USUAL)
    assert caught.value.code in ("MS-U301", "MS-U302", "MS-U403", "MS-U502")
    assert other.seen() == []
    assert "canary" not in str(caught.value)
    assert "pw@" not in str(caught.value)
    assert len(up.seen()) == 1


def test_only_one_redirect_is_followed(up, repo):
    repo.moved_to = "acme/b"
    up.create("acme/b").moved_to = "acme/c"
    up.create("acme/c").commit({"x": "y"})
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid) as caught:
        upstream.observe(USUAL)
    assert caught.value.code == "MS-U302"


# ---------------------------------------------------------------- credentials


def test_a_private_repository_needs_its_token_read_afresh(up, repo):
    repo.token = "canary-1"
    tokens = ["canary-1"]
    rule = Access(allow_http=True, allow_private=True, token=lambda: tokens[-1])
    with client(repo.url) as upstream, pytest.raises(UpstreamRefused, match="private, gone or needs a credential"):
        upstream.observe(USUAL)
    with client(repo.url, rule=rule) as upstream:
        assert upstream.observe(USUAL)
        repo.token = "canary-2"
        with pytest.raises(UpstreamRefused, match="refuses our credential") as caught:
            upstream.observe(USUAL)
        assert "canary" not in str(caught.value) + caught.value.remedy
        tokens.append("canary-2")
        assert upstream.observe(USUAL)


def test_no_error_of_the_room_is_foreign(up, repo):
    """Whatever a server sends, only our errors come out."""
    for raw in (b"HTTP/9.9 abc", b"\x00" * 100, b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"SSH-2.0-x\r\n"):
        with (
            _raw_server(raw) as port,
            client(f"http://127.0.0.1:{port}/a/b", rule=LOOPBACK) as upstream,
            pytest.raises(MirrorSyncError),
        ):
            upstream.observe(USUAL)


def _raw_server(raw):
    import contextlib
    import socket
    import threading

    @contextlib.contextmanager
    def serve():
        listener = socket.create_server(("127.0.0.1", 0))

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(raw)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(5)

    return serve()
