"""Everybody's client against a running daemon, each compared with upstream ref by ref and file by file."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.compare import assert_same_files, assert_same_refs, git_output, objects_of, refs_of, upstream_refs
from tests.support.daemon import Daemon, listed
from tests.support.tools import require
from tests.support.upstream import GitUpstream, UpstreamRepo

LFS_TYPE = "application/vnd.git-lfs+json"


@dataclass
class Site:
    upstream: GitUpstream
    repo: UpstreamRepo
    daemon: Daemon
    name: str

    @property
    def url(self) -> str:
        return self.daemon.url(self.name)

    @property
    def refs(self) -> dict[str, str]:
        return upstream_refs(self.repo)

    @property
    def main(self) -> str:
        return self.refs["refs/heads/main"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("clients")
    with GitUpstream(base / "upstream") as upstream, Daemon(base / "mirror") as daemon:
        repo = upstream.create("acme/model")
        for number in range(5):
            repo.commit({"README.md": f"{number}\n", f"src/{number}.py": os.urandom(3000)})
        repo.commit({}, lfs={"weights/a.bin": os.urandom(300_000), "weights/b.bin": b"b" * 70_000})
        repo.tag("v1", message="first release")
        repo.tag("light")
        repo.commit({"docs/ä ö.md": "x"}, branch="dev", start="main", lfs={"dev.bin": os.urandom(50_000)})
        repo.commit({"deep": "1"}, branch="topic/very/deep", start="main~3")
        repo.commit({"README.md": "5\n", "src/0.py": None}, lfs={"weights/a.bin": os.urandom(400_000)})
        repo.tag("nested", target="refs/tags/v1", message="a tag of a tag")
        repo.git("notes", "add", "-m", "reviewed", "main")
        repo.git("notes", "--ref=refs/notes/ci", "add", "-m", "green", "main~1")
        daemon.start(repo.url)
        name = daemon.name(repo.url)
        daemon.published(name)
        # what only history needs comes behind the refs
        daemon.wait_until(lambda: daemon.show(name)["lfs"]["missing"] == 0, "every LFS object is here")
        yield Site(upstream, repo, daemon, name)


# ---------------------------------------------------------------- git


@pytest.mark.parametrize("protocol", ["0", "1", "2"])
def test_git_lists_and_copies_every_ref_and_object(site: Site, tmp_path: Path, protocol: str) -> None:
    version = f"protocol.version={protocol}"
    advertised = site.daemon.git("-c", version, "ls-remote", "--symref", site.url).stdout
    assert advertised.startswith("ref: refs/heads/main\tHEAD\n")
    assert_same_refs(listed(advertised), site.repo)
    peeled = site.repo.git("rev-parse", "refs/tags/v1^{}")
    assert {line for line in advertised.splitlines() if line.endswith("^{}")} == {
        f"{peeled}\trefs/tags/v1^{{}}",
        f"{peeled}\trefs/tags/nested^{{}}",
    }
    copy = tmp_path / "copy"
    site.daemon.git("-c", version, "clone", "-q", "--mirror", site.url, str(copy))
    assert_same_refs(refs_of(copy), site.repo)
    assert objects_of(copy) == objects_of(site.repo.path)
    git_output(copy, "fsck", "--full", "--strict")


@pytest.mark.parametrize("protocol", ["0", "2"])
def test_git_shallow_then_deeper_then_whole(site: Site, tmp_path: Path, protocol: str) -> None:
    work = site.daemon.clone(site.name, tmp_path / "work", "-c", f"protocol.version={protocol}", "--depth=1")
    assert git_output(work, "rev-list", "--count", "HEAD") == b"1\n"
    assert_same_files(work, site.repo, site.main)
    git_output(work, "fetch", "-q", "--deepen=2")
    assert git_output(work, "rev-list", "--count", "HEAD") == b"3\n"
    git_output(work, "fetch", "-q", "--unshallow")
    assert git_output(work, "rev-list", "HEAD").decode() == site.repo.git("rev-list", "main") + "\n"
    git_output(work, "fsck", "--full")


@pytest.mark.parametrize("protocol", ["0", "2"])
@pytest.mark.parametrize("wanted", ["blob:none", "blob:limit=1k", "tree:0"])
def test_git_partial_fetches_the_rest_when_it_is_looked_at(
    site: Site, tmp_path: Path, protocol: str, wanted: str
) -> None:
    work = tmp_path / "work"
    site.daemon.git(
        "clone", "-q", "-c", f"protocol.version={protocol}", "--no-checkout", f"--filter={wanted}", site.url, str(work)
    )
    lacking = git_output(work, "rev-list", "--objects", "--all", "--missing=print").decode().splitlines()
    assert any(line.startswith("?") for line in lacking)
    git_output(work, "checkout", "-q", "main")
    assert_same_files(work, site.repo, site.main, lfs=False)
    git_output(work, "log", "-p", "--stat", "main")
    git_output(work, "checkout", "-q", "origin/dev")
    assert_same_files(work, site.repo, site.refs["refs/heads/dev"], lfs=False)


def test_git_one_branch_and_then_what_is_new(site: Site, tmp_path: Path) -> None:
    work = site.daemon.clone(site.name, tmp_path / "work", "--single-branch", "--branch=dev")
    assert {name for name in refs_of(work) if not name.startswith("refs/tags/")} == {
        "refs/heads/dev",
        "refs/remotes/origin/dev",
    }
    assert_same_files(work, site.repo, site.refs["refs/heads/dev"])
    git_output(work, "fetch", "-q", "origin", "refs/heads/main:refs/heads/main", "refs/notes/*:refs/notes/*")
    assert refs_of(work, "refs/heads/main", "refs/notes/") == {
        name: oid for name, oid in site.refs.items() if name == "refs/heads/main" or name.startswith("refs/notes/")
    }
    assert git_output(work, "notes", "show", "main") == b"reviewed\n"


@pytest.mark.parametrize("protocol", ["0", "2"])
def test_git_fetches_a_commit_by_its_id(site: Site, tmp_path: Path, protocol: str) -> None:
    work = tmp_path / "work"
    site.daemon.git("init", "-q", str(work))
    old = site.repo.git("rev-parse", "main~4")
    assert old not in site.refs.values()
    git_output(work, "-c", f"protocol.version={protocol}", "fetch", "-q", site.url, old)
    git_output(work, "checkout", "-q", "FETCH_HEAD")
    assert_same_files(work, site.repo, old)


def test_git_clones_one_tag_as_build_machines_do(site: Site, tmp_path: Path) -> None:
    work = site.daemon.clone(site.name + ".git", tmp_path / "work", "--depth=1", "--branch=v1", "--no-tags")
    assert_same_files(work, site.repo, site.repo.git("rev-parse", "v1^{}"))


# ---------------------------------------------------------------- git-lfs


def test_git_lfs_brings_every_object_of_every_ref(site: Site, tmp_path: Path) -> None:
    require("git-lfs")
    work = site.daemon.clone(site.name, tmp_path / "work")
    assert_same_files(work, site.repo, site.main)
    git_output(work, "lfs", "fetch", "--all")
    here = {path.name: path for path in (work / ".git/lfs/objects").rglob("*") if path.is_file()}
    assert here.keys() == set(site.repo.lfs.oids())
    for oid, path in here.items():
        assert path.read_bytes() == (site.repo.lfs.directory / oid).read_bytes()
    git_output(work, "lfs", "fsck")
    for branch in ("dev", "topic/very/deep"):
        git_output(work, "checkout", "-q", branch)
        assert_same_files(work, site.repo, site.refs[f"refs/heads/{branch}"])


def test_git_lfs_uploads_are_refused_with_the_upstream(site: Site, tmp_path: Path) -> None:
    require("git-lfs")
    work = site.daemon.clone(site.name, tmp_path / "work")
    git_output(work, "lfs", "install", "--local")
    (work / "weights/mine.bin").write_bytes(b"mine")
    git_output(work, "add", ".")
    git_output(work, "commit", "-qm", "mine")
    for command in (["lfs", "push", "origin", "main"], ["push", "origin", "main"]):
        done = site.daemon.git(*command, cwd=work, check=False)
        assert done.returncode != 0
        said = done.stdout + done.stderr
        assert "read-only mirror" in said
        assert site.repo.url in said


def test_git_lfs_locks_are_answered(site: Site, tmp_path: Path) -> None:
    require("git-lfs")
    work = site.daemon.clone(site.name, tmp_path / "work")
    assert git_output(work, "lfs", "locks") == b""
    done = site.daemon.git("lfs", "lock", "weights/a.bin", cwd=work, check=False)
    assert done.returncode != 0
    assert "read-only mirror" in done.stdout + done.stderr
    done = site.daemon.git("lfs", "unlock", "weights/a.bin", cwd=work, check=False)
    assert done.returncode != 0


def test_an_lfs_object_comes_whole_in_part_and_by_etag(site: Site) -> None:
    oid, size = max(
        ((oid, (site.repo.lfs.directory / oid).stat().st_size) for oid in site.repo.lfs.oids()),
        key=lambda pair: pair[1],
    )
    data = (site.repo.lfs.directory / oid).read_bytes()
    batch = json.dumps({"operation": "download", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]})
    headers = {"Accept": LFS_TYPE, "Content-Type": LFS_TYPE}
    status, body, _ = site.daemon.post(f"/{site.name}.git/info/lfs/objects/batch", batch.encode(), headers)
    assert status == 200
    href = json.loads(body)["objects"][0]["actions"]["download"]["href"]
    assert href.startswith(site.daemon.origin)
    path = href.removeprefix(site.daemon.origin)
    status, body, answered = site.daemon.get(path)
    assert (status, body) == (200, data)
    status, body, _ = site.daemon.get(path, {"Range": "bytes=1000-1999"})
    assert (status, body) == (206, data[1000:2000])
    assert site.daemon.get(path, {"If-None-Match": answered["ETag"]})[0] == 304


# ---------------------------------------------------------------- other clients


def remote_heads(refs: dict[str, str]) -> dict[str, str]:
    """Return the branches that a clone keeps for its remote under the names they have there."""
    prefix = "refs/remotes/origin/"
    return {
        f"refs/heads/{name.removeprefix(prefix)}": oid
        for name, oid in refs.items()
        if name.startswith(prefix) and name != prefix + "HEAD"
    }


def heads_and_tags(site: Site) -> tuple[dict[str, str], dict[str, str]]:
    heads = {name: oid for name, oid in site.refs.items() if name.startswith("refs/heads/")}
    return heads, {name: oid for name, oid in site.refs.items() if name.startswith("refs/tags/")}


def assert_cloned(site: Site, work: Path, *, lfs: bool = False) -> None:
    heads, tags = heads_and_tags(site)
    refs = refs_of(work)
    assert remote_heads(refs) == heads
    assert {name: oid for name, oid in refs.items() if name.startswith("refs/tags/")} == tags
    assert refs["refs/heads/main"] == site.main
    assert_same_files(work, site.repo, site.main, lfs=lfs)
    git_output(work, "fsck", "--full")


def test_dulwich(site: Site, tmp_path: Path) -> None:
    from dulwich import porcelain

    with porcelain.clone(site.url, str(tmp_path / "work"), errstream=io.BytesIO()) as work:
        assert work.head().decode() == site.main
    assert_cloned(site, tmp_path / "work", lfs=True)  # it has an LFS client of its own
    listing = porcelain.ls_remote(site.url)
    found = {name.decode(): oid.decode() for name, oid in listing.refs.items() if oid}
    assert_same_refs(
        {name: oid for name, oid in found.items() if name != "HEAD" and not name.endswith("^{}")}, site.repo
    )


def test_libgit2(site: Site, tmp_path: Path) -> None:
    import pygit2

    work = pygit2.clone_repository(site.url, str(tmp_path / "work"))
    assert str(work.head.target) == site.main
    work.remotes["origin"].fetch(["+refs/notes/*:refs/notes/*"])
    notes = {name: oid for name, oid in site.refs.items() if name.startswith("refs/notes/")}
    assert refs_of(tmp_path / "work", "refs/notes/") == notes
    assert_cloned(site, tmp_path / "work")


def test_jgit(site: Site, tmp_path: Path) -> None:
    jgit = require("jgit")
    work = tmp_path / "work"
    # Debian's start script leaves out the LFS part that the program asks for
    environment = {**os.environ, "JGIT_CLASSPATH": "/usr/share/java/*"}

    def run(*arguments: str, cwd: Path) -> None:
        done = subprocess.run(
            [jgit, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)

    run("clone", site.url, str(work), cwd=tmp_path)
    run("fetch", "origin", "+refs/notes/*:refs/notes/*", cwd=work)
    notes = {name: oid for name, oid in site.refs.items() if name.startswith("refs/notes/")}
    assert refs_of(work, "refs/notes/") == notes
    assert_cloned(site, work)


# ---------------------------------------------------------------- pushes


@pytest.mark.parametrize("protocol", ["0", "2"])
def test_git_pushes_are_refused_with_the_upstream(site: Site, tmp_path: Path, protocol: str) -> None:
    work = tmp_path / "work"
    site.daemon.git("clone", "-q", site.url, str(work))
    before = site.daemon.refs(site.name)
    for push in (
        ["HEAD:refs/heads/mine"],
        ["--force", "HEAD~1:refs/heads/main"],
        ["--delete", "refs/heads/dev"],
        ["--mirror"],
    ):
        done = site.daemon.git("-c", f"protocol.version={protocol}", "push", "origin", *push, cwd=work, check=False)
        assert done.returncode == 128
        assert "read-only mirror" in done.stderr
        assert site.repo.url in done.stderr
    assert site.daemon.refs(site.name) == before
