"""An upstream that follows a script."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mirror_sync.domain.names import GitOid, LfsOid, RefName, parse_upstream_url
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import ObjectFormat, Observation, RefSnapshot, select, sound
from mirror_sync.errors import (
    MirrorSyncError,
    ObjectMissingUpstream,
    UpstreamDeclined,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import Abilities, BlobBody, Clock, FetchRequest, GitAccess, LfsAction, LfsAnswer, LfsBody

PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one download; fields left alone do nothing."""

    error: MirrorSyncError | None = None
    """Raised instead of an answer."""
    cut_after: int | None = None
    """The stream breaks after that many bytes."""
    ends_after: int | None = None
    """The stream ends after that many bytes as if it were whole."""
    flip: bool = False
    """Every byte is wrong."""
    ignore_range: bool = False
    start_at: int | None = None
    """Answers from this byte whatever was asked."""
    overlong: int = 0
    """That many bytes of the object more than asked for, where it has them."""
    before_piece: Callable[[int], None] | None = None
    """Called with the offset before each piece is given out."""


@dataclass(slots=True)
class ScriptedBody:
    """Bytes of one object; implements :class:`mirror_sync.ports.LfsBody`."""

    start: int
    data: bytes
    piece: int
    fault: Fault
    upstream: ScriptedUpstream
    closed: bool = False
    abandoned: threading.Event = field(default_factory=threading.Event)

    def chunks(self) -> Iterator[bytes]:
        data = self.data
        if self.fault.flip:
            data = bytes(byte ^ 0xFF for byte in data)
        end = len(data)
        for limit in (self.fault.cut_after, self.fault.ends_after):
            end = end if limit is None else min(end, limit)
        for at in range(0, end, self.piece):
            if self.fault.before_piece is not None:
                self.fault.before_piece(self.start + at)
            if self.abandoned.is_set():
                raise UpstreamUnavailable("the connection broke")
            chunk = data[at : min(at + self.piece, end)]
            with self.upstream.guard:
                self.upstream.sent += len(chunk)
            yield chunk
        if self.fault.cut_after is not None:
            raise UpstreamUnavailable("the connection broke")

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.abandoned.set()


@dataclass(slots=True)
class ScriptedBlob:
    """Bytes of one file; implements :class:`mirror_sync.ports.BlobBody`."""

    start: int
    size: int | None
    data: bytes
    piece: int
    fault: Fault
    closed: bool = False

    def chunks(self) -> Iterator[bytes]:
        data = bytes(byte ^ 0xFF for byte in self.data) if self.fault.flip else self.data
        end = len(data) if self.fault.cut_after is None else min(len(data), self.fault.cut_after)
        for at in range(0, end, self.piece):
            yield data[at : min(at + self.piece, end)]
        if self.fault.cut_after is not None:
            raise UpstreamUnavailable("the connection broke")

    def close(self) -> None:
        self.closed = True


def one_line_each(request: FetchRequest) -> Iterable[bytes]:
    """Return a pack as doubles understand it: one line for each wanted object."""
    return [f"{oid}\n".encode() for oid in request.wants]


