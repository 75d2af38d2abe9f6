"""The Git LFS API of a read-only server (git-lfs ``docs/api``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from flask import Response, request
from werkzeug.wsgi import FileWrapper

from mirror_sync.domain.names import LfsOid, is_lfs_oid, printable
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import KNOWN_MISSING_CODES, NotFound
from mirror_sync.web.backend import backend, limits
from mirror_sync.web.bodies import leave_body, patience, small_body
from mirror_sync.web.door import for_everybody, link_keys, served_mirror
from mirror_sync.web.git_http import BUSY, SEND_STALL_SECONDS
from mirror_sync.web.limits import client_of
from mirror_sync.web.paths import Service, Target
from mirror_sync.web.pulls import FIRST_SECONDS, CannotBeHad, NotYet, Pull, pulls
from mirror_sync.web.ranges import Part, choose
from mirror_sync.web.replies import LFS_TYPE, NO_CACHE, RETRY_SECONDS, Refused, json_answer, lfs_refusal
from mirror_sync.web.streams import BLOCK_BYTES, SENT_FILE, SentFile, Stream

MAX_OBJECTS = 1000
MAX_BATCH_BYTES = 1024 * 1024
BATCH_BODY_SECONDS = 20.0
MAX_SIZE = 2**63 - 1
COME_AGAIN_SECONDS = 10
ON_ITS_WAY = "the object is being fetched from upstream; nothing of what was asked for is here yet, please ask again"
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(?::[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?\Z")


def answer_lfs(target: Target) -> Response:
    """Answer one request of an LFS client."""
    service = target.service
    mirror = served_mirror(target.name, granted=partial(_linked, target))
    if service is Service.LFS_BATCH:
        return _batch(mirror) if request.method == "POST" else lfs_refusal(405, "a batch is asked with POST")
    if service is Service.LFS_OBJECT:
        return _object(mirror, target.rest)
    if service is Service.LFS_LOCKS and request.method in ("GET", "HEAD"):
        return _fresh({"locks": []})
    if service is Service.LFS_LOCKS_VERIFY:
        return lfs_refusal(404, "this mirror is read-only and keeps no locks")
    if service in (Service.LFS_LOCKS, Service.LFS_UNLOCK):
        return lfs_refusal(403, f"{mirror.name} is a read-only mirror; lock files at its upstream: {mirror.upstream}")
    return lfs_refusal(404, "this is not a part of the LFS API")


def _linked(target: Target, mirror: Mirror) -> bool:
    """Tell whether the request follows a signed link to this very object of the mirror."""
    if target.service is not Service.LFS_OBJECT or not is_lfs_oid(target.rest):
        return False
    expires, signature = request.args.get("expires", ""), request.args.get("signature", "")
    return link_keys().opens(mirror.name, LfsOid(target.rest), expires=expires, signature=signature)


def _fresh(document: dict[str, Any]) -> Response:
    """Return an answer of the API, which nothing in between may keep."""
    response = json_answer(document, content_type=LFS_TYPE)
    response.headers.update(NO_CACHE)
    return response


def public_base() -> str:
    """Return ``scheme://host`` under which the client may ask again: the configured one, else the one it used."""
    settings = backend().settings.server
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = request.host
    return f"{request.scheme}://{host}" if _HOST.match(host) else settings.base_url


# ---------------------------------------------------------------- batch


