"""Packs from real git: indexed by real git, and refused when they are not whole."""

from __future__ import annotations

import gzip
import os
import subprocess
import time
from dataclasses import replace

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import (
    RateLimited,
    UpstreamDeclined,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamRefused,
    UpstreamStalled,
    UpstreamUnavailable,
    UsageError,
)
from mirror_sync.ports import FetchRequest
from mirror_sync.upstream import Access
from tests.support.link import Link
from tests.support.upstream import Fault, isolated_git_environment
from tests.support.upstream_client import LOOPBACK, client

USUAL = ["refs/heads/*", "refs/tags/*"]
FETCH = "POST .*git-upload-pack"


@pytest.fixture
def local(tmp_path):
    def run(*arguments, data=None):
        environment = isolated_git_environment(tmp_path / "h")
        done = subprocess.run(
            ["git", "-C", str(tmp_path / "local.git"), *arguments],
            input=data, env=environment, capture_output=True, check=True,
        )  # fmt: skip
        return done.stdout.decode().strip()

    def init(object_format="sha1"):
        subprocess.run(
            ["git", "init", "-q", "--bare", f"--object-format={object_format}", str(tmp_path / "local.git")],
            env=isolated_git_environment(tmp_path / "h"), check=True,
        )  # fmt: skip
        return run

    return init


@pytest.mark.parametrize("object_format", list(ObjectFormat))
def test_a_pack_holds_what_was_wanted_and_the_next_only_what_is_new(up, local, object_format):
    git = local(object_format)
    repo = up.create("acme/model", object_format=object_format)
    first = GitOid(repo.commit({"README": "hello", "big": os.urandom(300_000)}))
    tag = GitOid(repo.tag("v1", message="one"))
    with client(repo.url) as upstream:
        upstream.observe(USUAL)
        pack = b"".join(upstream.fetch(FetchRequest(object_format, [first, tag], [])))
        git("index-pack", "--stdin", "--fix-thin", data=pack)
        git("update-ref", "refs/heads/main", first)
        git("update-ref", "refs/tags/v1", tag)
        second = GitOid(repo.commit({"README": "hello again"}))
        thin = b"".join(upstream.fetch(FetchRequest(object_format, [second], [first])))
        git("index-pack", "--stdin", "--fix-thin", data=thin)
        git("update-ref", "refs/heads/main", second)
    assert len(thin) < 2000 < len(pack)
    git("fsck", "--full", "--strict")
    assert git("rev-list", "--count", "main") == "2"


def test_thousands_of_wants_travel_compressed(up, local):
    git = local()
    repo = up.create("acme/model")
    repo.commit({f"f{n}": f"content {n}" for n in range(3000)})
    blobs = [GitOid(line.split()[2]) for line in repo.git("ls-tree", "-r", "main").splitlines()]
    with client(repo.url) as upstream:
        git("index-pack", "--stdin", data=b"".join(upstream.fetch(FetchRequest(ObjectFormat.SHA1, blobs, []))))
    assert git("cat-file", "--batch-check", "--batch-all-objects").count("blob") == 3000
    (asked,) = up.seen(FETCH)
    assert asked.headers["content-encoding"] == "gzip"
    assert gzip.decompress(asked.body).count(b"want ") == 3000


def test_a_shallow_client_gets_the_rest_of_the_graph_and_nothing_twice(up, local):
    git = local()
    repo = up.create("acme/model")
    commits = [GitOid(repo.commit({"n": str(n), "big": os.urandom(2000)})) for n in range(6)]
    with client(repo.url) as upstream:
        half = FetchRequest(ObjectFormat.SHA1, commits[:3], [], filter="tree:0")
        git("index-pack", "--stdin", data=b"".join(upstream.fetch(half)))
        assert git("cat-file", "--batch-check", "--batch-all-objects").count("\n") == 2, "commits alone"
        # Of the upper half only the tip is here, so its parent is wanted, and what is below is named as had.
        rest = FetchRequest(
            ObjectFormat.SHA1, [commits[4]], [commits[2], commits[5]], shallow=[commits[5]], filter="tree:0", thin=False
        )
        pack = b"".join(upstream.fetch(rest))
    git("index-pack", "--stdin", data=pack)
    found = {line.split()[0] for line in git("cat-file", "--batch-check", "--batch-all-objects").splitlines()}
    assert found == set(commits[:5])


