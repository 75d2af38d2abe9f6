"""Single files of a mirror by revision and path, and checksum lists, for whatever downloads by HTTP.

Nobody's content may act in this origin's name, so every file is a download that no
browser runs, whatever it is called.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from flask import Response, g, request

from mirror_sync.domain.names import MirrorName, ref_from_bytes
from mirror_sync.domain.pointers import EMPTY_OID, Pointer
from mirror_sync.domain.runs import Mirror
from mirror_sync.domain.trees import EntryKind, FileEntry, path_of_text, path_text
from mirror_sync.ports import FileView, Revision
from mirror_sync.web.backend import backend, limits
from mirror_sync.web.bodies import patience
from mirror_sync.web.door import served_mirror
from mirror_sync.web.git_http import BUSY, SEND_STALL_SECONDS
from mirror_sync.web.lfs import answer_lfs
from mirror_sync.web.limits import client_of
from mirror_sync.web.paths import FileService, FileTarget, Service, Target, file_targets
from mirror_sync.web.ranges import choose
from mirror_sync.web.replies import RETRY_SECONDS, Refused, never_published
from mirror_sync.web.streams import Stream

FOR_EVER: Final = "public, max-age=31536000, immutable"
FOR_NOW: Final = "public, max-age=60"
"""A branch moves when the mirror publishes; caches in front may be as much behind."""

SANDBOX: Final = "default-src 'none'; sandbox"
COMMIT: Final = "X-Repo-Commit"
MOST_REVISION_WORDS: Final = 32
SMALL_BYTES: Final = 64 * 1024
"""What ends before so many bytes of a blob is read at once, and its place given back before it is sent."""

_UNSAFE_IN_FILENAME = re.compile(r"[^A-Za-z0-9._+@=-]")


def asked_files(*, unless: Target | None) -> FileTarget | None:
    """Return what the request asks of a mirror's files; ``None`` when nothing, or ``unless`` names a mirror that is here.

    Files may be called like services of git, and mirrors like services of files.
    """
    found = list(file_targets(request.environ.get("RAW_URI", request.path)))
    if not found or (unless is not None and _is_here(unless.name)):
        return None
    return next((target for target in found if _is_here(target.name)), found[0])


def _is_here(name: MirrorName) -> bool:
    """Tell whether there is a mirror of this name, be it one that this request may not read."""
    try:
        served_mirror(name)
    except Refused as error:
        return error.status != 404
    return True


def answer_files(target: FileTarget) -> Response:
    """Answer one request for a file or a checksum list."""
    g.files = True
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, "Files are read with GET.")
    mirror = served_mirror(target.name)
    with opened(mirror) as view:
        if target.service is FileService.CHECKSUMS:
            with place():
                revision = view.resolve(ref_from_bytes(b"/".join(target.words)) or "HEAD")
            if revision is None:
                raise _no_revision(mirror, target.words)
            return _checksums(mirror, view, revision)
        with place():
            split = split_revision(view, target.words)
            entry = find_entry(view, *split) if split is not None else None
        if split is None:
            raise _no_revision(mirror, target.words)
        revision, path = split
        if entry is None or entry.kind in (EntryKind.DIRECTORY, EntryKind.SUBMODULE):
            what = {EntryKind.DIRECTORY: "a directory", EntryKind.SUBMODULE: "a submodule"}
            is_what = f"is {what[entry.kind]}" if entry else "is not"
            raise Refused(404, f"{_shown(path)} {is_what} in {mirror.name} at {revision.commit}.")
        return file_answer(mirror, view, revision, entry)


@contextmanager
def place() -> Iterator[None]:
    """Hold a place among the streams; raises :class:`Refused` when none is free.

    Whatever may wait for a git child holds one, so that those who wait leave threads to
    health, pages and webhooks.
    """
    slot = limits().streams.take(client=client_of(request))
    if slot is None:
        raise Refused(429, BUSY, retry_after=RETRY_SECONDS)
    try:
        yield
    finally:
        slot.release()


def opened(mirror: Mirror) -> FileView:
    """Return the published view of a mirror; raises :class:`Refused` when there is none yet."""
    view = backend().files.open(mirror.name)
    if view is None:
        raise never_published(mirror)
    return view


def split_revision(view: FileView, words: Sequence[bytes]) -> tuple[Revision, bytes] | None:
    """Return the revision that the first words name, as few as do, and the path that the others are."""
    for count in range(1, min(len(words), MOST_REVISION_WORDS) + 1):
        revision = view.resolve(ref_from_bytes(b"/".join(words[:count])))
        if revision is not None:
            return revision, b"/".join(words[count:])
    return None


def find_entry(view: FileView, revision: Revision, path: bytes) -> FileEntry | None:
    """Return what stands under a path, written as its bytes or as JSON tells it."""
    entry = view.entry(revision.commit, path)
    other = path_of_text(path) if entry is None else None
    return view.entry(revision.commit, other) if other is not None else entry


def standing_for(mirror: Mirror, pointers: Sequence[Pointer]) -> Collection[Pointer]:
    """Return which pointers that no attributes mark stand for their object all the same: those whose object is here."""
    app = backend()
    referred = app.state.lfs_refers(mirror.id, list({pointer.oid for pointer in pointers})) if pointers else {}
    return {pointer for pointer in pointers if pointer.oid in referred and app.objects.size(pointer.oid) is not None}


def objects_of(mirror: Mirror, entries: Sequence[FileEntry]) -> dict[bytes, Pointer]:
    """Return, by path, the LFS object that is given in the place of each pointer."""
    doubtful = standing_for(mirror, [entry.pointer for entry in entries if entry.pointer and not entry.marked])
    return {
        entry.path: entry.pointer for entry in entries if entry.pointer and (entry.marked or entry.pointer in doubtful)
    }


def file_answer(mirror: Mirror, view: FileView, revision: Revision, entry: FileEntry) -> Response:
    """Return the answer with a file's bytes: those of the LFS object where its blob stands for one.

    Raises :class:`Refused` when they are not here.
    """
    pointer = objects_of(mirror, [entry]).get(entry.path)
    # what a pointer without attributes is given as depends on what is here
    changes = revision.ref is not None or (entry.pointer is not None and not entry.marked)
    headers = {
        COMMIT: revision.commit,
        "Cache-Control": FOR_NOW if changes else FOR_EVER,
        "Content-Disposition": _disposition(entry.path),
        "Content-Security-Policy": SANDBOX,
    }
    if pointer is None:
        return _part(view, entry, entry.size, etag=f'"{entry.oid}"', headers=headers)
    headers |= {
        "X-Linked-Etag": f'"{pointer.oid}"',
        "X-Linked-Size": str(pointer.size),
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(pointer.oid)).decode()}:",
    }
    if pointer.oid == EMPTY_OID:
        return _part(view, entry, 0, etag=f'"{pointer.oid}"', headers=headers)
    response = answer_lfs(Target(mirror.name, Service.LFS_OBJECT, pointer.oid))
    if response.status_code >= 400 and response.status_code not in (412, 416):
        raise _not_given(response)
    verified = "ETag" in response.headers or "X-Accel-Redirect" in response.headers
    if not verified or response.status_code in (412, 416):
        del headers["Cache-Control"]  # what is passed on while it arrives is nothing to keep
    response.headers.update(headers)
    return response


def _part(view: FileView, entry: FileEntry, size: int, *, etag: str, headers: dict[str, str]) -> Response:
    """Return the answer with as much of a blob as is asked for."""
    part = choose(
        size,
        etag=etag,
        range_header=request.headers.get("Range", "") if request.method == "GET" else "",
        if_range=request.headers.get("If-Range", ""),
        if_none_match=request.headers.get("If-None-Match", ""),
        if_match=request.headers.get("If-Match", ""),
    )
    headers = headers | {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if part.status == 416:
        headers |= {"Content-Range": f"bytes */{size}", "Cache-Control": "no-cache"}
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{size}"
    if part.status not in (200, 206):
        return Response(status=part.status, headers=headers)
    headers["Content-Length"] = str(part.end - part.start)
    if request.method == "HEAD" or part.end == part.start:
        return Response(iter(()), status=part.status, headers=headers)
    if part.end <= SMALL_BYTES:
        with place():
            content = b"".join(view.blob(entry.oid, start=part.start, end=part.end))
        backend().metrics.served_bytes(protocol="file", count=len(content))
        return Response(content, status=part.status, headers=headers)
    body = _streamed(lambda: view.blob(entry.oid, start=part.start, end=part.end))
    return Response(body, status=part.status, headers=headers)


def _checksums(mirror: Mirror, view: FileView, revision: Revision) -> Response:
    etag = f'"{revision.commit}.sha256"'
    headers = {
        COMMIT: revision.commit,
        "Cache-Control": FOR_NOW,
        "Content-Disposition": 'inline; filename="SHA256SUMS"',
        "Content-Security-Policy": SANDBOX,
        "Content-Type": "text/plain; charset=utf-8",
        "ETag": etag,
    }
    part = choose(1, etag=etag, if_none_match=request.headers.get("If-None-Match", ""))
    if part.status != 200:
        return Response(status=part.status, headers=headers)
    if request.method == "HEAD":
        return Response(iter(()), headers=headers)

    client = client_of(request)

    def resolves(pointers: Sequence[Pointer]) -> Collection[Pointer]:
        return standing_for(mirror, pointers)

    return Response(
        _streamed(lambda: view.checksums(revision.commit, resolves=resolves, client=client)), headers=headers
    )


def _streamed(begin: Callable[[], Iterator[bytes]]) -> Stream:
    """Return a streaming body whose first piece is there already; raises what beginning it does."""
    app = backend()
    slot = limits().streams.take(client=client_of(request))
    if slot is None:
        raise Refused(429, BUSY, retry_after=RETRY_SECONDS)
    began = app.clock.monotonic()
    try:
        pieces = begin()
        first = next(pieces, b"")
    except BaseException:
        slot.release()
        raise
    app.metrics.first_byte(protocol="file", seconds=app.clock.monotonic() - began)
    app.metrics.stream_began("file")

    def done(sent: int) -> None:
        slot.release()
        app.metrics.stream_ended("file")
        app.metrics.served_bytes(protocol="file", count=sent)

    with patience(request.environ, SEND_STALL_SECONDS):
        return Stream(pieces, first=first, done=done)


def _not_given(response: Response) -> Refused:
    """Return the refusal that an LFS client would be told, for whoever is none."""
    try:
        reason = str(json.loads(response.get_data())["message"])
    except (ValueError, KeyError, TypeError):
        reason = "The LFS object of this file cannot be given."
    retry = response.headers.get("Retry-After", "")
    return Refused(response.status_code, reason, retry_after=float(retry) if retry.isdigit() else None)


def _no_revision(mirror: Mirror, words: Sequence[bytes]) -> Refused:
    asked = _shown(b"/".join(words))
    return Refused(404, f"{mirror.name} has no branch, tag or published commit that {asked} begins with.")


def _shown(path: bytes) -> str:
    return path_text(path[:300]) or "the top directory"


def _disposition(path: bytes) -> str:
    name = path.rpartition(b"/")[2]
    plain = _UNSAFE_IN_FILENAME.sub("_", name.decode("ascii", "replace")) or "file"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(path_text(name), safe='')}"