def _batch(mirror: Mirror) -> Response:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refused(415, "a batch request is sent uncompressed")
    with limits().body_place(request.content_length) as placed:
        if not placed:
            leave_body(request.environ)
            raise Refused(429, BUSY, retry_after=RETRY_SECONDS)
        body = small_body(request, limit=MAX_BATCH_BYTES, seconds=BATCH_BODY_SECONDS)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(422, "the batch request is not JSON") from error
    objects = _checked(document, mirror)
    known = backend().state.lfs_refers(mirror.id, [LfsOid(oid) for oid, _size in objects if is_lfs_oid(oid)])
    # Two pointers may claim different sizes for one object, so what counts is the size of what is here.
    sizes = {oid: size for oid in known if (size := backend().objects.size(oid)) is not None}
    absent = [oid for oid in known if oid not in sizes]
    reasons = _reasons(mirror, absent)
    base = f"{public_base()}/{quote(mirror.name, safe='/:[]~@!$&()+,;=-._')}.git/info/lfs/objects"
    answers = [_one(oid, size, known=known, sizes=sizes, reasons=reasons, base=base) for oid, size in objects]
    if not for_everybody():
        _sign(mirror, answers)
    return _fresh({"transfer": "basic", "objects": answers, "hash_algo": "sha256"})


def _sign(mirror: Mirror, answers: Iterable[dict[str, Any]]) -> None:
    """Make each link one that opens its object for a while, whoever follows it."""
    seconds = backend().settings.access.link_ttl
    for answer in answers:
        download = answer.get("actions", {}).get("download")
        if download is not None:
            download["href"] += "?" + link_keys().signed(mirror.name, LfsOid(answer["oid"]), seconds=seconds)
            download["expires_in"] = int(seconds)


def _checked(document: object, mirror: Mirror) -> list[tuple[str, int]]:
    """Return the objects asked for; raises :class:`Refused` for what is no download batch."""
    if not isinstance(document, dict):
        raise Refused(422, "the batch request is not a JSON object")
    operation = document.get("operation")
    if operation == "upload":
        raise Refused(
            403, f"{mirror.name} is a read-only mirror; upload LFS objects to its upstream: {mirror.upstream}"
        )
    if operation != "download":
        raise Refused(422, "operation is neither download nor upload")
    transfers = document.get("transfers")
    if transfers and not (isinstance(transfers, list) and "basic" in transfers):
        raise Refused(422, "only the basic transfer adapter is spoken here")
    algorithm = document.get("hash_algo")
    if algorithm not in (None, "", "sha256"):
        raise Refused(409, "only sha256 is spoken here")
    objects = document.get("objects")
    if not isinstance(objects, list):
        raise Refused(422, "objects is missing")
    if len(objects) > MAX_OBJECTS:
        raise Refused(413, f"a batch has at most {MAX_OBJECTS} objects")
    found: list[tuple[str, int]] = []
    for item in objects:
        oid = item.get("oid") if isinstance(item, dict) else None
        size = item.get("size") if isinstance(item, dict) else None
        sound = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_SIZE
        found.append((oid if isinstance(oid, str) else "", size if sound and size is not None else -1))
    return found


def _one(
    oid: str, size: int, *, known: Mapping[LfsOid, int], sizes: dict[LfsOid, int], reasons: dict[LfsOid, str], base: str
) -> dict[str, Any]:
    answer: dict[str, Any] = {"oid": printable(oid)[:200], "size": max(size, 0)}
    lfs_oid = LfsOid(oid)
    if not is_lfs_oid(oid) or size < 0:
        return answer | {"error": {"code": 422, "message": "an object has an oid of 64 hex digits and a size"}}
    if lfs_oid not in known:
        return answer | {"error": {"code": 404, "message": "this mirror does not refer to that object"}}
    if lfs_oid not in sizes and (lfs_oid in reasons or known[lfs_oid] != size):
        return answer | {"error": {"code": 404, "message": reasons.get(lfs_oid, NOT_HERE)}}
    if sizes.get(lfs_oid, size) != size:
        message = f"the object has {sizes[lfs_oid]} bytes, not {size}"
        return answer | {"error": {"code": 422, "message": message}}
    return answer | {"authenticated": True, "actions": {"download": {"href": f"{base}/{oid}"}}}


NOT_HERE = "the object is not here yet; it is queued to be fetched from upstream"