def test_a_fetch_has_a_connection_of_its_own(up):
    """What cuts a connection after so many bytes counts all that it carried."""
    repo = up.create("acme/model")
    tip = GitOid(repo.commit({"README": "hello"}))
    with client(repo.url) as upstream:
        for _ in range(2):
            upstream.observe(USUAL)
            list(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [tip], [])))
    fetches = [item for item in up.seen(FETCH) if b"command=fetch" in item.body]
    others = [item for item in up.seen() if item not in fetches]
    assert [len(fetches), len(others)] == [2, 3]
    assert len({item.peer for item in fetches}) == 2
    assert len({item.peer for item in others}) == 1
    assert {item.peer for item in fetches}.isdisjoint({item.peer for item in others})
    assert {item.headers["connection"] for item in fetches} == {"close"}


def test_the_next_fetch_finds_its_connection_open(up):
    repo = up.create("acme/model")
    tip = GitOid(repo.commit({"README": "hello"}))

    def opened(total: int) -> None:
        ends = time.monotonic() + 20
        while link.count().connections != total:
            assert time.monotonic() < ends, link.count()
            time.sleep(0.01)

    def ask(upstream, *, more):
        assert b"".join(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [tip], [], more=more)))

    with Link(up.port) as link, client(f"{link.origin}/{repo.name}") as upstream:
        upstream.observe(USUAL)
        seen = link.count().connections
        ask(upstream, more=True)
        opened(seen + 2)
        ask(upstream, more=False)
        opened(seen + 2)
        ask(upstream, more=True)
        opened(seen + 4)
        link.cut()
        ask(upstream, more=False)
        opened(seen + 5)


def test_a_pack_goes_on_when_the_next_connection_cannot_be_opened(up, tmp_path, monkeypatch):
    """Somebody replaces the file of authorities meanwhile."""
    repo = up.create("acme/model")
    tip = GitOid(repo.commit({"README": "hello"}))
    authorities = tmp_path / "authorities.pem"
    authorities.write_text("of no use to a connection without TLS")

    faults = up.take_fault

    def vanish(line: str) -> Fault | None:
        authorities.unlink()
        return faults(line)

    rule = replace(LOOPBACK, ca_file=str(authorities))
    with client(repo.url, rule=rule) as upstream:
        upstream.observe(USUAL)
        request = FetchRequest(ObjectFormat.SHA1, [tip], [], more=True)
        monkeypatch.setattr(up, "take_fault", vanish)
        assert b"".join(upstream.fetch(request))


def test_objects_by_their_ids_are_refused_where_only_tips_are_given(up):
    repo = up.create("acme/model")
    first, tip = (GitOid(repo.commit({"n": text})) for text in "ab")
    repo.any_object = False
    with client(repo.url) as upstream:
        assert b"".join(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [tip], [])))
        with pytest.raises(UpstreamLacks):
            list(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [tip, first], [])))


def test_a_request_that_is_too_long_is_declined(up, repo):
    up.fault(FETCH, status=413)
    with client(repo.url) as upstream, pytest.raises(UpstreamDeclined):
        list(upstream.fetch(request(repo)))


def test_the_abilities_of_an_old_server_are_few(up, repo):
    up.protocol = 0
    with client(repo.url) as upstream:
        able = upstream.abilities()
    assert (able.protocol, able.object_format, able.filters) == (0, ObjectFormat.SHA1, False)


def request(repo):
    return FetchRequest(ObjectFormat.SHA1, [GitOid(repo.refs()["refs/heads/main"])], [])


@pytest.fixture
def repo(up):
    repo = up.create("acme/model")
    repo.commit({"big": os.urandom(200_000)})
    return repo


