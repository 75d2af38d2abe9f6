"""The whole objects at the beginning of a pack that broke off, and a sound pack made of just them."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat

HEADER_BYTES: Final = 12
PIECE: Final = 256 * 1024

_WORDS: Final = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_PLAIN: Final = frozenset(_WORDS)
_BLOB: Final = 3
_TREES_AND_BLOBS: Final = frozenset({2, 3})
_OFFSET_DELTA: Final = 6
_REF_DELTA: Final = 7
_AT_ONCE: Final = 1024 * 1024
"""Inflated bytes held at a time: what a pack inflates to is its sender's choice."""

_FIRST_LOOK: Final = 4096
"""Most objects are small; looking at little first spares copying what lies behind them."""

_LONGEST_NUMBER: Final = 10
"""Bytes of the longest number in a pack that any object could need."""


class _MoreNeeded(Exception):
    """The bytes end inside an entry's head."""


class _Broken(Exception):
    """What stands here is no entry of a pack."""


class PackScan:
    """Finds where each object of a pack ends, as its bytes arrive in any pieces.

    It checks what can be told without resolving deltas: the entry heads, that each
    inflates to the size it says and proves so by its checksum, and that offset deltas
    lean on an entry before them.  It stops at the first entry that is wrong, or with
    ``until_trees`` at the first tree or blob.
    """

    def __init__(self, object_format: ObjectFormat, *, until_trees: bool = False, ids: bool = False) -> None:
        self.announced = 0
        self.ends = array("Q")
        """Offset behind each whole entry, in order."""
        self.stopped = False
        """A tree or blob begins here and that was asked about."""
        self.broken = False
        """What follows the whole entries is no entry."""
        self.ids: set[GitOid] = set()
        """With ``ids``: of the whole entries that are no deltas, which objects they are."""
        self.deltas = 0
        """How many of the whole entries are deltas."""
        self._others = 0
        self._object_format = object_format
        self._with_ids = ids
        self._digest: Any = None
        self._id_bytes = id_bytes(object_format)
        self._until_trees = until_trees
        self._started = False
        self._held = b""
        self._at = 0
        """Up to here what is held was used."""
        self._base = 0
        """Offset in the pack of what is held."""
        self._inflater: Any = None
        self._kind = 0
        self._size = 0
        self._made = 0

    @property
    def started(self) -> bool:
        """Whether the pack's head came."""
        return self._started

    @property
    def done(self) -> bool:
        """Whether nothing more is to be found."""
        return self._is_over()

    def _is_over(self) -> bool:
        return self.broken or self.stopped or (self._started and len(self.ends) == self.announced)

    @property
    def only_blobs(self) -> bool:
        """Whether every whole entry is a blob as it is, which leans on nothing."""
        return not self._others

    @property
    def cut_size(self) -> int | None:
        """Size of the object that the bytes so far end in, where its head came and it is no delta."""
        if self._inflater is None or self.done or self._kind not in _PLAIN:
            return None
        return self._size

    def end(self, objects: int) -> int:
        """Return the offset behind the first ``objects`` entries."""
        return self.ends[objects - 1] if objects else HEADER_BYTES

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the pack."""
        if self.done:
            return
        self._base += self._at
        self._held, self._at = self._held[self._at :] + data, 0
        try:
            if not self._started:
                self._start()
            while self._at < len(self._held):
                if self._inflater is None:
                    if self._is_over():
                        break
                    self._head()
                self._inflate()
        except _MoreNeeded:
            pass
        except (_Broken, zlib.error):
            self.broken = True

    def _start(self) -> None:
        if len(self._held) < HEADER_BYTES:
            raise _MoreNeeded
        if self._held[:4] != b"PACK" or int.from_bytes(self._held[4:8]) not in (2, 3):
            raise _Broken
        self.announced = int.from_bytes(self._held[8:12])
        self._started = True
        self._at = HEADER_BYTES

    def _head(self) -> None:
        """Read the head of the entry that begins here."""
        begin = self._base + self._at
        digits, at = _number(self._held, self._at)
        kind, size = (digits[0] >> 4) & 7, digits[0] & 15
        for place, byte in enumerate(digits[1:]):
            size |= (byte & 0x7F) << (4 + 7 * place)
        if kind == _OFFSET_DELTA:
            digits, at = _number(self._held, at)
            distance = digits[0] & 0x7F
            for byte in digits[1:]:
                distance = ((distance + 1) << 7) | (byte & 0x7F)
            if not self._is_entry(begin - distance):
                raise _Broken
        elif kind == _REF_DELTA:
            at += self._id_bytes
            if at > len(self._held):
                raise _MoreNeeded
        elif kind not in _PLAIN:
            raise _Broken
        if self._until_trees and kind in _TREES_AND_BLOBS:
            self.stopped = True
            return
        self._kind, self._size, self._made = kind, size, 0
        self._inflater = zlib.decompressobj()
        self._digest = None
        if self._with_ids and kind in _PLAIN:
            self._digest = checksum(self._object_format)
            self._digest.update(b"%s %d\0" % (_WORDS[kind], size))
        self._at = at

    def _is_entry(self, offset: int) -> bool:
        """Tell whether an entry before the present one begins at ``offset``."""
        if offset == HEADER_BYTES:
            return len(self.ends) > 0
        place = bisect_left(self.ends, offset)
        return place < len(self.ends) - 1 and self.ends[place] == offset

    def _inflate(self) -> None:
        """Inflate the present entry as far as its bytes are here."""
        inflater, look = self._inflater, _FIRST_LOOK
        while inflater is not None and self._at < len(self._held):
            tail = piece = self._held[self._at : self._at + look]
            while True:
                content = inflater.decompress(tail, _AT_ONCE)
                made = len(content)
                self._made += made
                if self._digest is not None:
                    self._digest.update(content)
                if self._made > self._size:
                    raise _Broken
                tail = inflater.unconsumed_tail
                if inflater.eof or (not tail and made < _AT_ONCE):
                    break
            self._at += len(piece) - len(inflater.unused_data)
            if inflater.eof:
                if self._made != self._size:
                    raise _Broken
                self.ends.append(self._base + self._at)
                self.deltas += self._kind not in _PLAIN
                self._others += self._kind != _BLOB
                if self._digest is not None:
                    self.ids.add(GitOid(self._digest.hexdigest()))
                inflater = self._inflater = None
            look = min(look * 4, PIECE)


def _number(held: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes of a number that goes on while their top bit is set, and where it ends."""
    end = at
    while True:
        if end >= len(held):
            raise _MoreNeeded
        end += 1
        if not held[end - 1] & 0x80:
            return held[at:end], end
        if end - at >= _LONGEST_NUMBER:
            raise _Broken