def _reasons(mirror: Mirror, oids: Sequence[LfsOid]) -> dict[LfsOid, str]:
    """Return why objects that are not here cannot be had now: left out, known missing, failing with a code, or queued.

    Those that are fetched when somebody asks for them have no reason.  One that counts as
    here was lost behind our back: it is queued now.
    """
    if not oids:
        return {}
    app = backend()
    reasons = {
        oid: f"this mirror leaves the object out: {printable(why)}; upstream may have it: {mirror.upstream}"
        for oid, why in app.state.lfs_left_out(mirror.id, oids).items()
    }
    absent = app.state.lfs_absent(mirror.id, oids)
    lost = [oid for oid in oids if oid not in reasons and oid not in absent and app.objects.size(oid) is None]
    if lost:
        app.state.lfs_lost(lost)
        app.telemetry.event("lfs_objects_lost", level="error", mirror=mirror.name, objects=len(lost), first=lost[0])
    fetched = fetches(mirror)
    failed = app.state.lfs_ask_failures(mirror.id, oids) if fetched else {}
    for oid in oids:
        code, message = absent.get(oid, ("", ""))
        if oid in reasons:
            continue
        if code in KNOWN_MISSING_CODES:
            reasons[oid] = f"upstream itself lacks this object ({code})"
        elif oid in failed or (code and not fetched):
            code, message = failed.get(oid, (code, message))
            reasons[oid] = f"the object is queued; the last attempt failed, {code}: {printable(message)[:200]}"
        elif not fetched:
            reasons[oid] = NOT_HERE
    return reasons


def fetches(mirror: Mirror) -> bool:
    """Tell whether LFS objects of this mirror that are not here are fetched when a client asks for one."""
    lfs = backend().settings.lfs
    return lfs.enabled and lfs.pull_through and mirror.paused_at is None


# ---------------------------------------------------------------- one object


def _object(mirror: Mirror, oid: str) -> Response:
    if request.method == "PUT":
        return lfs_refusal(403, f"{mirror.name} is a read-only mirror; upload to its upstream: {mirror.upstream}")
    if request.method not in ("GET", "HEAD"):
        return lfs_refusal(405, "an object is read with GET")
    app = backend()
    lfs_oid = LfsOid(oid)
    known = app.state.lfs_refers(mirror.id, [lfs_oid]) if is_lfs_oid(oid) else {}
    if lfs_oid not in known:
        return lfs_refusal(404, "this mirror does not refer to that object")
    size = app.objects.size(lfs_oid)
    if size is None:
        return _absent(mirror, Pointer(lfs_oid, known[lfs_oid]))
    part, headers = _chosen(lfs_oid, size, if_range=request.headers.get("If-Range", ""))
    if part.status not in (200, 206):
        return Response(status=part.status, headers=headers)
    if request.method == "HEAD":
        return Response(_nothing(), status=part.status, headers=headers)
    location = app.settings.server.accel_redirect
    if location and "If-Match" not in request.headers:  # that header nginx compares with a validator of its own
        return _left_to_nginx(location + app.objects.place(lfs_oid), headers)
    return _file(lfs_oid, start=part.start, end=part.end, status=part.status, headers=headers)


