"""Git's smart HTTP protocol, read-only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from flask import Request, Response, request

from mirror_sync.actions.notice import stale_notice
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import MirrorSyncError
from mirror_sync.web.backend import backend, limits
from mirror_sync.web.bodies import gone, patience, spooled_body
from mirror_sync.web.door import TOKEN, served_mirror
from mirror_sync.web.limits import Slot, client_of
from mirror_sync.web.paths import Service, Target
from mirror_sync.web.replies import NO_CACHE, RETRY_SECONDS, Refused, never_published
from mirror_sync.web.streams import BLOCK_BYTES, Stream
from mirror_sync.web.unknown import await_first_publish

UPLOAD_PACK = "git-upload-pack"
RECEIVE_PACK = "git-receive-pack"
REQUEST_TYPE = "application/x-git-upload-pack-request"
RESULT_TYPE = "application/x-git-upload-pack-result"
ADVERTISEMENT_TYPE = "application/x-git-upload-pack-advertisement"
FLUSH = b"0000"
SEND_STALL_SECONDS = 300.0
"""A client that takes nothing for so long has gone, whatever its TCP connection says."""

BUSY = (
    "This mirror is serving as many clients as it can, or as many as it serves at one address. "
    "Please try again in a moment."
)

_PROTOCOL = re.compile(r"version=[0-2]\Z")


def answer_git(target: Target) -> Response:
    """Answer one request of a git client."""
    if target.service is Service.INFO_REFS:
        return _info_refs(target)
    if target.service is Service.UPLOAD_PACK:
        return _upload_pack(target)
    mirror = served_mirror(target.name)
    if target.service is Service.RECEIVE_PACK:
        raise _push_refused(mirror)
    raise Refused(403, "This mirror speaks git's smart HTTP protocol only; the client asked for the dumb one.")


def git_protocol(asked: Request) -> str:
    """Return the protocol the client asks for, as ``GIT_PROTOCOL`` takes it; anything unknown means v0."""
    header = asked.headers.get("Git-Protocol", "")
    return header if _PROTOCOL.match(header) else ""


def sharer() -> str:
    """Return whose share of streams and turns this request takes from: the clone token that let it in, or its address."""
    token = request.environ.get(TOKEN)
    return f"token {token}" if token is not None else client_of(request)


def error_packet(message: str) -> bytes:
    """Return an ``ERR`` packet: the only thing a git client shows of a POST's answer."""
    payload = b"ERR " + message.encode()[:1000]
    return b"%04x" % (len(payload) + 4) + payload


def _push_refused(mirror: Mirror) -> Refused:
    return Refused(
        403,
        f"{mirror.name} is a read-only mirror; push to its upstream:\n  {mirror.upstream}\n"
        f"  git remote set-url --push origin {mirror.upstream}",
    )


def _info_refs(target: Target) -> Response:
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, "info/refs is read with GET")
    mirror = served_mirror(target.name)
    service = request.args.get("service", "")
    if service == RECEIVE_PACK:
        raise _push_refused(mirror)
    if service != UPLOAD_PACK:
        raise Refused(403, "This mirror speaks git's smart HTTP protocol only; the client asked for the dumb one.")
    slot = limits().streams.take(client=sharer())
    if slot is None:
        raise Refused(429, BUSY, retry_after=RETRY_SECONDS)
    metrics = backend().metrics
    try:
        body = backend().serving.advertise(mirror.name, protocol=git_protocol(request))
        if body is None and await_first_publish(mirror):
            body = backend().serving.advertise(mirror.name, protocol=git_protocol(request))
        if body is None:
            raise never_published(backend().state.mirror(mirror.name))
    except BaseException:
        slot.release()
        raise

    def done(sent: int) -> None:
        slot.release()
        metrics.served_bytes(protocol="git", count=sent)

    response = Response(Stream(_blocks(body), done=done), content_type=ADVERTISEMENT_TYPE)
    response.headers.update(NO_CACHE)
    response.headers["Content-Length"] = str(len(body))
    return response


def _blocks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), BLOCK_BYTES):
        yield body[start : start + BLOCK_BYTES]


def _upload_pack(target: Target) -> Response:
    if request.method != "POST":
        raise Refused(405, "git-upload-pack is asked with POST")
    if request.mimetype != REQUEST_TYPE:
        raise Refused(415, f"git-upload-pack takes {REQUEST_TYPE}")
    mirror = served_mirror(target.name)
    slot = limits().streams.take(client=sharer())
    if slot is None:
        return _result(error_packet(BUSY))
    body: BinaryIO | None = None
    try:
        body = spooled_body(request)
        return _begin(mirror, body, slot)
    except BaseException:
        if body is not None:
            body.close()
        slot.release()
        raise


def _begin(mirror: Mirror, body: BinaryIO, slot: Slot) -> Response:
    """Return the streaming answer, its first piece already there; owns ``body`` and ``slot`` from then on."""
    app = backend()
    probe = body.read(5)
    body.seek(0)
    if probe in (FLUSH, b""):
        # Before a chunked request git sends a bare flush, to see whether it may.
        body.close()
        slot.release()
        return _result(b"")
    began = app.clock.monotonic()
    try:
        pieces = app.serving.upload_pack(
            mirror.name,
            body,
            protocol=git_protocol(request),
            client=sharer(),
            notice=stale_notice(mirror, app.clock.now()) if app.settings.serve.stale_notice else "",
            gone=gone(request.environ),
        )
        first = next(pieces, b"") if pieces is not None else b""
    except ConnectionResetError:
        # the client left while it waited; whatever is answered reaches nobody
        body.close()
        slot.release()
        return _result(b"")
    except MirrorSyncError as error:
        app.telemetry.event("upload_pack_failed", level="warning", mirror=mirror.name, code=error.code, why=str(error))
        body.close()
        slot.release()
        return _result(error_packet(f"{error.code}: {error.message}"))
    if pieces is None:
        body.close()
        slot.release()
        return _result(error_packet(never_published(mirror).reason))
    app.metrics.first_byte(protocol="git", seconds=app.clock.monotonic() - began)
    app.metrics.stream_began("git")

    def done(sent: int) -> None:
        body.close()
        slot.release()
        app.metrics.stream_ended("git")
        app.metrics.served_bytes(protocol="git", count=sent)

    with patience(request.environ, SEND_STALL_SECONDS):
        return _result(Stream(pieces, first=first, done=done))


def _result(body: bytes | Stream) -> Response:
    response = Response(body, content_type=RESULT_TYPE)
    response.headers.update(NO_CACHE)
    return response
