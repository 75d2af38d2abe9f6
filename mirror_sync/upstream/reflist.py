"""Reading a ref list to its last byte: protocol v2's, and the advertisement of v0 and v1.

Git itself takes an empty body, a login page or a JSON error for "no refs"
(``docs/promises.md``); here nothing but a whole and valid list is one.  Sources:
gitprotocol-v2, gitprotocol-http and gitprotocol-pack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mirror_sync.domain.names import GitOid, RefName, UpstreamUrl, ref_from_bytes
from mirror_sync.domain.refs import NO_HEAD, ObjectFormat
from mirror_sync.errors import UpstreamInvalid, UpstreamUnavailable
from mirror_sync.upstream.answers import clean
from mirror_sync.upstream.memory import Capabilities
from mirror_sync.upstream.pktline import Mark, Packet, packets, pkt

MAX_REFS = 1_000_000
NOWHERE = UpstreamUrl("https", "invalid", 443, "/")
HEX_DIGITS = {ObjectFormat.SHA1: 40, ObjectFormat.SHA256: 64}


@dataclass(frozen=True, slots=True)
class RefList:
    """Every ref an answer names, HEAD's symbolic target when it told one, and what annotated tags stand for."""

    tips: dict[RefName, GitOid]
    head: RefName = NO_HEAD
    peeled: Mapping[RefName, GitOid] = field(default_factory=dict)
    head_tip: GitOid | None = None


def parse_capabilities(body: bytes) -> Capabilities:
    """Return what an ``info/refs`` answer says of its server; ``base`` is left for the caller to fill.

    Takes the answer with or without the ``# service`` preamble, and raises
    :class:`UpstreamInvalid` for anything that does not begin as protocol v2, v1 or v0 does.
    The refs of a v0 answer are checked by :func:`parse_advertisement`.
    """
    lines = _advertised(body)
    first = next(lines, None)
    if first != b"version 2":
        first = next(lines, None) if first == b"version 1" else first
        format_ = ObjectFormat.SHA1 if _says_nothing(body, first) else _v0_features(first)[1]
        return Capabilities(NOWHERE, moved=False, protocol=0, object_format=format_)
    features: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b"=")
        features[name] = value
    if b"ls-refs" not in features or b"fetch" not in features:
        raise UpstreamInvalid("upstream speaks protocol v2 but offers no ls-refs or no fetch")
    fetching = features[b"fetch"].split(b" ")
    return Capabilities(
        NOWHERE,
        moved=False,
        protocol=2,
        object_format=_object_format(features.get(b"object-format", b"sha1")),
        names_format=b"object-format" in features,
        names_agent=b"agent" in features,
        unborn=b"unborn" in features[b"ls-refs"].split(b" "),
        filters=b"filter" in fetching,
        shallow=b"shallow" in fetching,
    )


def _advertised(body: bytes) -> Iterator[bytes]:
    """Yield the lines of one advertisement, which must end in a flush with nothing behind it."""
    stream = packets(body)
    first = next(stream, None)
    if isinstance(first, bytes) and first.rstrip(b"\n") == b"# service=git-upload-pack":
        if next(stream, None) is not Mark.FLUSH:
            raise UpstreamInvalid("upstream's answer has no flush behind its service line")
        first = next(stream, None)
    packet: Packet | None = first
    while packet is not Mark.FLUSH:
        if packet is None:
            raise UpstreamInvalid("upstream's answer ends without a flush", why="it was cut short, or is empty")
        if isinstance(packet, Mark):
            raise UpstreamInvalid("upstream's answer has a delimiter where none belongs")
        _raise_if_error(packet)
        yield packet[:-1] if packet.endswith(b"\n") else packet
        packet = next(stream, None)
    if next(stream, None) is not None:
        raise UpstreamInvalid("upstream's answer goes on behind its end")


def _raise_if_error(packet: bytes) -> None:
    if packet.startswith(b"ERR "):
        raise UpstreamUnavailable("upstream reports an error", why=clean(packet[4:]))


def _object_format(raw: bytes) -> ObjectFormat:
    try:
        return ObjectFormat(raw.decode("ascii", "replace"))
    except ValueError as error:
        raise UpstreamInvalid("upstream names objects by an unknown hash", why=clean(raw)) from error


# ---------------------------------------------------------------- protocol v0 and v1


def parse_advertisement(body: bytes) -> tuple[RefList, ObjectFormat]:
    """Return the refs of a whole v0 or v1 ``info/refs`` answer; raises :class:`UpstreamInvalid` for a bad one."""
    lines = _advertised(body)
    first = next(lines, None)
    if first == b"version 1":
        first = next(lines, None)
    if _says_nothing(body, first):
        return RefList({}), ObjectFormat.SHA1
    record, object_format, heads = _v0_features(first)
    collector = Collector(object_format)
    if record == b"0" * HEX_DIGITS[object_format] + b" capabilities^{}":
        if next(lines, None) is not None:
            raise UpstreamInvalid("upstream's list says that it is empty and goes on")
        return RefList({}, ref_from_bytes(heads[0]) if heads else NO_HEAD), object_format
    collector.add_v0(record)
    shallow = False
    for line in lines:
        if line.startswith(b"shallow "):
            shallow = True
            continue
        collector.add_v0(line)
    if shallow:
        raise shallow_upstream()
    head = ref_from_bytes(heads[0]) if heads else NO_HEAD
    return RefList(collector.tips, head, collector.peeled, collector.head_tip), object_format


