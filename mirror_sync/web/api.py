"""The JSON API: mirrors and why they are as they are.  Read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, request

from mirror_sync.actions.status import lfs_document, rfc3339, run_document
from mirror_sync.domain.names import MirrorName, parse_mirror_name, printable, ref_bytes
from mirror_sync.domain.runs import Activity, Health
from mirror_sync.errors import NotFound, UsageError
from mirror_sync.ports import MirrorFilter
from mirror_sync.web.backend import backend
from mirror_sync.web.door import audience, shown_mirror
from mirror_sync.web.paths import decoded_path
from mirror_sync.web.queries import number, raw_query
from mirror_sync.web.replies import json_answer

DEFAULT_LIMIT = 100
MAX_LIMIT = 500
BY_NAME = "/api/v1/mirrors/by-name/"

api = Blueprint("api", __name__)


@api.get("/api/v1/status")
def status() -> Response:
    """Return the counts of the first page."""
    overview = backend().overview(audience=audience())
    totals = overview.totals
    return _cacheable(
        {
            "at": rfc3339(overview.now),
            "mirrors": totals.mirrors,
            "by_health": dict(totals.by_health),
            "by_activity": dict(totals.by_activity),
            "lag_within": dict(totals.lag_within),
            "oldest_confirmed_at": rfc3339(totals.oldest_confirmed_at),
            "due": totals.due,
            "lfs": lfs_document(totals.lfs),
            "attention": [document["name"] for document in overview.attention],
        }
    )


@api.get("/api/v1/mirrors")
def mirrors() -> Response:
    """Return one page of mirrors under ``items``, with ``next_cursor`` and a relative ``Link`` to the next."""
    which = MirrorFilter(
        glob=_short("glob"),
        health=_one_of("health", {word.value for word in Health}),
        activity=_one_of("activity", {word.value for word in Activity}),
        query=_short("q"),
        audience=audience(),
    )
    limit = number("limit", default=DEFAULT_LIMIT, low=1, high=MAX_LIMIT)
    document = backend().list_status(which, cursor=_short("cursor", limit=2000), limit=limit)
    response = _cacheable(document)
    following = document["next_cursor"]
    if following:
        asked = {key: value for key, value in request.args.items() if key != "cursor"}
        response.headers["Link"] = f'</api/v1/mirrors?{urlencode(asked | {"cursor": following})}>; rel="next"'
    return response


@api.get("/api/v1/mirrors/by-name/<path:name>")
def by_name(name: str) -> Response:  # noqa: ARG001 - read from the wire, where an escaped slash is still one
    """Return one mirror, or a part of it named behind its name; the longest name that exists wins."""
    path = decoded_path(request.environ.get("RAW_URI", request.path))
    if path is None or not path.startswith(BY_NAME):
        raise NotFound("no such mirror")
    text = path.removeprefix(BY_NAME)
    try:
        return _cacheable(backend().mirror_status(shown_mirror(_name(text)).name))
    except NotFound:
        head, _, tail = text.rpartition("/")
        part = _PARTS.get(tail)
        if part is None:
            raise
        return _cacheable(part(_name(head)))


def _name(text: str) -> MirrorName:
    try:
        return parse_mirror_name(text)
    except UsageError:
        raise NotFound("no such mirror") from None


def _why(name: MirrorName) -> dict[str, Any]:
    return backend().why(shown_mirror(name).name).document()


def _refs(name: MirrorName) -> dict[str, Any]:
    app = backend()
    mirror = shown_mirror(name)
    limit = number("limit", default=DEFAULT_LIMIT, low=1, high=MAX_LIMIT)
    if mirror.published_at is None:
        return {"head": None, "items": [], "next_cursor": None}
    asked = raw_query()
    head, refs = app.serving.refs(
        mirror.name, after=asked.get("cursor", ""), limit=limit, prefix=asked.get("prefix", "")
    )
    last = quote(ref_bytes(refs[-1][0])) if len(refs) == limit else None
    return {
        "head": printable(head) or None,
        "items": [{"name": printable(ref), "oid": oid} for ref, oid in refs],
        "next_cursor": last,
    }


def _runs(name: MirrorName) -> dict[str, Any]:
    app = backend()
    mirror = shown_mirror(name)
    limit = number("limit", default=DEFAULT_LIMIT, low=1, high=MAX_LIMIT)
    before = number("cursor", default=0, low=0, high=2**63 - 1) or None
    runs = app.state.runs(mirror.id, before=before, limit=limit)
    return {
        "items": [run_document(run) for run in runs],
        "next_cursor": str(runs[-1].id) if len(runs) == limit else None,
    }


_PARTS: dict[str, Callable[[MirrorName], dict[str, Any]]] = {"why": _why, "refs": _refs, "runs": _runs}


def _short(key: str, *, limit: int = 200) -> str:
    value = request.args.get(key, "")
    if len(value) > limit:
        raise UsageError(f"{key} is longer than {limit} characters")
    return value


def _one_of(key: str, allowed: set[str]) -> str:
    value = _short(key)
    if value and value not in allowed:
        raise UsageError(f"{key} is not a known word", remedy="one of: " + ", ".join(sorted(allowed)))
    return value


def _cacheable(document: dict[str, Any]) -> Response:
    response = json_answer(document)
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
