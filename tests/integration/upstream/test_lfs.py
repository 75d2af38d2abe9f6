"""LFS batches and downloads against a server that lies on order."""

from __future__ import annotations

import hashlib
import os

import pytest

from mirror_sync.domain.names import LfsOid, RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import (
    AddressRefused,
    ObjectMissingUpstream,
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamStalled,
    UpstreamUnavailable,
)
from mirror_sync.ports import LfsAction
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream import Access
from tests.support.upstream import request_json
from tests.support.upstream_client import LOOPBACK, client

DATA = os.urandom(500_000)
TOKEN = Access(allow_http=True, allow_private=True, token=lambda: "canary", stall_timeout=20.0)
BATCH = "POST .*/objects/batch"
GET = "GET /-/lfs/"


@pytest.fixture
def repo(up):
    return up.create("acme/model")


@pytest.fixture
def pointer(repo):
    oid, size = repo.lfs.put(DATA)
    return Pointer(LfsOid(oid), size)


def some(repo, count):
    return [Pointer(LfsOid(oid), size) for oid, size in (repo.lfs.put(f"{n}".encode()) for n in range(count))]


def read(upstream, pointer, *, start=0, end=None):
    (answer,) = upstream.batch([pointer])
    body = upstream.open_object(pointer, answer.action, start=start, end=pointer.size if end is None else end)
    return body.start, b"".join(body.chunks())


def secrets_in(upstream):
    """Every place where the canary, plain or as a Basic password, arrived."""
    basic = TOKEN.credential()
    return [
        item.line for item in upstream.seen() for value in item.headers.values() if value == basic or "canary" in value
    ]


# ---------------------------------------------------------------- batch


def test_a_batch_is_asked_as_the_specification_says(up, repo, pointer):
    with client(repo.url + ".git", rule=TOKEN) as upstream:
        upstream.batch([pointer])
        upstream.batch([pointer], ref=RefName("refs/heads/main"))
    bare, named = up.seen(BATCH)
    assert bare.path == "/acme/model.git/info/lfs/objects/batch"
    assert bare.headers["accept"] == bare.headers["content-type"] == "application/vnd.git-lfs+json"
    assert "ref" not in request_json(bare)
    assert request_json(bare)["objects"] == [{"oid": pointer.oid, "size": pointer.size}]
    assert request_json(named)["ref"] == {"name": "refs/heads/main"}


def test_a_host_that_takes_less_is_asked_for_less_from_then_on(up, repo):
    repo.lfs.max_batch = 30
    pointers = some(repo, 120)
    with client(repo.url) as upstream:
        assert all(answer.action for answer in upstream.batch(pointers))
        sizes = [len(request_json(item)["objects"]) for item in up.seen(BATCH)]
        assert sizes == [100, 50, 25, 25, 25, 25, 20]
        up.forget()
        upstream.batch(pointers)
        assert len(up.seen(BATCH)) == 5
        repo.lfs.max_batch = 0
        assert [answer.error_code for answer in upstream.batch(pointers[:2])] == [413, 413]


def test_a_404_for_the_whole_batch_is_one_for_each_object(repo):
    repo.lfs.status = 404
    with client(repo.url) as upstream:
        answers = upstream.batch(some(repo, 130))
    assert [answer.error_code for answer in answers] == [404] * 130
    assert "ordered status 404" in answers[0].error_message


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "code"),
    [
        (401, {}, b"{}", UpstreamRefused, "MS-L401"),
        (403, {}, b"{}", UpstreamRefused, "MS-L401"),
        (403, {}, b'{"message": "This repository exceeded its LFS budget."}', UpstreamUnavailable, "MS-L509"),
        (509, {}, b"{}", UpstreamUnavailable, "MS-L509"),
        (501, {}, b"{}", UpstreamUnavailable, "MS-L501"),
        (410, {}, b"{}", UpstreamGone, "MS-U404"),
        (429, {"Retry-After": "9"}, b"{}", RateLimited, "MS-U429"),
        (503, {}, b"{}", UpstreamUnavailable, "MS-U503"),
        (422, {}, b"{}", UpstreamInvalid, "MS-U502"),
        (200, {"Content-Type": "text/html"}, b"<html>", UpstreamInvalid, "MS-U502"),
        (200, {"Content-Type": "application/vnd.git-lfs+json"}, b"", UpstreamInvalid, "MS-U502"),
        (200, {"Content-Type": "application/vnd.git-lfs+json"}, b'{"objects"', UpstreamInvalid, "MS-U502"),
        (307, {"Location": "http://127.0.0.2:1/x"}, b"", UpstreamInvalid, "MS-U302"),
    ],
)
def test_a_batch_that_fails_as_a_whole(up, repo, pointer, status, headers, body, kind, code):
    up.fault(BATCH, status=status, headers=headers, body=body)
    clock = HandClock()
    with client(repo.url, clock=clock) as upstream, pytest.raises(kind) as caught:
        upstream.batch([pointer])
    assert (type(caught.value), caught.value.code) == (kind, code)
    if isinstance(caught.value, RateLimited):
        assert caught.value.until == clock.now() + 9


