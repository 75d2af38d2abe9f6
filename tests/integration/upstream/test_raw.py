"""Single files by their commit and path: from any byte on, from wherever the forge keeps them, credentials at home."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import (
    AddressRefused,
    ObjectMissingUpstream,
    RateLimited,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.upstream import Access
from mirror_sync.upstream.raw import TEMPLATES
from tests.support.upstream_client import LOOPBACK, client

DATA = os.urandom(300_000)
RAW = "GET .*/-/raw/"


@pytest.fixture
def repo(up):
    return up.create("acme/model")


@pytest.fixture
def commit(repo):
    return GitOid(repo.commit({"dir/big.bin": DATA}))


def here(repo, **more):
    return client(repo.url, rule=replace(LOOPBACK, raw_url=repo.raw_url, **more))


def read(upstream, commit, start):
    body = upstream.open_blob(commit, b"dir/big.bin", start=start)
    return body.start, b"".join(body.chunks())


def test_a_range_is_asked_for_only_behind_the_first_byte(up, repo, commit):
    with here(repo) as upstream:
        assert read(upstream, commit, 0) == (0, DATA)
        assert read(upstream, commit, 1234) == (1234, DATA[1234:])
    whole, rest = up.seen(RAW)
    assert "range" not in whole.headers
    assert rest.headers["range"] == "bytes=1234-"
    assert {item.headers["accept-encoding"] for item in (whole, rest)} == {"identity"}
    assert whole.peer != rest.peer, "what cuts a connection counts all that it carried"
    assert whole.path == f"/acme/model/-/raw/{commit}/dir/big.bin"


def test_a_server_that_ignores_the_range_begins_at_nought_and_says_so(up, repo, commit):
    up.fault(RAW, ignore_range=True)
    with here(repo) as upstream:
        assert read(upstream, commit, 1234) == (0, DATA)


def test_a_file_resumes_through_cuts(up, repo, commit):
    up.fault(RAW, times=3, cut_after=70_000)
    have = b""
    with here(repo) as upstream:
        while len(have) < len(DATA):
            body = upstream.open_blob(commit, b"dir/big.bin", start=len(have))
            assert body.start == len(have)
            try:
                for chunk in body.chunks():
                    have += chunk
            except UpstreamUnavailable:
                continue
    assert have == DATA
    assert len(up.seen(RAW)) == 4
    assert len({item.peer for item in up.seen(RAW)}) == 4


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ({"headers": {"Content-Range": "bytes 0-299999/300000"}}, UpstreamInvalid),
        ({"headers": {"Content-Range": "bytes 1000-999/300000"}}, UpstreamInvalid),
        ({"headers": {"Content-Range": "bytes 1000-300000/300000"}}, UpstreamInvalid),
        ({"headers": {"Content-Range": "bytes 1000-"}}, UpstreamInvalid),
        ({"headers": {"Content-Encoding": "gzip"}}, UpstreamInvalid),
        ({"body": b"<html>please log in", "headers": {"Content-Type": "text/html; charset=utf-8"}}, UpstreamInvalid),
        ({"rewrite": lambda body: body + b"more"}, UpstreamInvalid),
        ({"rewrite": lambda body: body[:-1]}, UpstreamUnavailable),
        ({"status": 500}, UpstreamUnavailable),
        ({"status": 401}, UpstreamRefused),
        ({"status": 404}, ObjectMissingUpstream),
        ({"status": 416, "headers": {"Content-Range": "bytes */7"}}, UpstreamInvalid),
        ({"status": 429, "headers": {"Retry-After": "7"}}, RateLimited),
        ({"redirect": "http://10.0.0.1/x"}, AddressRefused),
    ],
)
def test_an_answer_that_is_not_the_rest_of_the_file_raises(up, repo, commit, what, kind):
    up.fault(RAW, **what)
    rules = {"10.0.0.1": Access(allow_http=True)}
    rule = replace(LOOPBACK, raw_url=repo.raw_url)
    with client(repo.url, rule=rule, rules=rules.__getitem__) as upstream, pytest.raises(kind):
        read(upstream, commit, 1000)


def test_a_whole_file_may_be_a_page(up, repo):
    commit = GitOid(repo.commit({"dir/big.bin": b"<html>" * 1000}))
    up.fault(RAW, headers={"Content-Type": "text/html"}, times=None)
    with here(repo) as upstream:
        assert read(upstream, commit, 0) == (0, b"<html>" * 1000)
        assert read(upstream, commit, 6)[0] == 6


@pytest.mark.parametrize("path", [b"../../other/secret", b"a/../b", b".", b"", b"a//b", b"/etc/passwd"])
def test_a_path_leads_nowhere_else_on_the_host(up, repo, commit, path):
    with here(repo) as upstream:
        assert upstream.open_blob(commit, path, start=0) is None
    assert up.seen(RAW) == []


def test_a_host_nobody_knows_offers_no_files(up, repo, commit):
    with client(repo.url) as upstream:
        assert upstream.open_blob(commit, b"dir/big.bin", start=0) is None
    assert up.seen(RAW) == []


# ---------------------------------------------------------------- credentials


def test_our_credential_stays_on_our_host(up, other, repo, commit):
    elsewhere = other.create("acme/model")
    elsewhere.commit({"dir/big.bin": DATA})
    theirs = GitOid(elsewhere.refs()["refs/heads/main"])
    repo.token = "canary"
    with here(repo, token=lambda: "canary") as upstream:
        assert read(upstream, commit, 0) == (0, DATA)
    assert up.seen(RAW)[0].headers["authorization"].startswith("Basic ")
    strangers = {elsewhere.upstream.origin.removeprefix("http://"): LOOPBACK}
    with client(
        repo.url, rule=replace(LOOPBACK, raw_url=elsewhere.raw_url, token=lambda: "canary"),
        rules=strangers.__getitem__,
    ) as upstream:  # fmt: skip
        assert read(upstream, theirs, 5) == (5, DATA[5:])
    assert "authorization" not in other.seen(RAW)[0].headers


def test_another_host_gets_the_credential_that_is_configured_for_it(repo, other):
    elsewhere = other.create("acme/model")
    commit = GitOid(elsewhere.commit({"dir/big.bin": DATA}))
    elsewhere.token = "theirs"
    rules = {f"{other.origin.removeprefix('http://')}": replace(LOOPBACK, token=lambda: "theirs")}
    rule = replace(LOOPBACK, raw_url=elsewhere.raw_url, token=lambda: "ours")
    with client(repo.url, rule=rule, rules=rules.__getitem__) as upstream:
        assert read(upstream, commit, 0) == (0, DATA)


def test_a_redirect_leaves_the_credential_behind(up, other, repo, commit):
    elsewhere = other.create("acme/model")
    there = GitOid(elsewhere.commit({"dir/big.bin": DATA}))
    up.fault(RAW, redirect=f"{other.origin}/acme/model/-/raw/{there}/dir/big.bin", status=307)
    strangers = {other.origin.removeprefix("http://"): LOOPBACK}
    rule = replace(LOOPBACK, raw_url=repo.raw_url, token=lambda: "canary")
    with client(repo.url, rule=rule, rules=strangers.__getitem__) as upstream:
        assert read(upstream, commit, 9) == (9, DATA[9:])
    (seen,) = other.seen(RAW)
    assert "authorization" not in seen.headers
    assert seen.headers["range"] == "bytes=9-"


def test_a_known_host_has_its_place_unless_the_rule_says_else(up, other, repo, commit, monkeypatch):
    elsewhere = other.create("acme/model")
    there = GitOid(elsewhere.commit({"dir/big.bin": DATA}))
    netloc = up.origin.removeprefix("http://")
    monkeypatch.setitem(TEMPLATES, netloc, elsewhere.raw_url)
    strangers = {other.origin.removeprefix("http://"): LOOPBACK}
    for raw_url, given in (("", there), (repo.raw_url, commit)):
        rule = replace(LOOPBACK, raw_url=raw_url)
        with client(f"{repo.url}.git", rule=rule, rules=strangers.__getitem__) as upstream:
            assert read(upstream, given, 0) == (0, DATA)
    with client(repo.url, rule=replace(LOOPBACK, raw_url="none")) as upstream:
        assert upstream.open_blob(there, b"dir/big.bin", start=0) is None
