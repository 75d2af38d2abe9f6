"""What a request to ``git upload-pack`` asks for, and where in the answer its pack begins."""

from __future__ import annotations

import os
from enum import Enum
from typing import Final

HEADER: Final = 4
LOOKED_AT_BYTES: Final = 64 * 1024
MAX_NOTICE_BYTES: Final = 900
"""The oldest kind of side band takes packets of a thousand bytes."""

_PACK_FOLLOWS: Final = b"packfile\n"
_PROGRESS: Final = b"\x02"
_FATAL: Final = b"\x03"
_DATA: Final = 1
_BANDS: Final = frozenset((1, 2, 3))
_DONE: Final = (b"0009done\n", b"0009done\n0000", b"0008done", b"0008done0000")


class Asked(Enum):
    """What one request asks for."""

    NO_PACK = "no pack"
    """A listing, or nothing at all."""
    PERHAPS = "perhaps"
    """Both sides still look for what they have in common; a pack may follow."""
    PACK = "pack"


def what_is_asked(descriptor: int) -> Asked:
    """Return what the request from the descriptor's position on asks for; the position stays."""
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    head = os.pread(descriptor, LOOKED_AT_BYTES, start)
    first = head[HEADER:32]
    if first.startswith(b"command=") and not first.startswith(b"command=fetch"):
        return Asked.NO_PACK
    if b"want" not in head and len(head) < LOOKED_AT_BYTES:
        return Asked.NO_PACK
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 16, max(start, size - 16))
    return Asked.PACK if tail.endswith(_DONE) else Asked.PERHAPS


def packet(payload: bytes) -> bytes:
    """Return one packet."""
    return b"%04x" % (len(payload) + HEADER) + payload


def notice_packet(text: str) -> bytes:
    """Return the packet that makes a client show ``text`` behind ``remote:``, while a pack is sent."""
    return packet(_PROGRESS + text.encode()[:MAX_NOTICE_BYTES].rstrip(b"\n") + b"\n")


def fatal_packet(text: str) -> bytes:
    """Return the packet that ends a pack with an error that the client shows."""
    return packet(_FATAL + text.encode()[:MAX_NOTICE_BYTES].rstrip(b"\n") + b"\n")


class Opening:
    """Follows an answer's packets until its pack begins, and puts a notice there.

    Under protocol v2 a packet says that the pack follows; before that, the first packet
    with a band's number is its beginning.  A client that asked for no side band gets the
    bare pack, and no notice.
    """

    def __init__(self, notice: str = "") -> None:
        self._notice = notice_packet(notice) if notice else b""
        self._rest = b""
        self.began = False
        """Whether the pack has begun; nothing is looked at any more then."""
        self.banded = False
        """Whether it comes in a side band."""
        self.flows = False
        """Whether bytes of the pack itself have come: until then git counts and compresses."""
        self.pack_at = 0
        """Where it begins, in what :meth:`feed` last returned; the notice counts to it."""

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on of the answer so far; packets that are not whole yet stay behind."""
        if self.began:
            self._look_for_data(data)
            return data
        data = self._rest + data
        at = 0
        while not self.began and at + HEADER <= len(data):
            size = _size(data[at : at + HEADER])
            if size is None:
                self.began = True
            elif size < HEADER:
                at += HEADER
            elif at + HEADER < len(data) and data[at + HEADER] in _BANDS:
                self.began = self.banded = True
            elif at + size > len(data):
                break
            else:
                payload = data[at + HEADER : at + size]
                at += size
                self.began = self.banded = payload == _PACK_FOLLOWS
        if self.began:
            self._rest = b""
            self.pack_at = at
            self.flows = not self.banded
            self._look_for_data(data[at:])
            return data[:at] + self._notice + data[at:] if self.banded else data
        self._rest = data[at:]
        return data[:at]

    def _look_for_data(self, data: bytes) -> None:
        """Follow the packets of the pack up to the first that brings bytes of it; those to keep a line alive are empty."""
        if self.flows:
            return
        data, self._rest = self._rest + data, b""
        at = 0
        while at + HEADER < len(data):
            size = _size(data[at : at + HEADER])
            if size is None or (data[at + HEADER] == _DATA and size > HEADER + 1):
                self.flows = True
                return
            if at + max(HEADER, size) > len(data):
                break
            at += max(HEADER, size)
        self._rest = data[at:]

    def end(self) -> bytes:
        """Return what stayed behind of an answer that ended without a pack."""
        rest, self._rest = self._rest, b""
        return b"" if self.began else rest


def _size(header: bytes) -> int | None:
    try:
        return int(header, 16) if header.isalnum() else None
    except ValueError:
        return None