def test_expiry_is_told_on_our_clock(up, repo, pointer):
    repo.lfs.expires_at = "2030-01-01T00:10:00Z"
    up.fault(BATCH, rewrite=lambda body: body, headers={"Date": "Tue, 01 Jan 2030 00:00:00 GMT"})
    clock = HandClock()
    with client(repo.url, clock=clock) as upstream:
        (answer,) = upstream.batch([pointer])
        assert answer.action.expires_at == clock.now() + 600, "the server's clock is years ahead of ours"
        repo.lfs.expires_in = 60
        (answer,) = upstream.batch([pointer])
        assert answer.action.expires_at == clock.now() + 60


# ---------------------------------------------------------------- download


def test_a_whole_object_is_asked_without_range_and_a_part_with_it(up, repo, pointer):
    with client(repo.url) as upstream:
        assert read(upstream, pointer) == (0, DATA)
        assert read(upstream, pointer, start=0, end=10) == (0, DATA[:10])
        assert read(upstream, pointer, start=499_999) == (499_999, DATA[-1:])
    ranges = [item.headers.get("range") for item in up.seen(GET)]
    assert ranges == [None, "bytes=0-9", "bytes=499999-499999"]
    assert {item.headers["accept-encoding"] for item in up.seen(GET)} == {"identity"}


def test_ignored_range_starts_at_nought_and_is_said(up, repo, pointer):
    up.fault(GET, times=None, ignore_range=True)
    with client(repo.url) as upstream:
        assert read(upstream, pointer, start=400_000) == (0, DATA)


def test_a_200_with_a_content_range_counts_as_the_range(up, repo, pointer):
    up.fault(GET, status=200, rewrite=lambda body: body)
    with client(repo.url) as upstream:
        assert read(upstream, pointer, start=400_000) == (400_000, DATA[400_000:])


@pytest.mark.parametrize(
    "said",
    ["bytes 0-99/500000", "bytes 101-199/500000", "bytes 100-199/500001", "bytes 100-99/500000", "bytes */500000",
     "items 100-199/500000", "", "bytes 100-500000/*", "bytes 100-199", "bytes ²-³/500000"],
)  # fmt: skip
def test_a_part_that_is_another_is_refused(up, repo, pointer, said):
    up.fault(GET, status=206, rewrite=lambda body: body, headers={"Content-Range": said})
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid):
        read(upstream, pointer, start=100, end=200)


def test_more_than_asked_for_never_passes(up, repo, pointer):
    with client(repo.url) as upstream:
        up.fault(GET, rewrite=lambda body: body + b"more")
        assert read(upstream, pointer, start=100, end=200) == (100, DATA[100:200])
        up.fault(GET, rewrite=lambda body: body + b"more")
        (answer,) = upstream.batch([pointer])
        came = b""
        with pytest.raises(UpstreamInvalid, match="more bytes"):  # noqa: PT012 - the loop is the statement
            for piece in upstream.open_object(pointer, answer.action, start=0, end=pointer.size).chunks():
                came += piece
        assert came == DATA


def test_less_than_promised_is_a_break(up, repo, pointer):
    up.fault(GET, rewrite=lambda body: body[:-1])
    with client(repo.url) as upstream, pytest.raises(UpstreamInvalid, match="fewer bytes"):
        read(upstream, pointer)
    up.fault(GET, cut_after=1000)
    with client(repo.url) as upstream, pytest.raises(UpstreamUnavailable):
        read(upstream, pointer)


