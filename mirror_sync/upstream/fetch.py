"""Git objects of an upstream: one pack by protocol v2, asked for by frozen ids."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence

from mirror_sync.domain.names import GitOid, is_git_oid
from mirror_sync.errors import UpstreamDeclined, UpstreamInvalid, UpstreamLacks, UpstreamUnavailable, UsageError
from mirror_sync.ports import Abilities, FetchRequest
from mirror_sync.upstream.answers import clean, failure, media_type
from mirror_sync.upstream.connections import Answer, Question
from mirror_sync.upstream.memory import Capabilities
from mirror_sync.upstream.observe import REQUEST, RESULT, capabilities, command_head
from mirror_sync.upstream.pktline import Mark, Packet, Splitter, pkt
from mirror_sync.upstream.place import Place
from mirror_sync.upstream.reflist import shallow_upstream

MAX_HAVES = 8_000
"""More of what is here costs the server more to read than it saves; the rest is sent again at worst."""

MAX_SHALLOW = 20_000
"""More commits without their parents than this are not told, and then nothing of what is here is."""

GZIP_FROM = 1024
TOO_LARGE = 413
PATIENCE = 10.0
"""A server may count objects for minutes and send only keep-alives meanwhile."""

_LACKS = re.compile(
    r"not our ref"  # git, and so GitHub, GitLab, Gitea and Bitbucket
    r"|\bwant \S+ not valid"  # JGit: Gerrit, Gitblit, GitBucket
    r"|wants invalid object"  # dulwich
    r"|missing unknown [0-9a-f]{40}|object not found|TF401035",  # JGit's store, go-git, Azure
    re.IGNORECASE,
)


def fetch(place: Place, request: FetchRequest) -> Iterator[bytes]:
    """Yield one pack's bytes; see :meth:`mirror_sync.ports.Upstream.fetch`."""
    if not request.wants:
        raise UsageError("a fetch wants at least one object")
    known = capabilities(place)
    if known.protocol != 2:
        raise UsageError("this upstream speaks nothing newer than protocol v0; stock git fetches from it")
    body = fetch_request(request, known)
    headers = {
        "Connection": "close",
        "Git-Protocol": "version=2",
        "Content-Type": REQUEST,
        "Accept": RESULT,
        **place.authorization(known.base),
    }
    if len(body) > GZIP_FROM:
        body = gzip.compress(body, 6, mtime=0)
        headers["Content-Encoding"] = "gzip"
    question = Question(
        "POST",
        f"{known.base}/git-upload-pack",
        "fetch",
        headers,
        body=body,
        bulk=True,
        fresh=True,
        urgency=place.urgency,
        payer=place.url.netloc,
        patience=PATIENCE,
    )
    rule = place.rule(known.base.netloc)
    with place.connections.ask(question, rule) as answer:
        _check(place, answer)
        if request.more:
            place.connections.make_ready(question, rule)
        yield from demultiplex(answer.pieces(), shallow=request.shallow)


def fetch_request(request: FetchRequest, known: Capabilities) -> bytes:
    """Return the fetch command for ``request``; ``done`` is said at once, so one round trip is all.

    Raises :class:`UpstreamDeclined` when the server says that it cannot do such a thing.
    """
    haves, shallow = request.haves[:MAX_HAVES], request.shallow
    if len(shallow) > MAX_SHALLOW:
        # What is here without its parents, when only some of it is told, hides what is wanted.
        haves, shallow = (), ()
    if not all(is_git_oid(oid) for oid in (*request.wants, *haves, *shallow)):
        raise UsageError("a fetch names objects by their whole ids")
    if request.filter and not known.filters:
        raise UpstreamDeclined("upstream takes no filters", why="its server does not offer any")
    if shallow and not known.shallow:
        raise UpstreamDeclined("upstream takes no shallow commits", why="its server does not offer it")
    return b"".join(
        [
            command_head("fetch", known),
            pkt(b"thin-pack\n") if request.thin else b"",
            pkt(b"no-progress\n"),
            pkt(b"ofs-delta\n"),
            pkt(f"filter {request.filter}\n".encode()) if request.filter else b"",
            *(pkt(f"want {oid}\n".encode()) for oid in dict.fromkeys(request.wants)),
            *(pkt(f"shallow {oid}\n".encode()) for oid in dict.fromkeys(shallow)),
            *(pkt(f"have {oid}\n".encode()) for oid in dict.fromkeys(haves)),
            pkt(b"done\n"),
            Mark.FLUSH.value,
        ]
    )


