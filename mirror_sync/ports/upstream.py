"""What a mirror asks of its upstream, and of nearer sources of the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import ObjectFormat, Observation


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Git objects to ask for: ``wants`` by id, not what is reachable from ``haves``.

    ``shallow`` are commits among what is here whose parents are not.  ``filter`` is empty,
    ``tree:0`` (commits and tags alone, beside what is wanted by id) or ``blob:none``.
    ``thin``: the pack may lean on objects that ``haves`` reach.  ``more``: another request
    follows soon, so its connection may be opened while this one's pack comes.
    """

    object_format: ObjectFormat
    wants: Sequence[GitOid]
    haves: Sequence[GitOid]
    protocol: int = 2
    shallow: Sequence[GitOid] = ()
    filter: str = ""
    thin: bool = True
    more: bool = False


@dataclass(frozen=True, slots=True)
class Abilities:
    """What one git server can do for a fetch, as it says itself."""

    protocol: int
    object_format: ObjectFormat
    filters: bool
    """Whether it takes filters at all; a particular one it may refuse still."""


@dataclass(frozen=True, slots=True)
class GitAccess:
    """What stock git needs to reach one upstream that speaks nothing newer than protocol v0.

    ``environment`` carries settings as ``GIT_CONFIG_COUNT/KEY_n/VALUE_n`` (pinned address,
    proxy, CA file, authorisation), never the command line.
    """

    url: str
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LfsAction:
    """One download action of a batch answer."""

    href: str
    header: Mapping[str, str] = field(repr=False)
    expires_at: float | None = None
    """Unix seconds on our clock, or ``None`` when the server named none."""


@dataclass(frozen=True, slots=True)
class LfsAnswer:
    """What a batch answer says of one object: an action, or an error code with its text.

    Neither means the server left the object out or wants nothing done; it counts as an
    error 404 when ``error_code`` is 404.
    """

    pointer: Pointer
    action: LfsAction | None = None
    error_code: int = 0
    error_message: str = ""


class LfsBody(Protocol):
    """Bytes of one LFS object as they arrive."""

    start: int
    """Offset of the first byte; 0 when the server ignored the range asked for."""

    def chunks(self) -> Iterator[bytes]:
        """Yield pieces of up to 1 MiB; raise :class:`UpstreamUnavailable` when the stream breaks or stalls.

        Never yields past the object's size as the pointer states it: more raises
        :class:`UpstreamInvalid`, and so does a whole answer that is shorter and says so.
        """

    def close(self) -> None:
        """Drop the connection."""

    def abandon(self) -> None:
        """Break the stream off, from any thread: whoever waits for its bytes hears :class:`UpstreamUnavailable` soon.

        It has to be closed still.
        """


class BlobBody(Protocol):
    """Bytes of one file as they arrive."""

    start: int
    """Offset of the first byte; 0 when the server ignored where to begin."""
    size: int | None
    """Bytes of the whole file, where the server says it."""

    def chunks(self) -> Iterator[bytes]:
        """Yield pieces of up to 1 MiB; raise :class:`UpstreamUnavailable` when the stream breaks or stalls."""

    def close(self) -> None:
        """Drop the connection."""


class Upstream(Protocol):
    """One mirror's upstream repository and its LFS server.

    Every method checks and pins addresses, sends credentials to the upstream's own
    host only, and translates what goes wrong into ``errors``.  Redirects are never
    followed except where a method says so.
    """

    def observe(self, patterns: Sequence[str], *, known_digest: str = "") -> Observation | None:
        """Take a ref snapshot of the refs that match ``patterns`` (exact or prefix ending in ``*``).

        Returns ``None`` when the answer is byte for byte the one named by
        ``known_digest``.  Follows one permanent https redirect on the same host and
        says so in ``moved_to``.  An answer that is not a whole, valid ref list raises
        :class:`UpstreamInvalid` and is never an empty list.
        """

    def fetch(self, request: FetchRequest) -> Iterator[bytes]:
        """Yield the bytes of one pack (ofs-delta); protocol v2, on a connection of its own.

        Raises when the stream ends early; bytes yielded before that are a true prefix of
        a pack.  What the server itself reports raises :class:`UpstreamDeclined`, and
        :class:`UpstreamLacks` when it says that it has not, or does not give, an object
        wanted.
        """

    @property
    def host(self) -> str:
        """The host (with its port when unusual), to name the source to people."""

    def abilities(self) -> Abilities:
        """Return what the git server can do; asks when it is not known, and raises as :meth:`observe` does."""

    def open_blob(self, commit: GitOid, path: bytes, *, start: int) -> BlobBody | None:
        """Ask for the file that ``commit`` holds at ``path``, from byte ``start`` on.

        ``None`` where this host offers no such place.  Follows redirects as a download of
        an LFS object does.  Raises :class:`ObjectMissingUpstream` when it has no such file.
        """

    def git_access(self) -> GitAccess:
        """Return what stock git needs to fetch from a v0 upstream."""

    def batch(self, pointers: Sequence[Pointer], *, ref: RefName | None = None) -> list[LfsAnswer]:
        """Ask the LFS server for download actions; one answer per pointer, in the same order.

        Splits into batches of at most 100 (less where the host asked for less).  A 404
        for the whole batch request is an answer of 404 for every object.
        """

    def open_object(self, pointer: Pointer, action: LfsAction, *, start: int, end: int) -> LfsBody:
        """Ask for bytes ``start`` (included) to ``end`` (excluded) of one object.

        Asks for the whole object without a Range header when ``start`` is 0 and ``end`` its size.
        """

    def close(self) -> None:
        """Drop kept-alive connections."""
