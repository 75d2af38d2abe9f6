"""LFS pointers: the small text blobs standing in Git for LFS objects.

The decoder accepts exactly what git-lfs accepts (``docs/spec.md`` and
``lfs/pointer.go`` of git-lfs, tried case by case), because a mirror that accepts less
breaks clones that work upstream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirror_sync.domain.names import GitOid, LfsOid

MIN_POINTER_BYTES = 114
MAX_POINTER_BYTES = 1023
"""The size window, both ends included, outside which no blob is a pointer."""

MAX_OBJECT_BYTES = 2**63 - 1
EMPTY_OID = LfsOid("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
"""The empty file: an empty blob in Git, never asked of a server."""

_VERSIONS = frozenset(
    {b"https://git-lfs.github.com/spec/v1", b"https://hawser.github.com/spec/v1", b"http://git-media.io/v/2"}
)
_OID = re.compile(rb"sha256:([0-9a-f]{64})\Z")
_EXTENSION = re.compile(rb"ext-([0-9])-([^ ]+)\Z")
_SIZE = re.compile(rb"\+?[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Pointer:
    """An LFS object as Git names it: its oid and its size in bytes."""

    oid: LfsOid
    size: int


@dataclass(frozen=True, slots=True)
class PointerBlob:
    """A pointer together with the Git blob that holds it."""

    blob: GitOid
    pointer: Pointer


@dataclass(frozen=True, slots=True)
class TipNeed:
    """An LFS object that a checkout of a tip needs, and one path that needs it."""

    pointer: Pointer
    path: str


def parse_pointer(data: bytes) -> Pointer | None:
    """Return the pointer in ``data``, or ``None`` when git-lfs would not take it for one."""
    if not MIN_POINTER_BYTES <= len(data) <= MAX_POINTER_BYTES:
        return None
    return _parse_lines(data)
