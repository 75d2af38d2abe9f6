"""What git's children may allocate: bounded from outside, told as what it is, and never the packs they map."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

import pytest

from mirror_sync.errors import GitFailed, GitOutOfMemory, StorageFull
from mirror_sync.repos import git as door
from mirror_sync.repos.git import Git
from mirror_sync.repos.memory import LEAST_BYTES, child_memory_bytes, group_limits, machine_memory
from mirror_sync.repos.serving import GitServing
from tests.support.bomb import MIB, boast, bomb
from tests.support.published import NAME, publish
from tests.support.raw_history import History


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "r")], check=True)
    return tmp_path / "r"


def git_that_says(monkeypatch: pytest.MonkeyPatch, directory: Path, said: str) -> None:
    """Let a script stand in for git that says this and fails."""
    directory.mkdir()
    (directory / "said").write_text(said)
    (directory / "git").write_text(f"#!/bin/sh\ncat {directory}/said >&2\nexit 128\n")
    (directory / "git").chmod(0o755)
    monkeypatch.setitem(door._BASE_ENVIRONMENT, "PATH", f"{directory}:{door.CHILD_PATH}")


def limits_of(pid: int, what: str) -> set[int]:
    """Return the soft and the hard limit of a process."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(rf"^Max {what} +([0-9]+) +([0-9]+) ", limits, re.MULTILINE)
    assert found, limits
    return {int(found[1]), int(found[2])}


@pytest.mark.parametrize("pack", [bomb(512 * MIB)[1], boast(3 << 30)], ids=["delta", "tree"])
def test_a_small_pack_that_inflates_is_stopped_at_the_bound(repository: Path, pack: bytes) -> None:
    assert len(pack) < 4096
    with pytest.raises(GitOutOfMemory) as caught:
        Git(repository, memory_bytes=128 * MIB).feed(["index-pack", "--stdin"], [pack])
    error = caught.value
    assert error.code == "MS-G507"
    assert not isinstance(error, GitFailed), "it says nothing about the bytes, and trying again brings nothing"
    assert "git index-pack" in error.message
    assert "128.0 MiB" in error.why
    assert "malloc failed" in error.why
    assert "git.max_memory" in error.remedy
    assert list((repository / "objects" / "pack").glob("*.pack")) == []


def test_a_small_pack_that_inflates_less_is_taken(repository: Path) -> None:
    oid, pack = bomb(64 * MIB)
    git = Git(repository, memory_bytes=128 * MIB)
    git.feed(["index-pack", "--stdin"], [pack])
    assert git.run(["cat-file", "-s", oid]).strip() == b"%d" % (64 * MIB)


def test_the_bound_goes_along_to_another_directory(repository: Path) -> None:
    git = Git(Path("/nonexistent"), memory_bytes=128 * MIB).elsewhere(repository)
    with pytest.raises(GitOutOfMemory):
        git.feed(["index-pack", "--stdin"], [boast(3 << 30)])