def test_a_body_that_is_all_here_may_be_abandoned(up, repo):
    (small,) = some(repo, 1)
    with client(repo.url) as upstream:
        (answer,) = upstream.batch([small])
        body = upstream.open_object(small, answer.action, start=0, end=small.size)
        chunks = body.chunks()
        assert next(chunks) == b"0"
        body.abandon()
        assert list(chunks) == []


PAGE = b"<!doctype html><title>Sign in</title>" + b"<p>We use cookies.</p>" * 20_000


@pytest.mark.parametrize("start", [0, 100_000])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json"])
def test_a_page_instead_of_the_object_is_refused_before_its_first_byte(up, repo, pointer, start, kind):
    up.fault(GET, body=PAGE, headers={"Content-Type": kind})
    with client(repo.url) as upstream:
        (answer,) = upstream.batch([pointer])
        with pytest.raises(UpstreamInvalid, match="has another LFS object") as caught:
            upstream.open_object(pointer, answer.action, start=start, end=pointer.size)
    assert str(len(PAGE)) in str(caught.value)


def test_a_page_that_is_the_object_is_taken(up, repo):
    oid, size = repo.lfs.put(PAGE)
    up.fault(GET, times=None, headers={"Content-Type": "text/html"})
    with client(repo.url) as upstream:
        assert read(upstream, Pointer(LfsOid(oid), size))[1] == PAGE


@pytest.mark.parametrize(
    ("status", "headers", "kind", "code"),
    [
        (400, {}, UpstreamRefused, "MS-L403"),
        (401, {}, UpstreamRefused, "MS-L403"),
        (403, {}, UpstreamRefused, "MS-L403"),
        (403, {"Retry-After": "5"}, RateLimited, "MS-U429"),
        (429, {}, RateLimited, "MS-U429"),
        (404, {}, ObjectMissingUpstream, "MS-L404"),
        (410, {}, ObjectMissingUpstream, "MS-L404"),
        (416, {}, UpstreamInvalid, "MS-L416"),
        (500, {}, UpstreamUnavailable, "MS-U503"),
        (204, {}, UpstreamInvalid, "MS-U502"),
    ],
)
def test_a_refused_download(up, repo, pointer, status, headers, kind, code):
    up.fault(GET, status=status, headers=headers)
    with client(repo.url) as upstream, pytest.raises(kind) as caught:
        read(upstream, pointer)
    assert (type(caught.value), caught.value.code) == (kind, code)


def test_a_server_that_has_the_object_in_another_size_says_so(up, repo, pointer):
    other = Pointer(pointer.oid, pointer.size + 10)
    with client(repo.url) as upstream:
        with pytest.raises(UpstreamInvalid, match="fewer bytes"):
            read(upstream, other)
        for start in (pointer.size, 5):
            with pytest.raises(UpstreamInvalid, match=f"it has {pointer.size} bytes, not {other.size}") as caught:
                read(upstream, other, start=start, end=other.size)
            assert caught.value.code == "MS-U502"


def test_an_expired_action_asks_for_a_new_batch(up, repo, pointer):
    repo.lfs.lifetime = -1.0
    with client(repo.url) as upstream, pytest.raises(UpstreamRefused) as caught:
        read(upstream, pointer)
    assert caught.value.code == "MS-L403"


@pytest.mark.parametrize(
    "what", [{"hang": 3.0}, {"pause_after": (1000, 3.0)}, {"drip": (1, 0.02)}], ids=["silence", "pause", "drip"]
)
def test_a_download_that_stalls_ends(up, repo, pointer, what):
    up.fault(GET, **what)
    rule = Access(allow_http=True, allow_private=True, stall_timeout=0.3)
    with client(repo.url, rule=rule) as upstream, pytest.raises(UpstreamStalled):
        read(upstream, pointer)


def test_a_part_outside_the_object_is_our_own_mistake(repo, pointer):
    with client(repo.url) as upstream:
        (answer,) = upstream.batch([pointer])
        for start, end in ((0, 0), (-1, 5), (5, 5), (0, pointer.size + 1)):
            with pytest.raises(ValueError, match="no part"):
                upstream.open_object(pointer, answer.action, start=start, end=end)


# ---------------------------------------------------------------- redirects and credentials


@pytest.fixture
def shelf(other):
    """The same object on another host."""
    repo = other.create("acme/model")
    repo.lfs.put(DATA)
    return repo


def away(other, pointer):
    return f"{other.origin}/-/lfs/acme/model/{pointer.oid}"


