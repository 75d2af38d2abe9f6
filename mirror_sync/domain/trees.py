"""What a commit's files are: entries of trees, their order, and how their names are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.pointers import Pointer

_ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f])")
_SUM_ESCAPED = re.compile(rb"[\\\n\r]")
_SUM_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}


class EntryKind(StrEnum):
    """What stands under a path."""

    FILE = "file"
    LINK = "link"
    DIRECTORY = "directory"
    SUBMODULE = "submodule"


_KINDS = {b"40000": EntryKind.DIRECTORY, b"160000": EntryKind.SUBMODULE, b"120000": EntryKind.LINK}


@dataclass(frozen=True, slots=True)
class TreeItem:
    """One line of a tree object."""

    name: bytes
    kind: EntryKind
    oid: GitOid

    @property
    def sort_key(self) -> bytes:
        """What Git sorts by: a directory's name ends in a slash."""
        return self.name + b"/" if self.kind is EntryKind.DIRECTORY else self.name


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What stands under one path of a commit; the root is the directory with the empty path.

    ``size`` is that of the Git blob, 0 for what is none.  ``pointer`` is what the blob
    says when it stands for an LFS object; ``marked`` tells whether the attributes of the
    same commit make a checkout put that object in its place.
    """

    path: bytes
    kind: EntryKind
    oid: GitOid
    size: int = 0
    pointer: Pointer | None = None
    marked: bool = False

    @property
    def sort_key(self) -> bytes:
        """Where the entry lies in a listing of the whole commit, directories before what they hold."""
        return self.path + b"/" if self.kind is EntryKind.DIRECTORY else self.path


def parse_tree(raw: bytes, *, oid_bytes: int) -> Iterator[TreeItem]:
    """Yield the lines of a tree object, whose object ids have ``oid_bytes`` bytes; raises :class:`ValueError`."""
    position, end = 0, len(raw)
    while position < end:
        blank = raw.find(b" ", position, position + 8)
        null = raw.find(b"\0", blank)
        following = null + 1 + oid_bytes
        if blank < 0 or null < 0 or following > end:
            raise ValueError("a tree ends in the middle of a line")
        kind = _KINDS.get(raw[position:blank], EntryKind.FILE)
        yield TreeItem(raw[blank + 1 : null], kind, GitOid(raw[null + 1 : following].hex()))
        position = following


def path_text(path: bytes) -> str:
    r"""Return a path as JSON can tell it: UTF-8, and ``\xff`` for a byte that is none."""
    return path.decode("utf-8", "backslashreplace")


def path_of_text(path: bytes) -> bytes | None:
    """Return the path that :func:`path_text` may have written so, or ``None`` when it wrote nothing but itself."""
    found = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), path)
    return found if found != path and path_text(found).encode() == path else None


def sum_line(path: bytes, sha256: str) -> bytes:
    """Return the line that ``sha256sum`` would write of a file, and ``sha256sum -c`` reads."""
    escaped = _SUM_ESCAPED.sub(lambda match: _SUM_ESCAPES[match[0]], path)
    return (b"\\" if escaped != path else b"") + sha256.encode("ascii") + b"  " + escaped + b"\n"
