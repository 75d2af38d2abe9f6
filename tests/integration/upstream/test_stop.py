"""Whoever is to stop waits for no upstream, however long that may be silent: here an hour."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import UpstreamUnavailable
from mirror_sync.ports import FetchRequest, Upstream
from mirror_sync.upstream import Access
from mirror_sync.upstream.connections import STOPPING
from tests.support.upstream import GitUpstream, UpstreamRepo
from tests.support.upstream_client import client

HOUR = 3600.0
USUAL = ["refs/heads/*"]
LARGE = bytes(range(256)) * 4096


@pytest.fixture
def repo(up: GitUpstream) -> UpstreamRepo:
    repo = up.create("acme/model")
    repo.commit({"README": "hello"}, lfs={"weights.bin": LARGE})
    return repo


def observe(upstream: Upstream, _: UpstreamRepo) -> object:
    return upstream.observe(USUAL)


def fetch(upstream: Upstream, repo: UpstreamRepo) -> object:
    return b"".join(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [GitOid(repo.refs()["refs/heads/main"])], ())))


def batch(upstream: Upstream, repo: UpstreamRepo) -> list[Any]:
    return upstream.batch([pointer_of(repo)])


def download(upstream: Upstream, repo: UpstreamRepo) -> object:
    (answer,) = batch(upstream, repo)
    body = upstream.open_object(answer.pointer, answer.action, start=0, end=answer.pointer.size)
    return b"".join(body.chunks())


def pointer_of(repo: UpstreamRepo) -> Pointer:
    (oid,) = repo.lfs.oids()
    return Pointer(LfsOid(oid), len(LARGE))


def stopped(asks: Callable[[], object], *, waits: Callable[[], bool], stop: threading.Event) -> UpstreamUnavailable:
    """Return what is heard by somebody who ``waits`` and is then to stop."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(asks)
        while not waits():
            assert not asked.done() or asked.result()
            time.sleep(0.01)
        stop.set()
        heard = asked.exception(timeout=60)
    assert isinstance(heard, UpstreamUnavailable)
    return heard


@pytest.mark.parametrize("silence", [{"hang": HOUR}, {"pause_after": (5, HOUR)}], ids=["head", "body"])
@pytest.mark.parametrize(
    ("asks", "at"),
    [
        (observe, "GET .*info/refs"),
        (observe, "POST .*git-upload-pack"),
        (fetch, "POST .*git-upload-pack"),
        (batch, "POST .*objects/batch"),
        (download, "GET /-/lfs/"),
    ],
    ids=["capabilities", "refs", "fetch", "batch", "download"],
)
def test_a_silent_server_is_left_at_once(
    up: GitUpstream, repo: UpstreamRepo, asks: Callable[[Upstream, UpstreamRepo], object], at: str, silence: Any
) -> None:
    fault = up.fault(at, times=None, **silence)
    stop = threading.Event()
    with client(repo.url, rule=patient(stop)) as upstream:
        stopped(lambda: asks(upstream, repo), waits=lambda: fault.hits > 0, stop=stop)
        before = len(up.seen())
        with pytest.raises(UpstreamUnavailable, match=STOPPING):
            asks(upstream, repo)
        assert len(up.seen()) == before, "nothing more is asked"


@pytest.fixture
def hole() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_handshake_that_nobody_answers_is_left_at_once(hole: socket.socket) -> None:
    stop, taken = threading.Event(), []

    def waits() -> bool:
        taken.append(hole.accept())
        return True

    with client(f"https://127.0.0.1:{hole.getsockname()[1]}/a", rule=patient(stop)) as upstream:
        heard = stopped(lambda: upstream.observe(USUAL), waits=waits, stop=stop)
    assert heard.why == STOPPING
    for connection, _ in taken:
        connection.close()


def test_what_has_ended_is_not_broken_off(up: GitUpstream, repo: UpstreamRepo) -> None:
    stop = threading.Event()
    with client(repo.url) as other, client(repo.url, rule=patient(stop)) as upstream:
        first = upstream.observe(USUAL)
        stop.set()
        second = other.observe(USUAL)
        assert first is not None
        assert second is not None
        assert first.snapshot == second.snapshot


def patient(stop: threading.Event) -> Access:
    return Access(allow_http=True, allow_private=True, stall_timeout=HOUR, stop=stop)
