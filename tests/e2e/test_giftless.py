"""From one command to served pushes: git and an LFS server that nobody here wrote, the daemon from ``scripts/run``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import assert_same_files, assert_same_refs, git_output, objects_of, refs_of, upstream_refs
from tests.support.daemon import Daemon
from tests.support.giftless_upstream import giftless_upstream
from tests.support.tools import require
from tests.support.upstream import GitUpstream, UpstreamRepo

ROOT = Path(__file__).resolve().parents[2]
SERVED_WITHIN_SECONDS = 20.0


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """``scripts/run`` uses the environment of the tests instead of making another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRROR_SYNC_VENV", sys.prefix)
        yield


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitUpstream]:
    require("git-lfs")
    with giftless_upstream(tmp_path_factory.mktemp("giftless")) as upstream:
        make_model(upstream)
        make_data(upstream)
        make_code(upstream)
        yield upstream


def make_model(upstream: GitUpstream) -> None:
    """Large and small LFS objects, several versions, branches that differ in them."""
    repo = upstream.create("acme/model")
    repo.commit(
        {"README.md": "a model\n"}, lfs={"weights/a.bin": os.urandom(6_000_000), "weights/b.bin": b"b" * 70_000}
    )
    repo.tag("v1", message="first release")
    repo.commit({"config.json": "{}"}, lfs={"weights/a.bin": os.urandom(5_000_000)})
    repo.commit({"dev.md": "x"}, branch="dev", start="main", lfs={"dev.bin": os.urandom(50_000)})
    repo.commit({"old.md": "x"}, branch="old", start="main~1")
    repo.tag("light")


def make_data(upstream: GitUpstream) -> None:
    """Many objects: more than one batch."""
    repo = upstream.create("acme/data")
    repo.commit({}, lfs={f"shards/{number:03}.parquet": os.urandom(1000 + number) for number in range(230)})
    repo.git("notes", "add", "-m", "checked", "main")


def make_code(upstream: GitUpstream) -> None:
    """No LFS at all, and another default branch."""
    repo = upstream.create("tools/code", branch="trunk")
    for number in range(30):
        repo.commit({f"src/{number}.py": f"print({number})\n", "same": "same"}, branch="trunk")


