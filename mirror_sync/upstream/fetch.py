"""Git objects of an upstream: one pack by protocol v2, asked for by frozen ids."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

from mirror_sync.domain.names import is_git_oid
from mirror_sync.errors import UpstreamInvalid, UpstreamUnavailable, UsageError
from mirror_sync.ports import FetchRequest
from mirror_sync.upstream.answers import clean, failure, media_type
from mirror_sync.upstream.connections import Answer, Question
from mirror_sync.upstream.memory import Capabilities
from mirror_sync.upstream.observe import REQUEST, RESULT, capabilities, command_head
from mirror_sync.upstream.pktline import Mark, Packet, pkt, split_stream
from mirror_sync.upstream.place import Place
from mirror_sync.upstream.reflist import shallow_upstream

MAX_HAVES = 16_384
"""More boundaries than this cost the server more to read than they save; the rest is sent again at worst."""

GZIP_FROM = 1024
PATIENCE = 10.0
"""A server may count objects for minutes and send only keep-alives meanwhile."""

NOT_OURS = "not our ref"


def fetch(place: Place, request: FetchRequest) -> Iterator[bytes]:
    """Yield one pack's bytes; see :meth:`mirror_sync.ports.Upstream.fetch`."""
    if not request.wants:
        raise UsageError("a fetch wants at least one object")
    known = capabilities(place)
    if known.protocol != 2:
        raise UsageError("this upstream speaks nothing newer than protocol v0; stock git fetches from it")
    body = fetch_request(request, known)
    headers = {
        "Git-Protocol": "version=2",
        "Content-Type": REQUEST,
        "Accept": RESULT,
        **place.authorization(known.base),
    }
    if len(body) > GZIP_FROM:
        body = gzip.compress(body, 6, mtime=0)
        headers["Content-Encoding"] = "gzip"
    question = Question(
        "POST", f"{known.base}/git-upload-pack", "fetch", headers, body=body, bulk=True, patience=PATIENCE
    )
    with place.connections.ask(question, place.rule(known.base.netloc)) as answer:
        _check(place, answer)
        yield from demultiplex(answer.pieces())


def fetch_request(request: FetchRequest, known: Capabilities) -> bytes:
    """Return the fetch command for ``request``; ``done`` is said at once, so one round trip is all."""
    oids = [*request.wants, *request.haves[:MAX_HAVES]]
    if not all(is_git_oid(oid) for oid in oids):
        raise UsageError("a fetch names objects by their whole ids")
    return b"".join(
        [
            command_head("fetch", known),
            pkt(b"thin-pack\n"),
            pkt(b"no-progress\n"),
            pkt(b"ofs-delta\n"),
            *(pkt(f"want {oid}\n".encode()) for oid in dict.fromkeys(request.wants)),
            *(pkt(f"have {oid}\n".encode()) for oid in dict.fromkeys(request.haves[:MAX_HAVES])),
            pkt(b"done\n"),
            Mark.FLUSH.value,
        ]
    )


def _check(place: Place, answer: Answer) -> None:
    if answer.status != 200:
        place.connections.memory.forget(str(place.url))
        raise failure(
            answer.status,
            answer.headers,
            answer.head_of_body(),
            host=place.url.netloc,
            what="the objects",
            now=place.connections.clock.now(),
            credential=place.has_credential(),
        )
    if media_type(answer.headers) != RESULT:
        place.connections.memory.forget(str(place.url))
        raise UpstreamInvalid(
            f"{place.url.netloc} answered the fetch with something that is no git answer",
            why=f"Content-Type {clean(media_type(answer.headers)) or 'missing'}, expected {RESULT}",
        )


def demultiplex(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pack's bytes of one fetch answer.

    Raises :class:`UpstreamInvalid` when it is not one, or ends without its flush, and
    :class:`UpstreamUnavailable` when the server reports an error in it.
    """
    state = _Section()
    for batch in split_stream(pieces):
        data = b"".join(state.take(packet) for packet in batch)
        if data:
            yield data
    state.finish()


class _Section:
    """Where in a fetch answer we are: before the pack, in it, or behind it."""

    def __init__(self) -> None:
        self._in_pack = False
        self._ended = False
        self._begun = b""

    def take(self, packet: Packet) -> bytes:
        """Return the pack bytes of one packet."""
        if self._ended:
            raise UpstreamInvalid("upstream's pack goes on behind its end")
        if self._in_pack:
            return self._band(packet)
        if packet == b"packfile\n" or packet == b"packfile":
            self._in_pack = True
        elif isinstance(packet, bytes):
            self._before(packet)
        elif packet is Mark.FLUSH:
            raise UpstreamInvalid("upstream's answer to the fetch holds no pack")
        return b""

    @staticmethod
    def _before(packet: bytes) -> None:
        line = packet.rstrip(b"\n")
        if line.startswith(b"ERR "):
            raise _reported(line[4:])
        if line == b"shallow-info" or line.startswith(b"shallow "):
            raise shallow_upstream()
        raise UpstreamInvalid("upstream's answer to the fetch has a section that was not asked for", why=clean(line))

    def _band(self, packet: Packet) -> bytes:
        if packet is Mark.FLUSH:
            self._ended = True
            return b""
        if not isinstance(packet, bytes) or not packet:
            raise UpstreamInvalid("upstream's pack has a delimiter where none belongs")
        band = packet[0]
        if band == 1:
            if len(self._begun) < 4:
                self._begun = (self._begun + packet[1:5])[:4]
                if not b"PACK".startswith(self._begun):
                    raise UpstreamInvalid("upstream's pack does not begin as a pack")
            return packet[1:]
        if band == 2:
            return b""
        if band == 3:
            raise _reported(packet[1:])
        if packet.startswith(b"ERR "):
            raise _reported(packet[4:])
        raise UpstreamInvalid("upstream's pack comes on a band that is none", why=f"band {band}")

    def finish(self) -> None:
        """Raise unless a whole pack was seen."""
        if not self._ended:
            raise UpstreamUnavailable(
                "upstream broke off in the middle of a pack", why="the stream ended without a flush"
            )
        if self._begun != b"PACK":
            raise UpstreamInvalid("upstream's answer to the fetch holds no pack")


def _reported(said: bytes) -> UpstreamUnavailable:
    text = clean(said)
    if NOT_OURS in text:
        return UpstreamUnavailable(
            "upstream no longer has an object that its ref list named",
            why=text,
            remedy="it was rewritten meanwhile; the next observation sees the new list",
            code="MS-U409",
        )
    return UpstreamUnavailable("upstream gave up during the fetch", why=text)
