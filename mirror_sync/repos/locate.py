"""Where in history a blob lies that is not here, told by the trees that name it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import IO

from mirror_sync.domain.names import GitOid
from mirror_sync.repos.git import Git
from mirror_sync.repos.queries import oid_lines

_LISTING = ["rev-list", "--objects", "--in-commit-order", "--filter=blob:none", "--missing=allow-any", "--stdin"]
_READING = ["cat-file", "--batch=%(objectname) %(objecttype) %(objectsize) %(rest)", "--buffer"]
_ENTRY = {width: re.compile(rb"[0-7]+ ([^\0]+)\0(.{%d})" % width, re.DOTALL) for width in (20, 32)}


def locate(git: Git, blob: GitOid, tips: Sequence[GitOid], *, without: Sequence[GitOid]) -> tuple[GitOid, bytes] | None:
    """Walk from ``tips``, newest first, and return the first commit with a tree that holds ``blob``, and the path."""
    if not tips:
        return None
    asked = oid_lines([*tips, *(f"^{oid}" for oid in without)])
    with git.stream(_LISTING, stdin=asked) as walk, git.stream(_READING, stdin=walk.stdout) as reading:
        for commit, directory, tree in _trees(reading.stdout):
            for name in _names(tree, bytes.fromhex(blob)):
                path = directory + b"/" + name if directory else name
                if _holds(git, commit, path, blob):
                    reading.kill()
                    walk.kill()
                    return commit, path
    return None


def _trees(stream: IO[bytes]) -> Iterator[tuple[GitOid, bytes, bytes]]:
    """Yield each tree with the commit it was first met in and its path there."""
    commit = GitOid("")
    while header := stream.readline():
        oid, kind, size, path = (*header.rstrip(b"\n").split(b" ", 3), b"")[:4]
        body = stream.read(int(size) + 1)[:-1]
        if kind == b"commit":
            commit = GitOid(oid.decode("ascii"))
        elif kind == b"tree":
            yield commit, path, body


def _names(tree: bytes, raw: bytes) -> list[bytes]:
    """Return the names under which a tree holds an object."""
    if raw not in tree:
        return []
    return [name for name, oid in _ENTRY[len(raw)].findall(tree) if oid == raw]


def _holds(git: Git, commit: GitOid, path: bytes, blob: GitOid) -> bool:
    """Tell whether ``commit`` really holds ``blob`` there: the listing cuts a path at a newline."""
    if not commit:
        return False
    found = git.run(
        ["ls-tree", "-z", commit, "--", os.fsdecode(path)], environment={"GIT_LITERAL_PATHSPECS": "1"}, ok=range(256)
    )
    return b" %s\t" % blob.encode() in found