def test_packs_that_git_maps_do_not_count(repository: Path) -> None:
    size = 32 * MIB
    content = b"blob\nmark :1\ndata %d\n%s\n" % (size, os.urandom(MIB) * (size // MIB))
    free = Git(repository, config={"core.compression": "0", "fastimport.unpackLimit": "0", "core.fsync": "none"})
    commit = b"commit refs/heads/main\ncommitter C <c@e.org> 1 +0000\ndata 1\nxM 644 :1 a\n"
    free.run(["fast-import", "--quiet"], stdin=content + commit)
    (pack,) = (repository / "objects" / "pack").glob("*.pack")
    assert pack.stat().st_size > size
    git = Git(repository, memory_bytes=16 * MIB, config={"pack.threads": "1"})
    assert len(git.run(["rev-list", "--objects", "--all"]).splitlines()) == 3
    assert len(git.run(["pack-objects", "--all", "--stdout", "-q"])) > size


def test_what_a_child_had_started_before_is_bounded_too() -> None:
    script = "sh -c 'echo $$; exec sleep 600' & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        inner = int(child.stdout.readline())
        try:
            door._limit(child.pid, file_limit=None, memory_bytes=77 * MIB)
            for pid in (child.pid, inner):
                assert limits_of(pid, "data size") == {77 * MIB}
                assert limits_of(pid, "core file size") == {0}
        finally:
            os.killpg(child.pid, 9)


def test_what_serves_clients_is_bounded_with_all_that_it_starts(tmp_path: Path) -> None:
    history = History(tmp_path / "scratch")
    tip = history.commit(files={"large": os.urandom(4 * MIB)})
    publish(tmp_path / "git", history, {"refs/heads/main": tip})
    served = GitServing(tmp_path / "git", max_packs=1, child_memory=500 * MIB)
    asked = b"0011command=fetch0001" + b"0032want %s\n" % tip.encode() + b"0009done\n0000"
    pieces = served.upload_pack(NAME, io.BytesIO(asked), protocol="version=2")
    assert pieces is not None
    body = b""
    while len(body) < MIB:
        body += next(pieces)
    group = pieces._child.pid if pieces._child else 0
    members = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_of(entry, group)]
    assert len(members) == 2, "upload-pack, and pack-objects at work for it"
    assert [limits_of(pid, "data size") for pid in members] == [{500 * MIB}] * 2
    body += b"".join(pieces)
    assert body.endswith(b"0000")


def is_of(entry: Path, group: int) -> bool:
    try:
        return os.getpgid(int(entry.name)) == group
    except ProcessLookupError:
        return False


@pytest.mark.parametrize(
    "said",
    [
        "fatal: Out of memory, malloc failed (tried to allocate 3221225473 bytes)\nfatal: index-pack failed\n",
        "fatal: inflate: out of memory\n",
        "fatal: unable to create thread: Cannot allocate memory\n",
        "error: Out of memory, realloc failed\nfatal: could not read it\n",
    ],
)
def test_every_way_in_which_git_says_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    git_that_says(monkeypatch, tmp_path / "bin", said)
    with pytest.raises(GitOutOfMemory, match="git fetch needs more memory") as caught:
        Git(repository, memory_bytes=MIB * 512).run(["fetch"])
    assert said.partition("\n")[0] in caught.value.why
    with pytest.raises(GitOutOfMemory, match="git fetch got no more memory") as caught:
        Git(repository).run(["fetch"])
    assert "max_memory" not in str(caught.value) + caught.value.remedy


@pytest.mark.parametrize("trouble", ["Out of memory, malloc failed", "No space left on device"])
@pytest.mark.parametrize("said", ["remote: fatal: {}\n", "remote: error: x\nfatal: remote error: {}\n"])
def test_what_upstream_says_of_itself_is_not_taken_for_ours(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, trouble: str
) -> None:
    git_that_says(monkeypatch, tmp_path / "bin", said.format(trouble) + "fatal: early EOF\n")
    with pytest.raises(GitFailed) as caught:
        Git(repository, memory_bytes=MIB * 512).run(["fetch"])
    assert trouble in caught.value.stderr


def test_our_own_full_disk_is_still_told(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    git_that_says(monkeypatch, tmp_path / "bin", "remote: hello\nfatal: write error: No space left on device\n")
    with pytest.raises(StorageFull):
        Git(repository).run(["fetch"])


def test_half_of_the_memory_that_there_is(tmp_path: Path) -> None:
    assert child_memory_bytes(0) == 0
    assert child_memory_bytes(5 * MIB) == 5 * MIB
    assert child_memory_bytes(None) == max(LEAST_BYTES, machine_memory() // 2)
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max\n")
    assert group_limits(group, top=tmp_path) == []
    (tmp_path / "a" / "memory.max").write_text("4294967296\n")
    (group / "memory.max").write_text("max\n")
    assert group_limits(group, top=tmp_path) == [4294967296]
    (group / "memory.max").write_text("1000\n")
    assert min(group_limits(group, top=tmp_path)) == 1000
    assert group_limits(Path("/elsewhere"), top=tmp_path) == []
