"""Pages of a ``packed-refs`` file, sought without reading it whole."""

from __future__ import annotations

import mmap
from pathlib import Path

from mirror_sync.domain.names import GitOid, RefName, ref_from_bytes
from mirror_sync.errors import RepositoryDamaged


def ref_page(path: Path, after: bytes, limit: int, *, prefix: bytes) -> list[tuple[RefName, GitOid]]:
    """Return up to ``limit`` refs whose names begin with ``prefix`` and sort after ``after``, by bytes.

    Costs the same whatever the number of refs.  Raises :class:`RepositoryDamaged` when
    the file is not what we write.
    """
    with path.open("rb") as file:
        try:
            lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped, and is no packed-refs
            raise RepositoryDamaged("the view's packed-refs is damaged", why="it is empty") from error
        with lines:
            return _read(lines, after, limit, prefix=prefix)


def _read(lines: mmap.mmap, after: bytes, limit: int, *, prefix: bytes) -> list[tuple[RefName, GitOid]]:
    """Seek by halving; the lines are sorted by the bytes of the names."""
    low, high = _header_end(lines), len(lines)
    while low < high:
        start = _line_start(lines, (low + high) // 2, low)
        end, _, name = _line(lines, start)
        if name > after and name >= prefix:
            high = start
        else:
            low = end
    found: list[tuple[RefName, GitOid]] = []
    position = low
    while position < len(lines) and len(found) < limit:
        position, oid, name = _line(lines, position)
        if not name.startswith(prefix):
            break
        found.append((ref_from_bytes(name), GitOid(oid.decode("ascii"))))
    return found


def _header_end(lines: mmap.mmap) -> int:
    end = lines.find(b"\n")
    if lines[:1] != b"#" or end == -1:
        raise RepositoryDamaged("the view's packed-refs is damaged", why="its header is missing")
    return end + 1


def _line_start(lines: mmap.mmap, position: int, low: int) -> int:
    """Return where the ref begins that covers ``position``; its peeled line belongs to it."""
    start = max(low, lines.rfind(b"\n", low, position) + 1)
    if lines[start : start + 1] == b"^":
        start = max(low, lines.rfind(b"\n", low, start - 1) + 1)
    return start


def _line(lines: mmap.mmap, start: int) -> tuple[int, bytes, bytes]:
    """Return where the next ref begins, this one's id and its name."""
    end = lines.find(b"\n", start)
    oid, blank, name = lines[start:end].partition(b" ") if end != -1 else (b"", b"", b"")
    if not blank or len(oid) not in {40, 64}:
        raise RepositoryDamaged("the view's packed-refs is damaged", why="a line has no object id")
    if lines[end + 1 : end + 2] == b"^":
        peeled = lines.find(b"\n", end + 1)
        end = peeled if peeled != -1 else len(lines)
    return end + 1, oid, name
