"""Packs of a few hundred bytes that take far more memory to unpack than they are worth."""

from __future__ import annotations

import hashlib
import zlib

from tests.support.upstream import UpstreamRepo

MIB = 1 << 20
_TREE = 2
_BLOB = 3
_REF_DELTA = 7


def bomb(size: int) -> tuple[str, bytes]:
    """Return a blob of ``size`` zero bytes, whole MiB, as its id and a pack in which it is one small delta."""
    base = bytes(MIB)
    copy_all = bytes([0x80 | 0x40, MIB >> 16])
    delta = _number(MIB) + _number(size) + copy_all * (size // MIB)
    entries = [_entry(_BLOB, base), _entry(_REF_DELTA, delta, lean_on=_oid(base, 1))]
    return _oid(base, size // MIB), _pack(entries)


def boast(size: int) -> bytes:
    """Return a pack with one tree that claims to have ``size`` bytes."""
    return _pack([_head(_TREE, size) + zlib.compress(bytes(1000))])


def plant(repo: UpstreamRepo, size: int, *, path: str = "zeros") -> str:
    """Commit a blob of ``size`` zero bytes beside what is on main, as one small delta, and return the commit.

    What it leans on is in the commit as well, so that upstream sends it as it has it.
    """
    oid, pack = bomb(size)
    repo.git("index-pack", "--stdin", data=pack)
    added = [f"100644 blob {oid}\t{path}", f"100644 blob {_oid(bytes(MIB), 1)}\t{path}.base"]
    tree = repo.git("mktree", data="\n".join([repo.git("ls-tree", "refs/heads/main"), *added]) + "\n")
    commit = repo.git("commit-tree", "-p", "refs/heads/main", "-m", "zeros", tree)
    repo.update("refs/heads/main", commit)
    return commit


def _oid(piece: bytes, times: int) -> str:
    digest = hashlib.sha1(b"blob %d\0" % (len(piece) * times), usedforsecurity=False)
    for _ in range(times):
        digest.update(piece)
    return digest.hexdigest()


def _pack(entries: list[bytes]) -> bytes:
    data = b"PACK" + (2).to_bytes(4) + len(entries).to_bytes(4) + b"".join(entries)
    return data + hashlib.sha1(data, usedforsecurity=False).digest()


def _entry(kind: int, content: bytes, *, lean_on: str = "") -> bytes:
    return _head(kind, len(content)) + bytes.fromhex(lean_on) + zlib.compress(content)


def _head(kind: int, size: int) -> bytes:
    first, rest = (kind << 4) | (size & 15), size >> 4
    return bytes([first | 0x80]) + _number(rest) if rest else bytes([first])


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append((value & 0x7F) | 0x80)
        value >>= 7
    return bytes([*made, value])