def abilities(place: Place) -> Abilities:
    """Return what the git server can do; see :meth:`mirror_sync.ports.Upstream.abilities`."""
    known = capabilities(place)
    return Abilities(known.protocol, known.object_format, filters=known.protocol == 2 and known.filters)


def _check(place: Place, answer: Answer) -> None:
    if answer.status == TOO_LARGE:
        raise UpstreamDeclined(f"{place.url.netloc} finds the request too long", why=f"HTTP {TOO_LARGE}")
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


def demultiplex(pieces: Iterator[bytes], *, shallow: Sequence[GitOid] = ()) -> Iterator[bytes]:
    """Yield the pack's bytes of one fetch answer, to a request that named ``shallow`` commits.

    Raises :class:`UpstreamInvalid` when it is not one, :class:`UpstreamUnavailable` when it
    ends without its flush, and :class:`UpstreamDeclined` when the server reports an error in it.
    """
    state, splitter = _Section(shallow), Splitter()
    try:
        for piece in pieces:
            data = b"".join(state.take(packet) for packet in splitter.split(piece))
            if data:
                yield data
        splitter.finish()
    except (UpstreamUnavailable, UpstreamInvalid):
        if data := state.begun(splitter.rest):
            yield data
        raise
    state.finish()


class _Section:
    """Where in a fetch answer we are: before the pack, in it, or behind it."""

    def __init__(self, shallow: Sequence[GitOid]) -> None:
        self._shallow = frozenset(oid.encode() for oid in shallow)
        self._in_info = False
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
        elif packet is Mark.DELIM:
            self._in_info = False
        return b""

    def _before(self, packet: bytes) -> None:
        line = packet.rstrip(b"\n")
        if line.startswith(b"ERR "):
            raise reported(line[4:])
        if line == b"shallow-info" and self._shallow:
            # Git begins its answer with one, mostly an empty one, to whoever names shallow commits.
            self._in_info = True
            return
        if self._in_info and (line.startswith(b"unshallow ") or line.removeprefix(b"shallow ") in self._shallow):
            return
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
            raise reported(packet[1:])
        if packet.startswith(b"ERR "):
            raise reported(packet[4:])
        raise UpstreamInvalid("upstream's pack comes on a band that is none", why=f"band {band}")

    def begun(self, rest: bytes) -> bytes:
        """Return the pack bytes at the beginning of a packet that broke off; empty when there are none."""
        sound = self._in_pack and not self._ended and self._begun == b"PACK"
        return rest[5:] if sound and rest[4:5] == b"\x01" else b""

    def finish(self) -> None:
        """Raise unless a whole pack was seen."""
        if not self._ended:
            raise UpstreamUnavailable(
                "upstream broke off in the middle of a pack", why="the stream ended without a flush"
            )
        if self._begun != b"PACK":
            raise UpstreamInvalid("upstream's answer to the fetch holds no pack")


def reported(said: bytes) -> UpstreamDeclined:
    """Return the error for what the server itself says went wrong."""
    text = clean(said)
    if _LACKS.search(text):
        return UpstreamLacks(
            "upstream has not, or does not give, an object that was asked for",
            why=text,
            remedy="if it was rewritten meanwhile, the next observation sees the new list",
        )
    return UpstreamDeclined("upstream gave up during the fetch", why=text)
