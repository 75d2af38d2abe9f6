"""Bytes of one LFS object from wherever its download action points."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mirror_sync.domain.names import printable
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import (
    MirrorSyncError,
    ObjectMissingUpstream,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import LfsAction
from mirror_sync.upstream.answers import clean, failure, media_type, wait_until
from mirror_sync.upstream.connections import Answer
from mirror_sync.upstream.download import CONTENT_RANGE, follow
from mirror_sync.upstream.lfs_batch import safe_header
from mirror_sync.upstream.place import Place

UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})\Z")
"""What a server says that has nothing of the range asked for."""

PAGES = frozenset({"text/html", "application/xhtml+xml", "application/json", "application/xml", "text/xml"})
"""What is sent to people who are to sign in, and to programs instead of an error's status."""


class HttpLfsBody:
    """An answer that is one object's bytes from ``start`` on; implements :class:`mirror_sync.ports.LfsBody`."""

    def __init__(self, answer: Answer, *, start: int, stop: int, whole: bool) -> None:
        self.start = start
        self._answer = answer
        self._stop = stop
        self._whole = whole

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes up to where they were asked for; see :meth:`mirror_sync.ports.LfsBody.chunks`."""
        at, host = self.start, self._answer.target.netloc
        try:
            for piece in self._answer.pieces():
                room = self._stop - at
                if len(piece) > room:
                    if room:
                        at += room
                        yield piece[:room]
                    if self._whole:
                        raise UpstreamInvalid(
                            f"{host} sends more bytes than the LFS object has", why=f"its pointer says {self._stop}"
                        )
                    return
                at += len(piece)
                yield piece
            if self._whole and self._answer.headers.get("content-length", "").strip() == str(at) != str(self._stop):
                raise UpstreamInvalid(
                    f"{host} sends fewer bytes than the LFS object has", why=f"{at}; its pointer says {self._stop}"
                )
            if at < self._stop:
                raise UpstreamUnavailable(
                    f"{host} broke off in the middle of an LFS object", why=f"{at} of {self._stop} bytes are here"
                )
        finally:
            self.close()

    def close(self) -> None:
        """Drop the connection, or give it back when everything was read."""
        self._answer.close()

    def abandon(self) -> None:
        """Break the stream off from any thread."""
        self._answer.abandon()


def open_object(place: Place, pointer: Pointer, action: LfsAction, *, start: int, end: int) -> HttpLfsBody:
    """Ask for bytes ``start`` to ``end`` of one object; see :meth:`mirror_sync.ports.Upstream.open_object`.

    Follows redirects; the action's headers stay behind when one leads to another origin.
    """
    if not 0 <= start < end <= pointer.size:
        raise ValueError(f"bytes {start} to {end} are no part of an object of {pointer.size} bytes")
    asked_range = (start, end) != (0, pointer.size)
    headers = safe_header(action.header)
    if asked_range:
        headers["Range"] = f"bytes={start}-{end - 1}"
    answer = follow(place, action.href, headers, operation="lfs-download", what="an LFS object")
    try:
        return _opened(place, answer, pointer, start=start, end=end)
    except BaseException:
        answer.close()
        raise


def _opened(place: Place, answer: Answer, pointer: Pointer, *, start: int, end: int) -> HttpLfsBody:
    host = answer.target.netloc
    if answer.status not in (200, 206):
        raise _refusal(place, answer, pointer)
    raw = answer.headers.get("content-range", "").strip()
    match = CONTENT_RANGE.match(raw)
    if match is None:
        if answer.status == 206 or raw:
            raise UpstreamInvalid(
                f"{host} sends a part of an LFS object without saying which", why=f"Content-Range {clean(raw)!r}"
            )
        told, kind = answer.headers.get("content-length", "").strip(), media_type(answer.headers)
        if kind in PAGES and told and told != str(pointer.size):
            # Better known before its first byte is written.
            raise UpstreamInvalid(
                f"{host} has another LFS object than the one asked for",
                why=f"it sends {clean(told)} bytes of {kind}, not {pointer.size} bytes",
            )
        return HttpLfsBody(answer, start=0, stop=pointer.size, whole=True)
    # Some servers answer a range with 200; what they say of the range counts, not the status.
    first, last, total = int(match[1]), int(match[2]), match[3]
    if total not in ("*", str(pointer.size)):
        raise _other_size(host, total, pointer)
    if first != start or last < first or last >= pointer.size:
        raise UpstreamInvalid(
            f"{host} sends another part of an LFS object than asked for",
            why=f"{clean(raw)} for bytes {start}-{end - 1}",
        )
    return HttpLfsBody(answer, start=first, stop=min(end, last + 1), whole=False)


def _other_size(host: str, total: str, pointer: Pointer) -> UpstreamInvalid:
    return UpstreamInvalid(
        f"{host} has another LFS object than the one asked for", why=f"it has {total} bytes, not {pointer.size}"
    )


def _refusal(place: Place, answer: Answer, pointer: Pointer) -> MirrorSyncError:
    host, status = answer.target.netloc, answer.status
    body, now = answer.head_of_body(), place.connections.clock.now()
    if status in (400, 401) or (status == 403 and wait_until(answer.headers, now) is None):
        return UpstreamRefused(
            f"{host} refuses the download of an LFS object",
            why=f"HTTP {status}; the action may have expired. {clean(body)}".rstrip(),
            remedy="a new batch request gives a new action",
            code="MS-L403",
        )
    if status in (404, 410):
        return ObjectMissingUpstream(f"{host} has not got the LFS object that it offered", why=f"HTTP {status}")
    if status == 416:
        told = UNSATISFIED.match(answer.headers.get("content-range", "").strip())
        if told is not None and told[1] != str(pointer.size):
            return _other_size(host, told[1], pointer)
        return UpstreamInvalid(
            f"{host} refuses the part asked for of an LFS object",
            why=f"HTTP 416, Content-Range {printable(answer.headers.get('content-range', 'missing')[:80])}",
            code="MS-L416",
        )
    return failure(
        status, answer.headers, body, host=host, what="an LFS object", now=now, credential=place.has_credential()
    )
