"""Is what a client got what upstream has? Ref by ref and file by file, in bytes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.upstream import UpstreamRepo

SELECTED = ("refs/heads/", "refs/tags/", "refs/notes/")
"""What a mirror follows by default."""

POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize [0-9]+\n")


def git_output(directory: Path, *arguments: str, data: bytes | None = None) -> bytes:
    """Run git in a repository and return its output; raises with what git said when it fails."""
    done = subprocess.run(["git", *arguments], cwd=directory, input=data, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, (arguments, done.stderr.decode(errors="replace"))
    return done.stdout


def refs_of(directory: Path, *prefixes: str) -> dict[str, str]:
    """Return the refs of a repository whose names begin so; names that are not UTF-8 by ``surrogateescape``."""
    out = git_output(directory, "for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
    lines = (line.decode("utf-8", "surrogateescape") for line in out.splitlines())
    return {name: oid for oid, name in (line.split(" ", 1) for line in lines)}


def upstream_refs(repo: UpstreamRepo) -> dict[str, str]:
    """Return what a mirror of this repository serves."""
    return refs_of(repo.path, *SELECTED)


def objects_of(directory: Path) -> set[str]:
    """Return the id of every object that a ref of the repository reaches."""
    return {
        line.split(b" ")[0].decode() for line in git_output(directory, "rev-list", "--objects", "--all").splitlines()
    }


def files_of(repo: UpstreamRepo, tip: str, *, lfs: bool = True) -> dict[bytes, bytes]:
    """Return every file of a commit; with ``lfs`` the LFS objects stand in place of their pointers."""
    rows = [row.split(b"\t", 1) for row in git_output(repo.path, "ls-tree", "-r", "-z", tip).split(b"\0") if row]
    oids = [head.split(b" ")[2] for head, _ in rows]
    out = git_output(repo.path, "cat-file", "--batch", data=b"".join(oid + b"\n" for oid in oids))
    files: dict[bytes, bytes] = {}
    for _, path in rows:
        head, _, out = out.partition(b"\n")
        size = int(head.split(b" ")[2])
        content, out = out[:size], out[size + 1 :]
        pointer = POINTER.fullmatch(content) if lfs else None
        files[path] = (repo.lfs.directory / pointer[1].decode()).read_bytes() if pointer else content
    return files


def checked_out(directory: Path) -> dict[bytes, bytes]:
    """Return every file of a work tree."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.relative_to(directory).parts[0] != ".git")
    return {bytes(path.relative_to(directory)): path.read_bytes() for path in found}


def assert_same_files(directory: Path, repo: UpstreamRepo, tip: str, *, lfs: bool = True) -> None:
    """Every file of a work tree is byte for byte upstream's at ``tip``, and there is no other."""
    wanted = files_of(repo, tip, lfs=lfs)
    assert wanted, "an empty tree proves nothing"
    found = checked_out(directory)
    assert found.keys() == wanted.keys()
    assert [path for path in wanted if found[path] != wanted[path]] == []


def assert_same_refs(found: Mapping[str, str], repo: UpstreamRepo) -> None:
    """These are exactly the refs that upstream has and a mirror follows."""
    wanted = upstream_refs(repo)
    assert wanted, "no refs prove nothing"
    assert dict(found) == wanted