def _chosen(oid: LfsOid, size: int, *, if_range: str) -> tuple[Part, dict[str, str]]:
    """Return which part the request asks for, and the headers of its answer."""
    etag = f'"{oid}"'
    part = choose(
        size,
        etag=etag,
        range_header=request.headers.get("Range", "") if request.method == "GET" else "",
        if_range=if_range,
        if_none_match=request.headers.get("If-None-Match", ""),
        if_match=request.headers.get("If-Match", ""),
    )
    headers = {
        "ETag": etag,
        "Cache-Control": f"{'public' if for_everybody() else 'private'}, max-age=31536000, immutable",
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    if part.status == 416:
        headers |= {"Content-Range": f"bytes */{size}", "Cache-Control": "no-cache"}
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{size}"
    if part.status in (200, 206):
        headers["Content-Length"] = str(part.end - part.start)
    return part, headers


# ---------------------------------------------------------------- one object that is not here


def _absent(mirror: Mirror, pointer: Pointer) -> Response:
    """Have an object fetched, and pass it on while it arrives; or say why it cannot be had."""
    reason = _reasons(mirror, [pointer.oid]).get(pointer.oid)
    if reason is not None:
        return lfs_refusal(404, reason)
    # Bytes that nobody has verified yet are no answer that a part can be joined with.
    part, headers = _chosen(pointer.oid, pointer.size, if_range="*" if "If-Range" in request.headers else "")
    headers["Cache-Control"] = "no-store"
    if part.status not in (200, 206):
        return Response(status=part.status, headers=headers)
    del headers["ETag"]
    if request.method == "HEAD":
        return Response(_nothing(), status=part.status, headers=headers)
    joined = pulls().join(mirror, pointer)
    slot = limits().streams.take(client=client_of(request)) if joined is not None else None
    if joined is None or slot is None:
        if joined is not None:
            joined.leave()
        return lfs_refusal(429, BUSY, retry_after=RETRY_SECONDS)

    def release() -> None:
        joined.leave()
        slot.release()

    try:
        return _pulled(joined.pull, part, headers, release)
    except CannotBeHad as error:
        release()
        told = f"upstream does not give this object now, {error.code}: {printable(error.reason)[:200]}"
        if error.upstream_lacks_it:
            return lfs_refusal(404, told)
        return lfs_refusal(503, told, retry_after=RETRY_SECONDS)
    except NotYet:
        release()
        return lfs_refusal(429, ON_ITS_WAY, retry_after=COME_AGAIN_SECONDS)
    except BaseException:
        release()
        raise


def _pulled(pull: Pull, part: Part, headers: dict[str, str], release: Callable[[], None]) -> Response:
    """Return the answer that passes an object on, once there is a byte to begin with."""
    app, environ = backend(), request.environ
    pull.wait(part.start, part.end, seconds=FIRST_SECONDS, environ=environ)
    app.metrics.stream_began("lfs")

    def done(sent: int) -> None:
        release()
        app.metrics.stream_ended("lfs")
        app.metrics.served_bytes(protocol="lfs", count=sent)

    with patience(environ, SEND_STALL_SECONDS):
        body = Stream(pull.pieces(part.start, part.end, environ), done=done)
        return Response(body, status=part.status, headers=headers)


def _left_to_nginx(path: str, headers: dict[str, str]) -> Response:
    """Return the answer that nginx replaces by the file, or by the range of it that its client asked for."""
    kept = {name: headers[name] for name in ("ETag", "Cache-Control", "Content-Type")}
    return Response(status=200, headers=kept | {"X-Accel-Redirect": path})


def _nothing() -> Iterable[bytes]:
    """A body of no bytes that leaves Content-Length alone."""
    return iter(())


def _file(oid: LfsOid, *, start: int, end: int, status: int, headers: dict[str, str]) -> Response:
    app = backend()
    slot = limits().streams.take(client=client_of(request))
    if slot is None:
        return lfs_refusal(429, BUSY, retry_after=RETRY_SECONDS)
    try:
        file = app.objects.open(oid)
    except NotFound:
        slot.release()
        return lfs_refusal(404, NOT_HERE)
    except BaseException:
        slot.release()
        raise
    app.metrics.stream_began("lfs")

    def done(sent: int) -> None:
        slot.release()
        app.metrics.stream_ended("lfs")
        app.metrics.served_bytes(protocol="lfs", count=sent)

    sent = SentFile(file, start=start, length=end - start, done=done)
    request.environ[SENT_FILE] = sent
    # sendfile needs the server's own wrapper object, unwrapped by anything.
    wrapper = request.environ.get("wsgi.file_wrapper", FileWrapper)
    with patience(request.environ, SEND_STALL_SECONDS):
        return Response(wrapper(sent, BLOCK_BYTES), status=status, headers=headers, direct_passthrough=True)
