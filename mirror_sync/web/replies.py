"""The few shapes of answers that are no pages."""

from __future__ import annotations

import json
import math
from typing import Any

from flask import Response

from mirror_sync.actions.status import progress_document
from mirror_sync.domain.names import MirrorName, printable
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import MirrorSyncError, NotFound, Overloaded, StateUnavailable, UsageError
from mirror_sync.web.backend import backend

NO_CACHE = {
    "Cache-Control": "no-cache, max-age=0, must-revalidate",
    "Expires": "Fri, 01 Jan 1980 00:00:00 GMT",
    "Pragma": "no-cache",
}
RETRY_SECONDS = 30
LFS_TYPE = "application/vnd.git-lfs+json"


class Refused(Exception):
    """A client is not served: the HTTP status and a reason it can show its user.

    ``challenge`` asks for credentials, with status 401.
    """

    def __init__(self, status: int, reason: str, *, retry_after: float | None = None, challenge: bool = False) -> None:
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.challenge = challenge
        super().__init__(reason)


def text(status: int, message: str, *, retry_after: float | None = None) -> Response:
    """Return a plain text answer; git shows its lines behind ``remote:``."""
    response = Response(message.rstrip("\n") + "\n", status=status, content_type="text/plain; charset=utf-8")
    response.headers.update(NO_CACHE)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return response


def json_answer(document: Any, *, status: int = 200, content_type: str = "application/json") -> Response:
    """Return a JSON answer."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return Response(body, status=status, content_type=content_type)


def lfs_refusal(status: int, message: str, *, retry_after: float | None = None) -> Response:
    """Return a refusal of a whole LFS request; git-lfs prints its message."""
    response = json_answer({"message": message}, status=status, content_type=LFS_TYPE)
    response.headers.update(NO_CACHE)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return response


def status_of(error: MirrorSyncError) -> int:
    """Return the HTTP status that an error of ours becomes."""
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, UsageError):
        return 400
    if isinstance(error, Overloaded):
        return 429
    if isinstance(error, StateUnavailable):
        return 503
    return 500


def problem(status: int, *, title: str, detail: str = "", code: str = "", hint: str = "") -> Response:
    """Return an error of the API (RFC 9457)."""
    document: dict[str, Any] = {
        "type": f"/errors/{code}" if code else "about:blank",
        "title": title,
        "status": status,
    }
    for key, value in (("detail", detail), ("code", code), ("hint", hint)):
        if value:
            document[key] = printable(value)
    return json_answer(document, status=status, content_type="application/problem+json")


def problem_of(error: MirrorSyncError) -> Response:
    """Return one of our errors as the API tells it."""
    return problem(status_of(error), title=error.message, detail=error.why, code=error.code, hint=error.remedy)


def unknown_mirror(name: MirrorName) -> Refused:
    """Return the refusal of a name that is not mirrored here, or not for whoever asks: the two are one."""
    return Refused(
        404,
        f"{printable(name)} is not mirrored here.\nAsk the operator to run: mirror-sync add https://{printable(name)}",
    )


def _how_far(mirror: Mirror) -> list[str]:
    told = progress_document(mirror.progress, backend().clock.now())
    if told is None or told["percent"] is None:
        return []
    name = "Git" if told["unit"] == "commits" else "LFS"
    seconds = told["remaining_seconds"]
    left = ""
    if seconds is not None:
        left = f", about {round(seconds / 60)} minutes left" if seconds >= 90 else ", about a minute left"
    return [f"{name}: {told['done']} of {told['total']} {told['unit']} ({told['percent']} %){left}."]


def never_published(mirror: Mirror) -> Refused:
    """Return the refusal of a mirror whose first fill is not done, saying how far it is and why."""
    lines = [f"{mirror.name} is being mirrored for the first time and cannot be cloned yet."]
    last = mirror.last_run
    if mirror.run_step is not None and mirror.lease_until > backend().clock.now():
        lines.append(f"Now: {mirror.run_step.value} {printable(mirror.run_detail)}".rstrip())
    elif last is not None and last.code:
        lines.append(f"The last attempt failed, {last.code}: {printable(last.message)}")
    if mirror.lfs.wanted:
        lines.append(f"LFS objects: {mirror.lfs.present} of {mirror.lfs.wanted} are here.")
    lines += _how_far(mirror)
    lines.append(f"Until then use its upstream: {mirror.upstream}")
    return Refused(503, "\n".join(lines), retry_after=RETRY_SECONDS)
