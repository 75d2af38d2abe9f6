"""Git's pkt-lines: four hex digits of length, then the payload (gitprotocol-common)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from mirror_sync.errors import UpstreamInvalid

MAX_PKT = 65_520


class Mark(Enum):
    """A pkt-line without a payload."""

    FLUSH = b"0000"
    DELIM = b"0001"
    RESPONSE_END = b"0002"


Packet = bytes | Mark


def pkt(payload: bytes) -> bytes:
    """Return ``payload`` as one pkt-line."""
    if len(payload) + 4 > MAX_PKT:
        raise ValueError("a pkt-line holds at most 65,516 bytes")
    return b"%04x" % (len(payload) + 4) + payload


def length(head: bytes) -> int:
    """Return the length that four hex digits state; raises :class:`UpstreamInvalid` for anything else."""
    # int() alone would take b" +1f" and b"0x1f" too.
    if len(head) != 4 or any(byte not in b"0123456789abcdefABCDEF" for byte in head):
        raise UpstreamInvalid(
            "upstream's answer is not in pkt-lines", why="no length of four hex digits where one belongs"
        )
    size = int(head, 16)
    if size == 3 or size > MAX_PKT:
        raise UpstreamInvalid("upstream's answer is not in pkt-lines", why=f"a pkt-line of {size} bytes cannot be")
    return size


_MARKS = {0: Mark.FLUSH, 1: Mark.DELIM, 2: Mark.RESPONSE_END}


def packets(data: bytes) -> Iterator[Packet]:
    """Yield every packet of a whole answer; raises :class:`UpstreamInvalid` when it is cut or not in pkt-lines."""
    at, end = 0, len(data)
    while at < end:
        size = length(data[at : at + 4])
        if size < 3:
            yield _MARKS[size]
            at += 4
            continue
        if at + size > end:
            raise UpstreamInvalid("upstream's answer ends inside a pkt-line")
        yield data[at + 4 : at + size]
        at += size


class Splitter:
    """Cuts a stream into packets; ``rest`` is what came of the one that is not whole yet."""

    def __init__(self) -> None:
        self.rest = b""

    def split(self, piece: bytes) -> list[Packet]:
        """Return the packets that ``piece`` completes; raises :class:`UpstreamInvalid` for what is no pkt-line."""
        data = self.rest + piece if self.rest else piece
        at, end = 0, len(data)
        batch: list[Packet] = []
        while end - at >= 4:
            size = length(data[at : at + 4])
            if size < 3:
                batch.append(_MARKS[size])
                at += 4
                continue
            if at + size > end:
                break
            batch.append(data[at + 4 : at + size])
            at += size
        self.rest = data[at:]
        return batch

    def finish(self) -> None:
        """Raise :class:`UpstreamInvalid` when the stream ended inside a packet."""
        if self.rest:
            raise UpstreamInvalid("upstream's answer ends inside a pkt-line")