def id_bytes(object_format: ObjectFormat) -> int:
    """Return the length of a raw object id."""
    return 32 if object_format is ObjectFormat.SHA256 else 20


def checksum(object_format: ObjectFormat) -> Any:
    """Return a fresh hash of the kind that closes a pack."""
    if object_format is ObjectFormat.SHA256:
        return hashlib.sha256()
    return hashlib.sha1(usedforsecurity=False)


def scan_file(path: Path, object_format: ObjectFormat) -> PackScan:
    """Scan what there is of a pack in a file."""
    scan = PackScan(object_format)
    with path.open("rb") as stream:
        while not scan.done and (data := stream.read(PIECE)):
            scan.feed(data)
    return scan


def prefix(path: Path, scan: PackScan, objects: int, object_format: ObjectFormat) -> Iterator[bytes]:
    """Yield a sound pack of the first ``objects`` entries of the file at ``path``, which is left as it is."""
    left = scan.end(objects)
    digest = checksum(object_format)
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)[:8] + objects.to_bytes(4)
        digest.update(head)
        yield head
        left -= HEADER_BYTES
        while left:
            data = stream.read(min(left, PIECE))
            if not data:
                raise EOFError
            left -= len(data)
            digest.update(data)
            yield data
    yield digest.digest()


def pack_of_blob(path: Path, size: int, object_format: ObjectFormat) -> Iterator[bytes]:
    """Yield a pack that holds one blob: the content of the file at ``path``, ``size`` bytes long."""
    digest = checksum(object_format)
    deflater = zlib.compressobj()
    rest = size >> 4
    head = bytearray([(3 << 4) | (size & 15) | (0x80 if rest else 0)])
    while rest:
        head.append((rest & 0x7F) | (0x80 if rest > 0x7F else 0))
        rest >>= 7
    with path.open("rb") as stream:
        data = b"PACK" + (2).to_bytes(4) + (1).to_bytes(4) + bytes(head)
        while True:
            if data:
                digest.update(data)
                yield data
            content = stream.read(PIECE)
            if not content:
                break
            data = deflater.compress(content)
    data = deflater.flush()
    digest.update(data)
    yield data
    yield digest.digest()