def _says_nothing(body: bytes, first: bytes | None) -> bool:
    """Tell whether this is the whole answer of older git (2.39 is) for an empty repository: a service line and two flushes."""
    return first is None and body == pkt(b"# service=git-upload-pack\n") + 2 * Mark.FLUSH.value


def _v0_features(first: bytes | None) -> tuple[bytes, ObjectFormat, list[bytes]]:
    """Return the first line's ref, the object format and HEAD's targets of a v0 or v1 answer."""
    if first is None or b"\0" not in first:
        raise UpstreamInvalid("upstream's answer is no ref list", why="the first line names no capabilities")
    record, _, raw = first.partition(b"\0")
    features = raw.split()
    formats = [item[14:] for item in features if item.startswith(b"object-format=")]
    heads = [item[12:] for item in features if item.startswith(b"symref=HEAD:")]
    return record, _object_format(formats[0]) if formats else ObjectFormat.SHA1, heads


def shallow_upstream() -> UpstreamInvalid:
    """Return the error for a repository that itself lacks history."""
    return UpstreamInvalid(
        "upstream is a shallow repository",
        why="its history is cut off, so no complete mirror of it can be made",
        remedy="mirror the repository it was cloned from",
        code="MS-U512",
    )


class Collector:
    """Gathers refs of one answer and refuses what cannot be in one."""

    def __init__(self, object_format: ObjectFormat) -> None:
        self._is_oid = re.compile(rb"[0-9a-f]{%d}\Z" % HEX_DIGITS[object_format]).match
        self._zero = b"0" * HEX_DIGITS[object_format]
        self.tips: dict[RefName, GitOid] = {}
        self.peeled: dict[RefName, GitOid] = {}
        self.head_tip: GitOid | None = None
        """What HEAD is listed at."""

    def add_v0(self, line: bytes) -> None:
        """Add ``<oid> SP <name>``, or what the tag before it stands for: ``<oid> SP <name>^{}``."""
        oid, _, name = line.partition(b" ")
        if name.endswith(b"^{}"):
            self.peel(oid, name.removesuffix(b"^{}"))
            return
        self.add(oid, name)

    def peel(self, oid: bytes, name: bytes) -> None:
        """Note that the tag at ``name`` stands for ``oid``; of a ref that was not listed it means nothing."""
        self._check(oid, name)
        ref = ref_from_bytes(name)
        if ref in self.tips:
            self.peeled[ref] = GitOid(oid.decode("ascii"))

    def add(self, oid: bytes, name: bytes) -> None:
        """Add one ref; HEAD itself is no tip."""
        self._check(oid, name)
        if name == b"HEAD":
            if self.head_tip is not None:
                raise UpstreamInvalid("upstream's list names HEAD twice")
            self.head_tip = GitOid(oid.decode("ascii"))
            return
        ref = ref_from_bytes(name)
        if ref in self.tips:
            raise UpstreamInvalid("upstream's list names a ref twice", why=clean(name))
        self.tips[ref] = GitOid(oid.decode("ascii"))
        if len(self.tips) > MAX_REFS:
            raise UpstreamInvalid(f"upstream lists more than {MAX_REFS:,} refs")

    def _check(self, oid: bytes, name: bytes) -> None:
        if not self._is_oid(oid) or oid == self._zero:
            raise UpstreamInvalid("upstream's list has a line without an object id", why=clean(oid[:80]))
        if not name or b"\n" in name or b"\0" in name:
            raise UpstreamInvalid("upstream's list has a line without a ref name")


def parse_list(body: bytes, known: Capabilities) -> RefList:
    """Return the refs of a whole ls-refs answer; raises :class:`UpstreamInvalid` for a bad one."""
    collector = Collector(known.object_format)
    head, unborn = NO_HEAD, False
    for line in _advertised(body):
        oid, _, rest = line.partition(b" ")
        name, _, attributes = rest.partition(b" ")
        if oid == b"unborn":
            if name != b"HEAD" or unborn or not known.unborn:
                raise UpstreamInvalid("upstream's list has an unborn ref that cannot be", why=clean(line))
            unborn = True
        else:
            collector.add(oid, name)
        if not attributes:
            continue
        if name == b"HEAD":
            head = _symref_target(attributes) or head
            continue
        for item in attributes.split(b" "):
            if item.startswith(b"peeled:"):
                collector.peel(item[7:], name)
    return RefList(collector.tips, head, collector.peeled, collector.head_tip)


def _symref_target(attributes: bytes) -> RefName | None:
    targets = [item[14:] for item in attributes.split(b" ") if item.startswith(b"symref-target:")]
    if len(targets) > 1:
        raise UpstreamInvalid("upstream's HEAD has two targets")
    return ref_from_bytes(targets[0]) if targets else None