@pytest.fixture(scope="module")
def daemon(upstream: GitUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("giftless-mirror") / "mirror"
    with Daemon(directory, command=["sh", str(ROOT / "scripts" / "run")]) as daemon:
        daemon.start(*(repo.url for repo in upstream.repos.values()))
        for repo in upstream.repos.values():
            daemon.published(daemon.name(repo.url))
        yield daemon


def push(daemon: Daemon, repo: UpstreamRepo, ref: str) -> None:
    """Tell the daemon of a push as GitHub does, and wait until everything is served."""
    zero = "0" * 40
    after = repo.refs().get(ref, zero)
    payload = {
        "ref": ref,
        "before": zero,
        "after": after,
        "deleted": after == zero,
        "repository": {
            "id": 1 + list(repo.upstream.repos).index(repo.name),
            "full_name": repo.name,
            "clone_url": repo.url,
        },
    }
    assert daemon.hook("push", payload) == 202
    name = daemon.name(repo.url)
    daemon.wait_until(
        lambda: daemon.refs(name) == upstream_refs(repo), f"{ref} is served", seconds=SERVED_WITHIN_SECONDS
    )


def assert_mirrored(daemon: Daemon, repo: UpstreamRepo, into: Path) -> None:
    """Every ref, every object, and every file of every branch and tag with its LFS objects."""
    name = daemon.name(repo.url)
    daemon.wait_until(lambda: daemon.show(name)["lfs"]["missing"] == 0, "what only history needs arrived too")
    assert_same_refs(daemon.refs(name), repo)
    copy = into / "copy"
    daemon.git("clone", "-q", "--mirror", daemon.url(name), str(copy))
    assert_same_refs(refs_of(copy), repo)
    assert objects_of(copy) == objects_of(repo.path)
    git_output(copy, "fsck", "--full", "--strict")
    work = daemon.clone(name, into / "work")
    assert git_output(work, "symbolic-ref", "HEAD").decode().strip() == repo.head()
    for ref, oid in upstream_refs(repo).items():
        if ref.startswith("refs/notes/"):
            continue
        git_output(work, "checkout", "-q", "--detach", oid + "^{commit}")
        assert_same_files(work, repo, repo.git("rev-parse", oid + "^{commit}"))


@pytest.mark.parametrize("name", ["acme/model", "acme/data", "tools/code"])
def test_what_was_there_is_mirrored(upstream: GitUpstream, daemon: Daemon, tmp_path: Path, name: str) -> None:
    repo = upstream.repos[name]
    daemon.tells(f"git clone {daemon.url(daemon.name(repo.url))}\n")
    assert daemon.show(daemon.name(repo.url))["health"] == "fresh"
    assert_mirrored(daemon, repo, tmp_path)


def test_pushes_of_every_kind_are_served_after_the_webhook(
    upstream: GitUpstream, daemon: Daemon, tmp_path: Path
) -> None:
    repo = upstream.repos["acme/model"]
    name = daemon.name(repo.url)
    repo.commit({"README.md": "newer\n"}, lfs={"weights/c.bin": os.urandom(2_000_000)})
    push(daemon, repo, "refs/heads/main")
    daemon.ended(name, trigger="webhook")
    rewritten = repo.refs()["refs/heads/dev"]
    repo.force({"dev.md": "rewritten"}, branch="dev")
    push(daemon, repo, "refs/heads/dev")
    deleted = repo.refs()["refs/heads/old"]
    repo.delete("refs/heads/old")
    push(daemon, repo, "refs/heads/old")
    repo.commit({"f": "1"}, branch="feature/x", start="main", lfs={"x.bin": b"x" * 9000, "weights/a.bin": b"replaced"})
    push(daemon, repo, "refs/heads/feature/x")
    repo.tag("v2", message="second")
    push(daemon, repo, "refs/tags/v2")
    repo.delete("refs/tags/light")
    push(daemon, repo, "refs/tags/light")
    repo.commit({}, branch="merged", start="main", merge="feature/x")
    push(daemon, repo, "refs/heads/merged")
    assert_mirrored(daemon, repo, tmp_path)
    kept = daemon.cli("refs", "kept", name, "--json").stdout
    assert rewritten in kept
    assert deleted in kept
    other = daemon.clone(name, tmp_path / "by-id", "--no-checkout")
    git_output(other, "fetch", "-q", "origin", rewritten)
    git_output(other, "checkout", "-q", rewritten)
    assert_same_files(other, repo, rewritten)


def test_a_clone_follows_what_is_pushed(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = upstream.repos["tools/code"]
    name = daemon.name(repo.url)
    work = daemon.clone(name, tmp_path / "work")
    for number in range(3):
        tip = repo.commit({f"new/{number}.py": "x"}, branch="trunk", lfs={f"{number}.bin": os.urandom(10_000)})
        push(daemon, repo, "refs/heads/trunk")
        git_output(work, "pull", "-q")
        assert_same_files(work, repo, tip)
    repo.force({"README": "all new\n"}, branch="main")
    repo.set_head("refs/heads/main")
    push(daemon, repo, "refs/heads/main")
    repo.delete("refs/heads/trunk")
    push(daemon, repo, "refs/heads/trunk")
    assert_mirrored(daemon, repo, tmp_path / "again")


def test_a_push_with_git_and_git_lfs_upstream_arrives(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    """The whole way with tools of others: git-lfs uploads to giftless, git pushes, the mirror serves both."""
    repo = upstream.repos["acme/data"]
    name = daemon.name(repo.url)
    work = daemon.clone(name, tmp_path / "work")
    git_output(work, "lfs", "install", "--local")
    git_output(work, "remote", "set-url", "origin", repo.url)
    content = os.urandom(300_000)
    (work / "shards/pushed.parquet").write_bytes(content)
    git_output(work, "add", ".")
    git_output(work, "commit", "-qm", "by a person")
    git_output(work, "push", "-q", "origin", "main")
    push(daemon, repo, "refs/heads/main")
    again = daemon.clone(name, tmp_path / "again")
    assert (again / "shards/pushed.parquet").read_bytes() == content
    assert_same_files(again, repo, repo.refs()["refs/heads/main"])
