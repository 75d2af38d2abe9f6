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
MOST_COUNTED_BYTES = 2**46
"""What an object counts for at most in sums of bytes, which a made-up size must not overflow."""

EMPTY_OID = LfsOid("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
"""The empty file: an empty blob in Git, never asked of a server (nor is anything else of size 0)."""

_VERSIONS = frozenset(
    {b"https://git-lfs.github.com/spec/v1", b"https://hawser.github.com/spec/v1", b"http://git-media.io/v/2"}
)
_KEYS = (b"version", b"oid", b"size")
_OID = re.compile(rb"sha256:([0-9a-f]{64})\Z")
_EXTENSION = re.compile(rb"ext-([0-9])-[0-9A-Za-z_]")
_SIZE = re.compile(rb"[+-]?[0-9]+\Z")
POINTER_HINT = re.compile(rb"git-(?:lfs|media)|hawser")
"""Found in every pointer, and in hardly anything else."""

_BLANKS = b"\t\n\v\f\r "
_WIDE_BLANKS = tuple(
    chr(point).encode()
    for point in (0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
)
"""What Go's ``unicode.IsSpace`` adds to ASCII; git-lfs trims all of it from both ends."""


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
    if POINTER_HINT.search(data) is None:  # nearly every blob that is none leaves here
        return None
    return _parse_lines(_trimmed(data))


def _parse_lines(data: bytes) -> Pointer | None:
    """Decode trimmed pointer text: version, oid and size in this order, extensions anywhere before the size."""
    values: list[bytes] = []
    extensions: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        text = line.removesuffix(b"\r")
        if not text:
            continue
        key, blank, value = text.partition(b" ")
        if not blank or len(values) == len(_KEYS):
            return None
        if key == _KEYS[len(values)]:
            values.append(value)
        elif _EXTENSION.match(key):
            extensions[key] = value  # git-lfs keeps the last value of a repeated key, and looks only at that
        else:
            return None
    if len(values) < len(_KEYS) or values[0] not in _VERSIONS or not _sound_extensions(extensions):
        return None
    oid = _OID.match(values[1])
    if oid is None or _SIZE.match(values[2]) is None:
        return None
    size = int(values[2])
    if not 0 <= size <= MAX_OBJECT_BYTES:
        return None
    return Pointer(LfsOid(oid[1].decode()), size)


def _sound_extensions(extensions: dict[bytes, bytes]) -> bool:
    """Tell whether every extension names a SHA-256 and no two share a priority."""
    priorities = {key[4:5] for key in extensions}
    return len(priorities) == len(extensions) and all(_OID.match(value) for value in extensions.values())


def _trimmed(data: bytes) -> bytes:
    """Return ``data`` without white space at either end, as Go's ``bytes.TrimSpace`` sees it."""
    while True:
        length = len(data)
        data = data.strip(_BLANKS)
        for blank in _WIDE_BLANKS:
            data = data.removeprefix(blank).removesuffix(blank)
        if len(data) == length:
            return data
