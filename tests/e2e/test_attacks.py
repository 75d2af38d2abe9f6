"""Hostile upstreams, clients and visitors against the running daemon: what they must not be able to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.upstream import GitUpstream, UpstreamRepo, pointer_text

NO_SUCH_OBJECT = "ab" * 32


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "upstream") as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "mirror") as made:
        yield made


def tree_commit(repo: UpstreamRepo, *entries: tuple[str, str, bytes | str]) -> str:
    """Commit one tree of ``(mode, name, blob content)``, with modes that a checkout on disk would not make."""
    lines = []
    for mode, name, content in entries:
        blob = repo.git("hash-object", "-w", "--stdin", data=content)
        lines.append(f"{mode} blob {blob}\t{name}\n")
    tree = repo.git("mktree", data="".join(sorted(lines, key=lambda line: line.split("\t")[1])))
    return repo.git("commit-tree", "-m", "made by hand", tree)


def test_a_symlink_for_attributes_hides_no_need(upstream: GitUpstream, daemon: Daemon) -> None:
    repo = upstream.create("evil/attributes")
    repo.commit({"README": "x"})
    tip = tree_commit(
        repo,
        ("120000", ".gitattributes", "* filter=lfs"),
        ("100644", "a.bin", pointer_text(NO_SUCH_OBJECT, 1234)),
    )
    repo.update("refs/heads/evil", tip)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    document = daemon.wait_until(lambda: (found := daemon.show(name))["holds"] and found, "the ref is held")
    assert [hold["ref"] for hold in document["holds"]] == ["refs/heads/evil"]
    assert list(daemon.refs(name)) == ["refs/heads/main"]


@pytest.mark.parametrize("liar", ["main", "dev"])
def test_a_lie_about_a_size_breaks_no_checkout(
    upstream: GitUpstream, daemon: Daemon, tmp_path: Path, liar: str
) -> None:
    repo = upstream.create("evil/sizes")
    data = os.urandom(5000)
    oid, size = repo.lfs.put(data)
    repo.commit({"w.bin": pointer_text(oid, size + 7 * (liar == "main")), ".gitattributes": "*.bin filter=lfs\n"})
    repo.commit({"w.bin": pointer_text(oid, size + 7 * (liar == "dev"))}, branch="dev", start="main")
    honest = "dev" if liar == "main" else "main"
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.wait_until(lambda: daemon.show(name)["holds"] and daemon.show(name)["refs"]["count"], "one ref is served")
    assert list(daemon.refs(name)) == [f"refs/heads/{honest}"]
    clone = daemon.clone(name, tmp_path / "clone", "--branch", honest)
    assert (clone / "w.bin").read_bytes() == data


def test_an_lfs_object_deleted_behind_the_daemon_is_brought_again_once_it_is_missed(
    upstream: GitUpstream, daemon: Daemon, tmp_path: Path
) -> None:
    repo = upstream.create("acme/model")
    data = os.urandom(5000)
    repo.commit({"README": "x"}, lfs={"w.bin": data})
    oid, _ = repo.lfs.put(data)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    (path,) = (daemon.directory / "lfs" / "objects").rglob(oid)
    path.unlink()
    assert daemon.get(f"/{name}.git/info/lfs/objects/{oid}")[:2] == (200, data)
    daemon.wait_until(
        lambda: path.exists() and daemon.show(name)["lfs"]["present"] == 1, "the object is back", seconds=40
    )
    assert (daemon.clone(name, tmp_path / "clone") / "w.bin").read_bytes() == data
