"""LFS objects that clients ask for before their turn: one upstream download, right bytes or none."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import require
from tests.support.upstream import GitUpstream, UpstreamRepo

MIB = 1 << 20
LARGE = 64 * MIB
CLIENTS = 50


@dataclass
class Site:
    upstream: GitUpstream
    repo: UpstreamRepo
    daemon: Daemon
    name: str
    objects: dict[str, tuple[str, int]]

    def path(self, which: str) -> str:
        return f"/{self.name}.git/info/lfs/objects/{self.objects[which][0]}"

    def worker_pid(self) -> int:
        for pid in self.daemon.family():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"worker" in words:
                return pid
        raise AssertionError("no worker")


def failures(daemon: Daemon) -> int:
    """How many objects the queue failed to bring; it tries them again in an hour."""
    with contextlib.closing(sqlite3.connect(next(daemon.directory.rglob("state.db")))) as state:
        return int(state.execute("SELECT count(*) FROM mirror_lfs WHERE status <> 0 AND code <> ''").fetchone()[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A mirror whose history has objects that upstream failed to give when it was filled."""
    base = tmp_path_factory.mktemp("pulling")
    contents = {
        "asked.bin": os.urandom(LARGE),
        "killed.bin": os.urandom(24 * MIB),
        "checkout.bin": os.urandom(3 * MIB),
        "refused.bin": b"refused" * 1000,
        "lied.bin": os.urandom(8 * MIB),
    }
    with GitUpstream(base / "upstream") as upstream, Daemon(base / "mirror") as daemon:
        repo = upstream.create("acme/model")
        repo.commit({}, lfs=contents)
        repo.commit(dict.fromkeys(contents) | {"README.md": "without them\n"}, lfs={"now.bin": b"small"})
        objects = {}
        for path, data in contents.items():
            oid = hashlib.sha256(data).hexdigest()
            objects[path] = (oid, len(data))
            repo.lfs.errors[oid] = (422, "not today")
        daemon.start(repo.url)
        name = daemon.name(repo.url)
        daemon.published(name)
        daemon.wait_until(lambda: failures(daemon) == len(objects), "the queue has tried them in vain")
        repo.lfs.errors.clear()
        upstream.forget()
        yield Site(upstream, repo, daemon, name, objects)


def fetched(site: Site, path: str, number: int = 1) -> tuple[int, int, str]:
    """Return the status, how many bytes came and their SHA-256; raises when the answer is not whole."""
    # from many addresses: no single client may take every place
    connection = http.client.HTTPConnection(
        "127.0.0.1", site.daemon.port, timeout=60, source_address=(f"127.0.0.{number % 10 + 1}", 0)
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        digest, size = hashlib.sha256(), 0
        while data := answer.read1(MIB):
            digest.update(data)
            size += len(data)
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return answer.status, size, digest.hexdigest()
    finally:
        connection.close()


def test_fifty_clients_cost_upstream_one_download(site: Site) -> None:
    oid, size = site.objects["asked.bin"]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda number: fetched(site, site.path("asked.bin"), number), range(CLIENTS)))
    assert set(answers) == {(200, size, oid)}
    batches = [one for one in site.upstream.seen("objects/batch") if oid in one.body.decode()]
    assert len(batches) == 1
    starts = [one.headers.get("range", "bytes=0-") for one in site.upstream.seen(f"GET .*{oid}")]
    assert len(starts) == len(set(starts)), "no part was asked for twice"
    assert fetched(site, site.path("asked.bin")) == (200, size, oid)
    assert len(site.upstream.seen(f"GET .*{oid}")) == len(starts)


def test_a_killed_worker_leaves_clients_with_right_bytes_or_a_broken_answer(site: Site) -> None:
    oid, size = site.objects["killed.bin"]
    slow = site.upstream.fault(f"GET .*{oid}", times=None, drip=(16 << 10, 0.2))
    path = site.path("killed.bin")
    results: list[tuple[int, int, str] | str] = []

    def client() -> None:
        try:
            results.append(fetched(site, path))
        except (http.client.HTTPException, OSError) as error:
            results.append(type(error).__name__)

    clients = [threading.Thread(target=client) for _ in range(5)]
    for thread in clients:
        thread.start()
    store = site.daemon.directory
    journal = next(iter(store.rglob("incomplete"))) / f"{oid}.parts"
    site.daemon.wait_until(journal.exists, "some of it is here")
    os.kill(site.worker_pid(), signal.SIGKILL)
    slow.times = 0
    for thread in clients:
        thread.join(90)
    assert all(result == (200, size, oid) or isinstance(result, str) for result in results)
    assert len(results) == 5
    # They need not even have noticed: the next worker goes on.
    assert (200, size, oid) in results


def test_a_wrong_last_byte_fails_every_transfer(site: Site) -> None:
    oid, _size = site.objects["lied.bin"]
    data = (site.repo.lfs.directory / oid).read_bytes()
    site.repo.lfs.replace(oid, data[:-1] + bytes([data[-1] ^ 1]))

    def client(number: int) -> str:
        try:
            return str(fetched(site, site.path("lied.bin"), number)[0])
        except http.client.IncompleteRead:
            return "broken off"

    with ThreadPoolExecutor(5) as pool:
        answers = set(pool.map(client, range(5)))
    # before the first byte it is said, after it the answer ends short of its length
    assert answers <= {"broken off", "429", "503"}
    status, body, _ = site.daemon.get(site.path("lied.bin"))
    assert status == 404
    assert b"MS-L422" in body


def test_git_lfs_checks_out_what_is_not_here_yet(site: Site, tmp_path: Path) -> None:
    require("git-lfs")
    oid, size = site.objects["checkout.bin"]
    work = site.daemon.clone(site.name, tmp_path / "work")
    site.daemon.git("lfs", "install", "--local", cwd=work)
    site.daemon.git("lfs", "fetch", "origin", "HEAD~1", "--include=checkout.bin", cwd=work)
    here = work / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
    assert here.stat().st_size == size


def test_what_upstream_does_not_give_is_said_and_not_asked_for_again_at_once(site: Site) -> None:
    oid, _size = site.objects["refused.bin"]
    site.repo.lfs.errors[oid] = (422, "not today")
    site.upstream.forget()
    for _ in range(3):
        status, body, _ = site.daemon.get(site.path("refused.bin"))
        assert status in (404, 503)
        assert b"not today" in body
    assert len([one for one in site.upstream.seen("objects/batch") if oid in one.body.decode()]) == 1