@dataclass
class ScriptedUpstream:
    """Answers from what a test put in; implements :class:`mirror_sync.ports.Upstream`.

    ``snapshot`` is what observing finds.  ``pack`` says which bytes a fetch yields.
    Errors queued in ``observe_errors``, ``fetch_errors`` and ``batch_errors`` are raised
    first, one a call (``None`` lets one call pass).  ``faults`` queues what goes wrong
    with downloads of one object; ``refusals`` are its batch answers without an action.
    ``lifetime`` is how many seconds actions live.

    ``peeled`` is what observing says of tags.  ``filters`` tells whether fetches may name
    one, ``absent`` are objects that it does not give.  ``files`` are single files by commit
    and path, ``None`` where the host offers no such place; ``file_faults`` queues what
    goes wrong with their downloads.
    """

    clock: Clock
    url: str = "https://upstream.example/acme/model"
    snapshot: RefSnapshot = field(default_factory=lambda: RefSnapshot({}))
    moved_to: str = ""
    protocol: int = 2
    object_format: ObjectFormat = ObjectFormat.SHA1
    peeled: Mapping[GitOid, GitOid] = field(default_factory=dict)
    filters: bool = True
    absent: set[GitOid] = field(default_factory=set)
    files: dict[tuple[GitOid, bytes], bytes] | None = field(default_factory=dict)
    file_faults: deque[Fault] = field(default_factory=deque)
    files_opened: list[tuple[GitOid, bytes, int]] = field(default_factory=list)
    pack: Callable[[FetchRequest], Iterable[bytes]] = one_line_each
    lifetime: float | None = None
    piece: int = PIECE
    observe_errors: deque[MirrorSyncError | None] = field(default_factory=deque)
    fetch_errors: deque[MirrorSyncError | None] = field(default_factory=deque)
    batch_errors: deque[MirrorSyncError | None] = field(default_factory=deque)
    lfs: dict[LfsOid, bytes] = field(default_factory=dict)
    faults: dict[LfsOid, deque[Fault]] = field(default_factory=dict)
    refusals: dict[LfsOid, tuple[int, str]] = field(default_factory=dict)
    observed: int = 0
    fetched: list[FetchRequest] = field(default_factory=list)
    batches: list[tuple[Pointer, ...]] = field(default_factory=list)
    opened: list[tuple[LfsOid, int, int]] = field(default_factory=list)
    bodies: list[ScriptedBody] = field(default_factory=list)
    sent: int = 0
    closed: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)

    # -- the script

    def put(self, data: bytes, *faults: Fault) -> Pointer:
        """Place an LFS object, with what goes wrong at its next downloads."""
        pointer = Pointer(LfsOid(hashlib.sha256(data).hexdigest()), len(data))
        self.lfs[pointer.oid] = data
        self.faults.setdefault(pointer.oid, deque()).extend(faults)
        return pointer

    # -- the port

    def observe(self, patterns: Sequence[str], *, known_digest: str = "") -> Observation | None:
        self.observed += 1
        started_at = self.clock.now()
        _raise_next(self.observe_errors)
        digest = self.snapshot.fingerprint()
        if digest == known_digest:
            return None
        tips, refused = sound(select(self.snapshot.tips, tuple(patterns)))
        return Observation(
            started_at=started_at,
            snapshot=RefSnapshot(tips, self.snapshot.head),
            digest=digest,
            object_format=self.object_format,
            protocol=self.protocol,
            refused=refused,
            moved_to=self.moved_to,
            peeled={tag: self.peeled[tag] for tag in tips.values() if tag in self.peeled},
        )

    def fetch(self, request: FetchRequest) -> Iterator[bytes]:
        self.fetched.append(request)
        if request.filter and not self.filters:
            raise UpstreamDeclined("upstream takes no filters")
        if not self.absent.isdisjoint(request.wants):
            raise UpstreamLacks
        yield from self.pack(request)
        _raise_next(self.fetch_errors)

    @property
    def host(self) -> str:
        return parse_upstream_url(self.url).netloc

    def abilities(self) -> Abilities:
        return Abilities(self.protocol, self.object_format, filters=self.protocol == 2 and self.filters)

    def open_blob(self, commit: GitOid, path: bytes, *, start: int) -> BlobBody | None:
        if self.files is None:
            return None
        self.files_opened.append((commit, path, start))
        fault = self.file_faults.popleft() if self.file_faults else Fault()
        if fault.error is not None:
            raise fault.error
        data = self.files.get((commit, path))
        if data is None:
            raise ObjectMissingUpstream("upstream has no such file", code="MS-U409")
        if fault.ignore_range:
            start = 0
        if start > len(data):
            raise UpstreamInvalid("the file is not that long", why="HTTP 416")
        return ScriptedBlob(start, len(data), data[start:], self.piece, fault)

    def git_access(self) -> GitAccess:
        return GitAccess(url=self.url, environment={})

    def batch(self, pointers: Sequence[Pointer], *, ref: RefName | None = None) -> list[LfsAnswer]:
        del ref
        with self.guard:
            self.batches.append(tuple(pointers))
            _raise_next(self.batch_errors)
        return [self._answer(pointer) for pointer in pointers]

    def _answer(self, pointer: Pointer) -> LfsAnswer:
        if pointer.oid in self.refusals:
            code, message = self.refusals[pointer.oid]
            return LfsAnswer(pointer, error_code=code, error_message=message)
        data = self.lfs.get(pointer.oid)
        if data is None:
            return LfsAnswer(pointer, error_code=404, error_message="Object does not exist")
        if len(data) != pointer.size:
            return LfsAnswer(pointer, error_code=422, error_message="size does not match")
        expires_at = None if self.lifetime is None else self.clock.now() + self.lifetime
        return LfsAnswer(pointer, LfsAction(f"{self.url}/objects/{pointer.oid}", {}, expires_at))

    def open_object(self, pointer: Pointer, action: LfsAction, *, start: int, end: int) -> LfsBody:
        with self.guard:
            self.opened.append((pointer.oid, start, end))
            queued = self.faults.get(pointer.oid)
            fault = queued.popleft() if queued else Fault()
        if action.expires_at is not None and self.clock.now() >= action.expires_at:
            raise UpstreamRefused("the link has expired", why="HTTP 403")
        if fault.error is not None:
            raise fault.error
        data = self.lfs[pointer.oid]
        if not 0 <= start < end <= len(data):
            raise UpstreamInvalid("the range is not part of the object", why="HTTP 416")
        if fault.ignore_range:
            start, end = 0, len(data)
        elif fault.start_at is not None:
            start = fault.start_at
        body = ScriptedBody(start, data[start : end + fault.overlong], self.piece, fault, self)
        with self.guard:
            self.bodies.append(body)
        return body

    def close(self) -> None:
        self.closed = True


def _raise_next(errors: deque[MirrorSyncError | None]) -> None:
    error = errors.popleft() if errors else None
    if error is not None:
        raise error
