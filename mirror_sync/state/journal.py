"""How ref updates are packed into rows of the ref journal.

A first fill moves 100,000 refs at once; a row for each would cost more than the
publish.  A pack holds up to :data:`PACK_ENTRIES` entries, each a letter for its kind,
the old and the new id as bytes where the kind has them, and the ref's bytes ended by NUL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mirror_sync.domain.names import GitOid, ref_bytes, ref_from_bytes
from mirror_sync.domain.refs import Change
from mirror_sync.domain.runs import RefJournalEntry

PACK_ENTRIES = 500

_LETTERS = {
    Change.CREATE: b"c",
    Change.FAST_FORWARD: b"f",
    Change.FORCED: b"F",
    Change.DELETE: b"d",
}
_CHANGES = {letter[0]: change for change, letter in _LETTERS.items()}


def packs(entries: Sequence[RefJournalEntry]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(index of the first entry, packed entries)``."""
    for start in range(0, len(entries), PACK_ENTRIES):
        yield start, _pack(entries[start : start + PACK_ENTRIES])


def _pack(entries: Sequence[RefJournalEntry]) -> bytes:
    out = bytearray()
    for entry in entries:
        old = b"" if entry.old is None else bytes.fromhex(entry.old)
        new = b"" if entry.new is None else bytes.fromhex(entry.new)
        out += _LETTERS[entry.change]
        out += bytes((len(old), len(new)))
        out += old
        out += new
        out += ref_bytes(entry.ref)
        out += b"\0"
    return bytes(out)


def unpack(packed: bytes) -> list[RefJournalEntry]:
    """Return the entries of one pack, in order."""
    entries: list[RefJournalEntry] = []
    at = 0
    while at < len(packed):
        change = _CHANGES[packed[at]]
        old_end = at + 3 + packed[at + 1]
        new_end = old_end + packed[at + 2]
        end = packed.index(b"\0", new_end)
        entries.append(
            RefJournalEntry(
                ref=ref_from_bytes(packed[new_end:end]),
                old=_oid(packed[at + 3 : old_end]),
                new=_oid(packed[old_end:new_end]),
                change=change,
            )
        )
        at = end + 1
    return entries


def _oid(raw: bytes) -> GitOid | None:
    return GitOid(raw.hex()) if raw else None


def pack_tips(tips: frozenset[GitOid]) -> bytes:
    """Return a set of object ids as bytes, led by the length of one."""
    raw = sorted(bytes.fromhex(tip) for tip in tips)
    return bytes((len(raw[0]),)) + b"".join(raw) if raw else b""


def unpack_tips(packed: bytes) -> frozenset[GitOid]:
    """Return the set that :func:`pack_tips` stored."""
    if not packed:
        return frozenset()
    width = packed[0]
    return frozenset(GitOid(packed[at : at + width].hex()) for at in range(1, len(packed), width))