@pytest.mark.parametrize("cut", [0, 3, 20, 5000, 150_000])
def test_a_broken_pack_raises_after_a_true_prefix(up, repo, cut):
    with client(repo.url) as upstream:
        whole = b"".join(upstream.fetch(request(repo)))
        up.fault(FETCH, cut_after=cut)
        came = b""
        with pytest.raises(UpstreamUnavailable):  # noqa: PT012 - the loop is the statement
            for piece in upstream.fetch(request(repo)):
                came += piece
        assert whole[: len(came)] == came
        assert b"".join(upstream.fetch(request(repo))) == whole, "the place and the connection are free again"


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ({"rewrite": lambda body: body[:-4]}, UpstreamUnavailable),
        ({"rewrite": lambda body: body + b"0000"}, UpstreamInvalid),
        ({"rewrite": lambda body: b"<html>login</html>"}, UpstreamInvalid),
        ({"rewrite": lambda body: b""}, UpstreamUnavailable),
        ({"rewrite": lambda body: body.replace(b"PACK", b"JUNK", 1)}, UpstreamInvalid),
        ({"rewrite": lambda body: b"000dpackfile\n" + b"000a\x03died\n"}, UpstreamDeclined),
        ({"headers": {"Content-Type": "text/html"}}, UpstreamInvalid),
        ({"status": 500}, UpstreamUnavailable),
        ({"status": 401}, UpstreamRefused),
        ({"status": 429, "headers": {"Retry-After": "7"}}, RateLimited),
        ({"redirect": "http://127.0.0.2:1/x", "status": 307}, UpstreamInvalid),
    ],
)
def test_an_answer_that_is_no_pack_raises(up, repo, what, kind):
    up.fault(FETCH, **what)
    with client(repo.url) as upstream, pytest.raises(kind):
        list(upstream.fetch(request(repo)))


def test_a_pack_that_stalls_ends(up, repo):
    up.fault(FETCH, pause_after=(5000, 5.0))
    rule = Access(allow_http=True, allow_private=True, stall_timeout=0.3)
    with client(repo.url, rule=rule) as upstream, pytest.raises(UpstreamStalled):
        list(upstream.fetch(request(repo)))


def test_a_pack_may_be_left_half_read(up, repo):
    with client(repo.url, rule=Access(allow_http=True, allow_private=True, concurrency=1)) as upstream:
        for _ in range(3):
            stream = upstream.fetch(request(repo))
            next(stream)
            stream.close()


def test_an_object_that_is_not_there_is_told(up, repo):
    with client(repo.url) as upstream, pytest.raises(UpstreamUnavailable) as caught:
        list(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [GitOid("1" * 40)], [])))
    assert caught.value.code == "MS-U409"


def test_what_cannot_be_asked_is_not(up, repo):
    with client(repo.url) as upstream, pytest.raises(UsageError):
        list(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [], [])))
    up.protocol = 0
    with client(repo.url) as upstream, pytest.raises(UsageError, match="stock git"):
        list(upstream.fetch(request(repo)))


# ---------------------------------------------------------------- stock git for v0


def git_fetch(tmp_path, access, *refspecs):
    environment = isolated_git_environment(tmp_path / "h") | dict(access.environment)
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "v0.git")], env=environment, check=True)
    return subprocess.run(
        ["git", "-C", str(tmp_path / "v0.git"), "fetch", "--no-tags", "--", access.url, *refspecs],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_stock_git_reaches_an_old_upstream_with_our_credential(up, repo, tmp_path):
    up.protocol = 0
    repo.token = "canary"
    rule = Access(allow_http=True, allow_private=True, token=lambda: "canary")
    with client(repo.url, rule=rule) as upstream:
        assert upstream.observe(USUAL).protocol == 0
        access = upstream.git_access()
    assert "canary" not in repr(access)
    done = git_fetch(tmp_path, access, "refs/heads/main:refs/heads/main")
    assert done.returncode == 0, done.stderr


def test_stock_git_is_pinned_to_the_checked_address(up, repo, tmp_path):
    """The name resolves nowhere but in our own resolver, so only the pin can lead there."""
    up.protocol = 0
    with client(f"http://git.invalid:{up.port}/acme/model", lookup=lambda *_: ["127.0.0.1"]) as upstream:
        access = upstream.git_access()
    assert access.url.startswith("http://git.invalid:")
    done = git_fetch(tmp_path, access, "refs/heads/main:refs/heads/main")
    assert done.returncode == 0, done.stderr


def test_stock_git_follows_no_redirect_and_carries_no_token_away(up, other, repo, tmp_path):
    up.protocol = 0
    rule = Access(allow_http=True, allow_private=True, token=lambda: "canary")
    with client(repo.url, rule=rule) as upstream:
        access = upstream.git_access()
    up.fault("GET", times=None, status=302, redirect=f"{other.origin}/acme/model/info/refs?service=git-upload-pack")
    assert git_fetch(tmp_path, access, "refs/heads/main").returncode != 0
    assert other.seen() == []
