"""The test upstream itself: real git and real git-lfs work against it, and its faults are real."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.upstream import GitUpstream, isolated_git_environment


def git(home: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], env=isolated_git_environment(home), capture_output=True, text=True, check=check
    )


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_git_clones_all_refs(up: GitUpstream, tmp_path: Path, protocol: int, object_format: str) -> None:
    repo = up.create("acme/model", object_format=object_format)
    first = repo.commit({"README": "hello\n"})
    repo.commit({"big": b"\x00\x01" * 200_000})
    repo.commit({"README": None}, branch="dev", start="main")
    repo.tag("v1", message="first")
    repo.update("refs/notes/x", first)
    up.protocol = protocol
    git(tmp_path / "h", "-c", f"protocol.version={protocol}", "clone", "-q", "--mirror", repo.url, str(tmp_path / "c"))
    mirrored = git(tmp_path / "h", "-C", str(tmp_path / "c"), "for-each-ref", "--format=%(objectname) %(refname)")
    assert dict(reversed(line.split()) for line in mirrored.stdout.splitlines()) == repo.refs()
    assert repo.head() == "refs/heads/main"


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
def test_git_lfs_smudges_from_it(up: GitUpstream, tmp_path: Path) -> None:
    repo = up.create("acme/model")
    repo.commit({}, lfs={"weights.bin": b"\x07" * 100_000, "dir/other.bin": b"small"})
    git(
        tmp_path / "h",
        *("-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.required=true"),
        *("clone", "-q", repo.url, str(tmp_path / "c")),
    )
    assert (tmp_path / "c/weights.bin").read_bytes() == b"\x07" * 100_000
    assert (tmp_path / "c/dir/other.bin").read_bytes() == b"small"


def test_faults_are_real(up: GitUpstream, tmp_path: Path) -> None:
    repo = up.create("acme/model")
    repo.commit({"a": b"\x01\x02\x03" * 100})
    target = str(tmp_path / "c")
    cut = up.fault("POST .*git-upload-pack", after=1, cut_after=20)
    assert git(tmp_path / "h", "clone", "-q", repo.url, target, check=False).returncode != 0
    assert cut.hits == 2
    up.heal()
    up.fault("info/refs", status=503)
    assert "503" in git(tmp_path / "h", "ls-remote", repo.url, check=False).stderr
    repo.token = "canary"
    refused = git(tmp_path / "h", "ls-remote", repo.url, check=False)
    assert refused.returncode != 0
    repo.token = ""
    repo.moved_to = "acme/new"
    up.create("acme/new").commit({"x": "y"})
    assert "refs/heads/main" in git(tmp_path / "h", "ls-remote", repo.url).stdout
    assert [item.query for item in up.seen("GET /acme/new/info/refs")] == ["service=git-upload-pack"]


def test_it_comes_back_on_its_port(up: GitUpstream, tmp_path: Path) -> None:
    repo = up.create("acme/model")
    repo.commit({"a": "b"})
    port = up.port
    up.stop()
    assert git(tmp_path / "h", "ls-remote", repo.url, check=False).returncode != 0
    up.start()
    assert up.port == port
    assert "refs/heads/main" in git(tmp_path / "h", "ls-remote", repo.url).stdout
