"""Asking an upstream for its refs: by protocol v2 where it is spoken, one request for an unchanged poll."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urljoin, urlsplit

from mirror_sync import __version__
from mirror_sync.domain.names import (
    DEFAULT_PORTS,
    RefName,
    UpstreamUrl,
    parse_upstream_url,
    printable,
    ref_bytes,
    refname_fault,
)
from mirror_sync.domain.refs import NO_HEAD, ObjectFormat, Observation, RefSnapshot, select, sound
from mirror_sync.errors import (
    AddressRefused,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
    UsageError,
)
from mirror_sync.upstream.answers import failure, media_type
from mirror_sync.upstream.connections import Answer, Question
from mirror_sync.upstream.memory import Capabilities
from mirror_sync.upstream.pktline import Mark, pkt
from mirror_sync.upstream.place import Place
from mirror_sync.upstream.reflist import RefList, parse_advertisement, parse_capabilities, parse_list

MAX_LIST_BYTES = 256 * 1024 * 1024
SERVICE = "service=git-upload-pack"
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
RESULT = "application/x-git-upload-pack-result"
REQUEST = "application/x-git-upload-pack-request"


def observe(place: Place, patterns: Sequence[str], *, known_digest: str) -> Observation | None:
    """Return the ref snapshot of ``place``; ``None`` when the answer is the one ``known_digest`` names.

    With known capabilities it is one request; a server that no longer keeps to them
    is asked anew from the start, once.
    """
    connections, url = place.connections, str(place.url)
    started = connections.clock.now()
    known = connections.memory.capabilities(url)
    if known is not None and known.protocol == 2:
        try:
            return _list_refs(place, known, patterns, known_digest=known_digest, started=started)
        except (UpstreamInvalid, AddressRefused):
            connections.memory.forget(url)
        except (UpstreamGone, UpstreamRefused, UpstreamUnavailable):
            connections.memory.forget(url)
            raise
    found, body = probe(place)
    if found.protocol == 2:
        return _list_refs(place, found, patterns, known_digest=known_digest, started=started)
    digest = _digest(b"v0", found.object_format, patterns, body)
    if digest == known_digest:
        return None
    refs, _ = parse_advertisement(body)
    return _observation(found, refs, patterns, digest=digest, started=started)


def capabilities(place: Place) -> Capabilities:
    """Return what the server can do, from memory when it is fresh."""
    known = place.connections.memory.capabilities(str(place.url))
    return known if known is not None else probe(place)[0]


# ---------------------------------------------------------------- GET info/refs


def probe(place: Place) -> tuple[Capabilities, bytes]:
    """Ask ``info/refs``, follow one allowed redirect, and return what the server can do and its answer."""
    base, body = place.url, b""
    with _get(place, base) as answer:
        moved = answer.status in (301, 308)
        if moved:
            base = _moved(place, answer)
        else:
            body = _checked_body(place, answer, ADVERTISEMENT, what="the ref list")
    if moved:
        with _get(place, base) as answer:
            body = _checked_body(place, answer, ADVERTISEMENT, what="the ref list")
    found = replace(parse_capabilities(body), base=base, moved=moved)
    place.connections.memory.remember(str(place.url), found)
    return found, body


def _get(place: Place, base: UpstreamUrl) -> Answer:
    headers = {"Git-Protocol": "version=2", "Accept": "*/*", "Pragma": "no-cache", **place.authorization(base)}
    return place.connections.ask(
        Question("GET", f"{base}/info/refs?{SERVICE}", "observe", headers), place.rule(base.netloc)
    )


def _moved(place: Place, answer: Answer) -> UpstreamUrl:
    """Return where a permanent redirect leads, when it may be followed."""
    said = answer.headers.get("location", "").strip()
    location = urljoin(f"{place.url}/info/refs?{SERVICE}", said) if said else ""
    shown = printable(location.partition("?")[0][:200])
    remedy = "if this is where the repository lives now, enrol it under that address"
    try:
        parts = urlsplit(location)
        if not parts.path.endswith("/info/refs") or parts.query != SERVICE or parts.fragment:
            raise UpstreamInvalid(
                f"{place.url.netloc} redirects the ref list to something else", why=shown, remedy=remedy, code="MS-U302"
            )
        base = parse_upstream_url(location.partition("?")[0].removesuffix("/info/refs"))
    except (UsageError, ValueError) as error:
        raise UpstreamInvalid(
            f"{place.url.netloc} redirects the ref list to no repository", why=shown, remedy=remedy, code="MS-U302"
        ) from error
    upgraded = base.scheme == "https" and (base.port == place.url.port or _default_ports(base, place.url))
    if base.host != place.url.host or not (upgraded or base.origin == place.url.origin):
        raise AddressRefused(
            f"{place.url.netloc} redirects to {base.netloc}, which is not followed",
            why="credentials and trust end at a host's border",
            remedy=f"if the repository moved, enrol {base}",
            code="MS-U301",
        )
    return base


def _default_ports(new: UpstreamUrl, old: UpstreamUrl) -> bool:
    return new.port == DEFAULT_PORTS[new.scheme] and old.port == DEFAULT_PORTS[old.scheme]


def _checked_body(place: Place, answer: Answer, kind: str, *, what: str) -> bytes:
    if answer.status != 200:
        raise failure(
            answer.status,
            answer.headers,
            answer.head_of_body(),
            host=place.url.netloc,
            what=what,
            now=place.connections.clock.now(),
            credential=place.has_credential(),
        )
    if media_type(answer.headers) != kind:
        raise UpstreamInvalid(
            f"{place.url.netloc} answered {what} with something that is no git answer",
            why=f"Content-Type {printable(media_type(answer.headers)[:80]) or 'missing'}, expected {kind}",
            remedy="a login page, a portal or a proxy may stand in between; or this is no repository",
        )
    return answer.body(MAX_LIST_BYTES)


# ---------------------------------------------------------------- protocol v2


def command_head(command: str, known: Capabilities) -> bytes:
    """Return the beginning of a protocol v2 request, up to its delimiter."""
    head = pkt(f"command={command}\n".encode())
    if known.names_agent:
        head += pkt(f"agent=mirror-sync/{__version__}\n".encode())
    if known.names_format:
        head += pkt(f"object-format={known.object_format}\n".encode())
    return head + Mark.DELIM.value


def list_request(known: Capabilities, patterns: Sequence[str]) -> bytes:
    """Return the ls-refs request; prefixes are hints to the server, the answer is filtered again."""
    prefixes = [b"HEAD", *(ref_bytes(pattern.removesuffix("*")) for pattern in patterns)]
    return b"".join(
        [
            command_head("ls-refs", known),
            pkt(b"peel\n"),
            pkt(b"symrefs\n"),
            pkt(b"unborn\n") if known.unborn else b"",
            *(pkt(b"ref-prefix " + prefix + b"\n") for prefix in dict.fromkeys(prefixes)),
            Mark.FLUSH.value,
        ]
    )


def _list_refs(
    place: Place, known: Capabilities, patterns: Sequence[str], *, known_digest: str, started: float
) -> Observation | None:
    headers = {
        "Git-Protocol": "version=2",
        "Content-Type": REQUEST,
        "Accept": RESULT,
        **place.authorization(known.base),
    }
    question = Question("POST", f"{known.base}/git-upload-pack", "observe", headers, body=list_request(known, patterns))
    with place.connections.ask(question, place.rule(known.base.netloc)) as answer:
        body = _checked_body(place, answer, RESULT, what="the ref list")
    digest = _digest(b"v2", known.object_format, patterns, body)
    if digest == known_digest:
        return None
    return _observation(known, parse_list(body, known), patterns, digest=digest, started=started)


# ---------------------------------------------------------------- what both end in


def _digest(protocol: bytes, object_format: ObjectFormat, patterns: Sequence[str], body: bytes) -> str:
    """Return a name for an exact answer to an exact question."""
    asked = b"\n".join([protocol, object_format.encode(), *(ref_bytes(pattern) for pattern in patterns)])
    return hashlib.sha256(b"%d\n%b\n%b" % (len(asked), asked, body)).hexdigest()


def _observation(
    known: Capabilities, refs: RefList, patterns: Sequence[str], *, digest: str, started: float
) -> Observation:
    tips, refused = sound(select(refs.tips, tuple(patterns)))
    head = refs.head
    if head and (fault := refname_fault(head)) is not None:
        refused[RefName("HEAD")] = f"points at {printable(head[:200])}, a name that {fault}"
        head = NO_HEAD
    return Observation(
        started_at=started,
        snapshot=RefSnapshot(tips, head),
        digest=digest,
        object_format=known.object_format,
        protocol=known.protocol,
        refused=refused,
        moved_to=str(known.base) if known.moved else "",
        peeled={tips[name]: oid for name, oid in refs.peeled.items() if tips.get(name, oid) != oid},
        head_tip=refs.head_tip,
    )
