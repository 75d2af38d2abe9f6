"""A large object on a slow line keeps nobody waiting: neither its own mirror's next push nor another mirror."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compare import git_output
from tests.support.daemon import Daemon
from tests.support.upstream import GitUpstream, UpstreamRepo

LARGE = random.Random(7).randbytes(64 << 20)
SLOW = (32 << 10, 1.0)
"""So slow that the large object takes minutes over all connections together."""


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "upstream") as upstream:
        yield upstream


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that syncs one mirror at a time."""
    monkeypatch.setenv("MIRROR_SYNC__WORKERS__GIT", "1")
    with Daemon(tmp_path / "mirror") as daemon:
        yield daemon


def push(daemon: Daemon, repo: UpstreamRepo) -> None:
    payload = {"ref": "refs/heads/main", "repository": {"full_name": repo.name, "clone_url": repo.url}}
    assert daemon.hook("push", payload) == 202


def serves(daemon: Daemon, repo: UpstreamRepo, branch: str, tip: str, *, seconds: float = 60.0) -> None:
    daemon.wait_until(
        lambda: daemon.refs(daemon.name(repo.url)).get(f"refs/heads/{branch}") == tip,
        f"{repo.name} serves {branch}",
        seconds=seconds,
    )


def begin_large(daemon: Daemon, upstream: GitUpstream, repo: UpstreamRepo) -> str:
    """Push a branch that needs the large object and wait until some of that has come; return its tip."""
    upstream.fault("GET /-/lfs/", times=None, drip=SLOW)
    tip = repo.commit({}, branch="large", start="main", lfs={"large.bin": LARGE})
    push(daemon, repo)
    daemon.wait_until(
        lambda: ((daemon.show(daemon.name(repo.url))["progress"] or {}).get("received_bytes") or 0) > 0,
        "some of the large object has come",
    )
    return tip


def finish_large(daemon: Daemon, upstream: GitUpstream, repo: UpstreamRepo, tip: str, into: Path) -> None:
    """Make the line fast; the rest comes, the ref is served without anybody asking, and a clone has the bytes."""
    name = daemon.name(repo.url)
    assert "refs/heads/large" not in daemon.refs(name)
    assert daemon.show(name)["lfs"]["present"] == 0
    upstream.stop()
    upstream.heal()
    upstream.start()
    serves(daemon, repo, "large", tip, seconds=120.0)
    work = daemon.clone(name, into, "--branch", "large")
    assert (work / "large.bin").read_bytes() == LARGE
    shown: dict[str, Any] = daemon.wait_until(
        lambda: (document := daemon.show(name))["refs"]["held"] == 0 and document, "nothing is held"
    )
    assert shown["lfs"] | {"present": 1, "missing": 0, "left_out": 0} == shown["lfs"]


def test_a_small_push_is_served_while_a_large_object_is_on_its_way(
    daemon: Daemon, upstream: GitUpstream, tmp_path: Path
) -> None:
    repo = upstream.create("acme/model")
    repo.commit({"README": "one\n"})
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    large = begin_large(daemon, upstream, repo)
    for number in range(2):
        small = repo.commit({"README": f"more {number}\n"})
        push(daemon, repo)
        serves(daemon, repo, "main", small)
        held = daemon.wait_until(lambda: daemon.show(name)["holds"], "the large one is held")
        assert [(hold["ref"], hold["code"]) for hold in held] == [("refs/heads/large", "MS-H007")]
    assert "fetched behind: 1 LFS object of 64.0 MiB" in daemon.cli("why", name).stdout
    assert daemon.show(name)["failures"] == 0
    finish_large(daemon, upstream, repo, large, tmp_path / "work")


def test_another_mirror_is_served_while_a_large_object_has_the_only_place(
    daemon: Daemon, upstream: GitUpstream, tmp_path: Path
) -> None:
    repo, other = upstream.create("acme/model"), upstream.create("acme/app")
    repo.commit({"README": "one\n"})
    other.commit({"README": "one\n"})
    daemon.start(repo.url, other.url)
    for each in (repo, other):
        daemon.published(daemon.name(each.url))
    large = begin_large(daemon, upstream, repo)
    small = other.commit({"README": "two\n"})
    push(daemon, other)
    serves(daemon, other, "main", small)
    finish_large(daemon, upstream, repo, large, tmp_path / "work")


def test_what_a_mirror_leaves_out_is_said_to_clients_and_the_rest_is_served(
    daemon: Daemon, upstream: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR_SYNC__LFS__EXCLUDE", "*.ckpt, /old/")
    repo = upstream.create("acme/model")
    repo.commit({}, lfs={"old/was.bin": b"was" * 100})
    tip = repo.commit(
        {"old/was.bin": None}, lfs={"model.bin": b"kept" * 100, "step.ckpt": b"out" * 100, "d/s.ckpt": b"o" * 999}
    )
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    document = daemon.published(name)
    assert daemon.refs(name)["refs/heads/main"] == tip
    assert document["lfs"]["left_out"] == 3
    assert document["lfs"]["missing"] == 0
    assert document["health"] == "fresh"
    work = daemon.clone(name, tmp_path / "work", "-c", "lfs.fetchexclude=*.ckpt")
    assert (work / "model.bin").read_bytes() == b"kept" * 100
    assert git_output(work, "ls-files", "d/s.ckpt")
    refused = daemon.git("clone", "-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true",
                         daemon.url(name), str(tmp_path / "all"), check=False)  # fmt: skip
    assert refused.returncode != 0
    assert "this mirror leaves the object out: it lies at no path that this mirror keeps" in refused.stderr
    command = [sys.executable, "-m", "mirror_sync", "clone", daemon.url(name), str(tmp_path / "ours")]
    ours = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ours.returncode == 3
    told = [line for line in ours.stderr.splitlines() if line.startswith("missing: ")]
    left_out = "this mirror leaves the object out: it lies at no path that this mirror keeps"
    assert told == [
        f"missing: {path}: left as a pointer: {daemon.origin.removeprefix('http://')} does not give it: {left_out}; "
        f"upstream may have it: {repo.url}"
        for path in ("d/s.ckpt", "step.ckpt")
    ]
    assert len(upstream.seen("GET /-/lfs/")) == 1
