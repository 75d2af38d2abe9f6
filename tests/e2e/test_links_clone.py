"""``mirror-sync clone`` over links that cut and kill: the work tree that ``git clone`` with git-lfs would have made."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.binary_history import SMALL, build_binary_history
from tests.support.compare import assert_same_files, objects_of, refs_of
from tests.support.failing import SECONDS, adopt, plain_clone_fails
from tests.support.link import Link, Weather
from tests.support.mirroring import Carried, carried, fsck
from tests.support.upstream import GitUpstream, UpstreamRepo

CUTS = (100_000, 800_000)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "up") as server:
        server.follow_host = True
        yield server


@pytest.fixture
def repo(up: GitUpstream) -> UpstreamRepo:
    chance = random.Random(1)
    repo = up.create("acme/model")
    for number in range(60):
        lfs = {f"weights/{number}.bin": chance.randbytes(200_000)} if number % 6 == 0 else None
        repo.commit({f"d{number % 7}/{number}.dat": chance.randbytes(60_000)}, lfs=lfs)
    repo.commit({"README": "dev"}, branch="dev", start="main~10")
    repo.tag("v1", message="first")
    return repo


def clone(
    link: Link, name: str, into: Path, *options: str, kill_every: tuple[float, float] | None = None, kills: int = 5
) -> Carried:
    """Run the command again and again until it is through."""
    command = [sys.executable, "-m", "mirror_sync", "clone", *options, f"{link.origin}/{name}", str(into)]
    return carried(
        lambda _: command,
        log=into.with_suffix(".log"),
        seconds=SECONDS,
        seed=link.weather.seed,
        kill_every=kill_every,
        kills=kills,
    )


def assert_work_tree(into: Path, repo: UpstreamRepo) -> None:
    """Files, LFS objects among them, branches, tags and objects are upstream's."""
    assert_same_files(into, repo, "main")
    heads = {
        ref.replace("refs/heads/", "refs/remotes/origin/"): oid
        for ref, oid in refs_of(repo.path, "refs/heads/").items()
    }
    found = refs_of(into, "refs/remotes/")
    assert {ref: oid for ref, oid in found.items() if not ref.endswith("/HEAD")} == heads
    assert refs_of(into, "refs/tags/") == refs_of(repo.path, "refs/tags/")
    assert objects_of(into) == objects_of(repo.path)
    assert fsck(into / ".git") == fsck(repo.path)


def test_a_work_tree_with_its_lfs_files_over_cuts(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    with Link(up.port, Weather(seed=1, cut_bytes=CUTS, resets=0.3)) as link:
        plain_clone_fails(f"{link.origin}/{repo.name}", tmp_path / "plain")
        clone(link, repo.name, tmp_path / "clone")
        assert_work_tree(tmp_path / "clone", repo)
        assert link.count().cuts >= 8


def test_killed_every_second(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    with Link(up.port, Weather(seed=2, cut_bytes=CUTS, link_rate=2_000_000)) as link:
        done = clone(link, repo.name, tmp_path / "clone", kill_every=(0.9, 1.6))
        assert_work_tree(tmp_path / "clone", repo)
        assert done.kills >= 2


@pytest.mark.prove
def test_bare(up: GitUpstream, tmp_path: Path) -> None:
    build_binary_history(tmp_path / "binary.git", SMALL)
    repo = adopt(up, "acme/binary", tmp_path / "binary.git")
    with Link(up.port, Weather(seed=3, cut_bytes=CUTS, resets=0.3)) as link:
        clone(link, repo.name, tmp_path / "clone", "--bare")
        assert refs_of(tmp_path / "clone") == refs_of(repo.path)
        assert objects_of(tmp_path / "clone") == objects_of(repo.path)
        assert fsck(tmp_path / "clone") == fsck(repo.path)
        assert link.count().cuts >= 8
