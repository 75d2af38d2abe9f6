"""A long history with LFS pointers in it, the same one every time, written by ``git fast-import``."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.pointers import pointer_text

NEWEST = 50
"""``refs/heads/earlier`` lies this many commits before ``refs/heads/main``."""

_WORDS = [
    "model",
    "weights",
    "token",
    "layer",
    "buffer",
    "stream",
    "object",
    "pointer",
    "branch",
    "commit",
    "merge",
    "thread",
    "queue",
    "signal",
    "frame",
    "index",
    "cache",
    "north",
    "south",
    "river",
    "stone",
    "garden",
    "window",
    "paper",
    "letter",
    "number",
    "figure",
    "result",
    "method",
    "sample",
    "vector",
    "matrix",
]
_ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"
_PER_COMMIT = 4
_POINTER_EVERY = 10
_FILES = 8_000
_DIRECTORIES = 400
_BINARIES = 300


def pointers_in(commits: int) -> int:
    """Return how many different pointers a history of this length holds."""
    return commits // _POINTER_EVERY


def history(commits: int, *, seed: int = 20) -> Iterator[bytes]:
    """Yield the ``fast-import`` stream of a history.

    8,000 text files of log-normal length in 400 directories three deep come into being
    and change, four in a commit; every tenth commit also writes one of 300 pointers.
    """
    chance = random.Random(seed)
    pool = _text(chance, 200_000)
    shapes = [(chance.randrange(100_000), min(int(chance.lognormvariate(7.6, 1.3)), 60_000)) for _ in range(_FILES)]
    yield b"blob\nmark :1\ndata %d\n%s\n" % (len(_ATTRIBUTES), _ATTRIBUTES)
    for commit in range(1, commits + 1):
        yield b"commit refs/heads/main\nmark :%d\n" % (commit + 1)
        yield b"committer C <c@example.org> %d +0000\ndata 6\ncommit\n" % (1_500_000_000 + commit * 600)
        if commit == 1:
            yield b"M 100644 :1 .gitattributes\n"
        for file in chance.sample(range(_FILES), _PER_COMMIT):
            offset, length = shapes[file]
            at = offset + chance.randrange(length + 1)
            content = b"%s\nedit %d\n%s" % (pool[offset:at], commit, pool[at : offset + length])
            yield _change(_path(file % _DIRECTORIES, b"file%d.txt" % file), content)
        if commit % _POINTER_EVERY == 0:
            binary = chance.randrange(_BINARIES)
            content = pointer_text(chance.randbytes(32).hex(), commit)
            yield _change(_path(binary % _DIRECTORIES, b"asset%d.bin" % binary), content)
        if commit == commits - NEWEST:
            yield b"reset refs/heads/earlier\nfrom :%d\n" % (commit + 1)


def build_history(repository: Path, commits: int, *, seed: int = 20) -> None:
    """Make a bare repository holding :func:`history`, in one pack."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(repository)], check=True)
    importing = subprocess.Popen(
        ["git", "-C", str(repository), "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet", "--force"],
        stdin=subprocess.PIPE,
    )
    assert importing.stdin is not None
    with importing.stdin:
        for piece in history(commits, seed=seed):
            importing.stdin.write(piece)
    if importing.wait() != 0:
        raise RuntimeError("git fast-import failed")


def _text(chance: random.Random, length: int) -> bytes:
    lines: list[str] = []
    size = 0
    while size < length:
        line = " ".join(chance.choices(_WORDS, k=chance.randint(3, 12)))
        lines.append(line)
        size += len(line) + 1
    return "\n".join(lines).encode()


def _path(directory: int, name: bytes) -> bytes:
    return b"d%d/e%d/f%d/%s" % (directory // 100, directory // 10 % 10, directory % 10, name)


def _change(path: bytes, content: bytes) -> bytes:
    return b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(content), content)