def test_our_credential_reaches_our_origin_only(up, other, repo, shelf, pointer):
    repo.token = "canary"
    with client(repo.url, rule=TOKEN, rules=lambda _: LOOPBACK) as upstream:
        assert read(upstream, pointer)[1] == DATA
        assert len(secrets_in(up)) == 2, "batch and download are both ours"
        repo.lfs.href_origin = other.origin
        assert read(upstream, pointer)[1] == DATA
        repo.lfs.href_origin = ""
        for status in (301, 302, 303, 307, 308):
            up.fault(GET, status=status, redirect=away(other, pointer))
            assert read(upstream, pointer, start=5) == (5, DATA[5:])
    assert len(other.seen(GET)) == 6
    assert {item.headers.get("range") for item in other.seen(GET)} == {None, "bytes=5-499999"}
    assert secrets_in(other) == []


def test_an_actions_headers_stay_behind_too(up, other, repo, shelf, pointer):
    repo.lfs.headers = {"Authorization": "RemoteAuth canary", "X-Canary": "canary"}
    with client(repo.url, rules=lambda _: LOOPBACK) as upstream:
        assert read(upstream, pointer)[1] == DATA
        up.fault(GET, status=302, redirect=away(other, pointer))
        assert read(upstream, pointer)[1] == DATA
        up.fault(GET, status=302, redirect=f"{up.origin}/-/lfs/acme/model/{pointer.oid}?again")
        assert read(upstream, pointer)[1] == DATA, "on the same origin they are kept"
    assert secrets_in(other) == []


def test_redirects_end(up, repo, pointer):
    up.fault(GET, times=5, redirect=f"{up.origin}/-/lfs/acme/model/{pointer.oid}")
    with client(repo.url) as upstream:
        assert read(upstream, pointer)[1] == DATA
        up.fault(GET, times=None, redirect=f"{up.origin}/-/lfs/acme/model/{pointer.oid}")
        with pytest.raises(UpstreamInvalid) as caught:
            read(upstream, pointer)
    assert caught.value.code == "MS-U302"


@pytest.mark.parametrize(
    "place",
    ["http://127.0.0.2:PORT/x", "https://127.0.0.2:PORT/x", "http://169.254.169.254/latest", "file:///etc/passwd",
     "ftp://127.0.0.2/x", "http://localhost:PORT/x", "https://user:pw@127.0.0.2:PORT/x", "https://[::1]:PORT/x", "//127.0.0.2:PORT/x"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["href", "redirect"])
def test_nothing_leads_to_where_the_rule_does_not(up, other, repo, pointer, place, way):
    url = place.replace("PORT", str(other.port))
    with client(repo.url, rule=TOKEN) as upstream:
        if way == "href":
            action = LfsAction(url, {})
        else:
            up.fault(GET, redirect=url)
            (answer,) = upstream.batch([pointer])
            action = answer.action
        with pytest.raises((AddressRefused, UpstreamUnavailable)) as caught:
            upstream.open_object(pointer, action, start=0, end=pointer.size)
    assert type(caught.value) is AddressRefused
    assert other.seen() == []


def test_one_host_never_gets_more_than_its_places(up, repo):
    """Two transfers at most, however many ask; questions have places of their own."""
    import threading

    pointers = some(repo, 6)
    up.fault(GET, times=None, hang=0.15)
    rule = Access(allow_http=True, allow_private=True, concurrency=2)
    with client(repo.url, rule=rule) as upstream:
        answers = upstream.batch(pointers)

        def take(answer):
            body = upstream.open_object(answer.pointer, answer.action, start=0, end=answer.pointer.size)
            b"".join(body.chunks())

        threads = [threading.Thread(target=take, args=(answer,)) for answer in answers]
        for thread in threads:
            thread.start()
        up.seen()
        upstream.batch(pointers)
        for thread in threads:
            thread.join(10)
    times = sorted(item.at for item in up.seen(GET))
    assert len(times) == 6
    assert all(later - earlier > 0.1 for earlier, later in zip(times, times[2:], strict=False))
    assert up.seen(BATCH)[-1].at < times[4]


def test_objects_named_by_hash_are_what_their_hash_says(repo, pointer):
    with client(repo.url) as upstream:
        assert hashlib.sha256(read(upstream, pointer)[1]).hexdigest() == pointer.oid
