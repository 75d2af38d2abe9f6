"""The daemon on Postgres: one machine's whole job, and workers that share the mirrors."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compare import assert_same_files, assert_same_refs, upstream_refs
from tests.support.daemon import Daemon
from tests.support.postgres import Database, new_database
from tests.support.upstream import GitUpstream, UpstreamRepo

LEASE_SECONDS = 6
SECRET = "a-secret-of-twenty-bytes"


class Fleet(Daemon):
    """Processes of one configuration, each with a log of its own."""

    def __init__(self, directory: Path, database: Database, upstream: GitUpstream) -> None:
        super().__init__(directory)
        directory.mkdir()
        (directory / "webhook-secret").write_text(SECRET)
        (directory / "webhook-secret").chmod(0o600)
        password = ""
        if database.secret is not None:
            (directory / "password").write_text(database.secret)
            (directory / "password").chmod(0o600)
            password = f'password_file = "{directory}/password"'
        (directory / "config.toml").write_text(
            f"""
[server]
listen = "127.0.0.1:{self.port}"
[database]
url = "{database.url}"
{password}
[storage]
git_dir = "{directory}/git"
lfs_dir = "{directory}/lfs"
run_dir = "{directory}/run"
[workers]
git = 3
lease = "{LEASE_SECONDS}s"
[webhooks]
secret_file = "{directory}/webhook-secret"
[upstream."127.0.0.1:{upstream.port}"]
allow_http = true
allow_private = true
[log]
level = "debug"
format = "json"
"""
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        made = self.cli("db", "upgrade")
        assert made.returncode == 0, made.stderr

    def serve(self, role: str, *, label: str = "") -> None:
        """Start a process of a role."""
        label = label or role
        with (self.directory / f"{label}.log").open("ab") as log:
            self.processes[label] = subprocess.Popen(
                [sys.executable, "-m", "mirror_sync", "--dir", str(self.directory), "serve", "--role", role],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> None:
        """Wait until the web answers and sees a living worker."""
        self.wait_until(lambda: self.get("/readyz")[0] == 200, "ready")

    def events(self, label: str, name: str) -> list[dict[str, Any]]:
        """Return the logged events of this name of one process."""
        lines = (self.directory / f"{label}.log").read_text().splitlines()
        found = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
        return [event for event in found if event["event"] == name]

    def output(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.directory.glob("*.log")
        )

    def stop(self, label: str, number: signal.Signals = signal.SIGTERM) -> int:
        process = self.processes.pop(label)
        process.send_signal(number)
        return process.wait(timeout=60)

    def kill(self) -> None:
        for label, process in self.processes.items():
            self.process = process
            super().kill()
            assert self.process is None, label
        self.processes.clear()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "upstream") as server:
        yield server


@pytest.fixture
def database() -> Database:
    return new_database()


@pytest.fixture
def fleet(tmp_path: Path, upstream: GitUpstream, database: Database) -> Iterator[Fleet]:
    with Fleet(tmp_path / "mirror", database, upstream) as made:
        yield made


def push_payload(repo: UpstreamRepo) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "after": repo.refs()["refs/heads/main"],
        "repository": {
            "id": 1 + list(repo.upstream.repos).index(repo.name),
            "full_name": repo.name,
            "clone_url": repo.url,
        },
    }


def test_the_main_job_on_postgres(upstream: GitUpstream, fleet: Fleet, database: Database, tmp_path: Path) -> None:
    repo = upstream.create("acme/model")
    repo.commit({"README.md": "x"}, lfs={"w.bin": os.urandom(100_000)})
    repo.tag("v1", message="one")
    fleet.serve("all")
    fleet.ready()
    assert fleet.cli("add", repo.url).returncode == 0
    name = fleet.name(repo.url)
    fleet.published(name)
    assert_same_refs(fleet.refs(name), repo)
    assert_same_files(fleet.clone(name, tmp_path / "first"), repo, repo.refs()["refs/heads/main"])

    repo.force({"README.md": "rewritten"})
    assert fleet.sync(name) == 0
    assert_same_refs(fleet.refs(name), repo)

    waits: list[float] = []
    for number in range(5):
        time.sleep(0.3 * number % 1)  # anywhere between two looks
        repo.commit({"n": str(number)}, lfs={"w.bin": os.urandom(1000 + number)})
        upstream.forget()
        began = time.monotonic()
        assert fleet.hook("push", push_payload(repo)) == 202
        fleet.wait_until(lambda: fleet.refs(name) == upstream_refs(repo), "the push is served", seconds=20)
        waits.append(upstream.seen("git-upload-pack")[0].at - began)
    fleet.ended(name, trigger="webhook")
    with database.connect() as connection:
        listening = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
        ).fetchone()
    assert listening == (1,)
    assert statistics.median(waits) < 0.5, f"a look a second takes half a second on average: {waits}"

    assert fleet.stop("all") == 0
    fleet.serve("all")
    fleet.ready()
    assert fleet.show(name)["health"] == "fresh"
    assert_same_files(fleet.clone(name, tmp_path / "last"), repo, repo.refs()["refs/heads/main"])
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM intents").fetchone() == (0,)


def test_workers_share_mirrors_and_never_sync_one_twice(upstream: GitUpstream, fleet: Fleet, tmp_path: Path) -> None:
    repos = [upstream.create(f"acme/m{number}") for number in range(6)]
    guard = threading.Lock()
    busy: dict[str, int] = defaultdict(int)
    together: list[str] = []

    def slowly(name: str) -> Any:
        def rewrite(body: bytes) -> bytes:
            with guard:
                busy[name] += 1
                if busy[name] > 1:
                    together.append(name)
            time.sleep(0.15)
            with guard:
                busy[name] -= 1
            return body

        return rewrite

    for repo in repos:
        repo.commit({"README.md": repo.name}, lfs={"w.bin": repo.name.encode() * 100})
        upstream.fault(f"POST /{repo.name}.*git-upload-pack", times=None, rewrite=slowly(repo.name))
    fleet.serve("web")
    fleet.serve("worker", label="one")
    fleet.serve("worker", label="two")
    fleet.ready()
    assert fleet.cli("add", *(repo.url for repo in repos)).returncode == 0
    for repo in repos:
        fleet.published(fleet.name(repo.url))
    for number in range(4):
        for repo in repos:
            repo.commit({"n": str(number)}, lfs={"w.bin": f"{repo.name} {number}".encode() * 100})
        for repo in [*repos, *repos, *repos]:  # while they are synced as well
            assert fleet.hook("push", push_payload(repo)) == 202
    for repo in repos:
        fleet.wait_until(
            lambda repo=repo: fleet.refs(fleet.name(repo.url)) == upstream_refs(repo), f"{repo.name} is served"
        )
    assert together == []
    began = {label: fleet.events(label, "run_started") for label in ("one", "two")}
    assert all(began.values()), "both work"
    taken = [(event["mirror"], event["fence"]) for events in began.values() for event in events]
    assert len(taken) == len(set(taken)), "no fence is given twice"
    for label in ("one", "two"):
        assert [event for event in fleet.events(label, "run_finished") if event["outcome"] == "failed"] == []


def test_a_worker_takes_over_what_a_killed_one_left(upstream: GitUpstream, fleet: Fleet, tmp_path: Path) -> None:
    repo = upstream.create("acme/model")
    repo.commit({"README.md": "x"}, lfs={"w.bin": os.urandom(3_000_000)})
    slow = upstream.fault("GET /-/lfs/", times=None, drip=(400, 0.1))
    fleet.serve("web")
    fleet.serve("worker", label="one")
    fleet.ready()
    assert fleet.cli("add", repo.url).returncode == 0
    name = fleet.name(repo.url)
    fleet.wait_until(lambda: slow.hits, "the object is on its way")
    fleet.serve("worker", label="two")
    fleet.wait_until(lambda: json.loads(fleet.cli("status", "--json").stdout)["workers_alive"] == 2, "two workers live")
    killed = time.monotonic()
    fleet.stop("one", signal.SIGKILL)
    upstream.heal()
    fleet.published(name)
    assert time.monotonic() - killed < 4 * LEASE_SECONDS
    (first,) = fleet.events("one", "run_started")
    (second,) = fleet.events("two", "run_started")
    assert second["fence"] > first["fence"]
    assert_same_files(fleet.clone(name, tmp_path / "work"), repo, repo.refs()["refs/heads/main"])
