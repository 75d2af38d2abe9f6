"""Pages for people: overview, mirrors, one mirror, how to use them, what a code means.

Read-only and public; nothing on them needs a script or anything from outside.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, make_response, redirect, render_template, request
from flask_babel import gettext
from werkzeug.http import HTTP_STATUS_CODES

from mirror_sync.actions.status import run_document
from mirror_sync.domain.names import MirrorName, parse_mirror_name, printable
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import NotFound, UsageError
from mirror_sync.ports import MirrorFilter
from mirror_sync.web import language
from mirror_sync.web.backend import backend
from mirror_sync.web.door import audience, shown_mirror
from mirror_sync.web.lfs import public_base
from mirror_sync.web.paths import decoded_path
from mirror_sync.web.queries import number, raw_query
from mirror_sync.web.replies import text
from mirror_sync.web.shown import mirror_url
from mirror_sync.web.words import ACTIVITY, CODES, HEALTH

PAGE_MIRRORS = 100
PAGE_REFS = 50
PAGE_RUNS = 20
PAGE_JOURNAL = 20
PAGE_KEPT = 50
PAGE_MISSING = 50
PREFIX = "/mirrors/"

STYLE_TAG = hashlib.sha256((Path(__file__).parent / "static" / "style.css").read_bytes()).hexdigest()[:12]
"""Names the style sheet's content, so that browsers may keep it and still see a new one."""

pages = Blueprint("pages", __name__)

__all__ = ["error_page", "mirror_url", "pages"]


def _page(template: str, *, status: int = 200, **values: Any) -> Response:
    query = {key: value for key, value in request.args.items() if key != "lang"}
    response = make_response(render_template(template, style_tag=STYLE_TAG, query=query, urlencode=urlencode, **values))
    response.status_code = status
    language.mark_language(response)
    if status == 200:
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        response.make_conditional(request)
    return response


def error_page(status: int, *, detail: str = "", code: str = "") -> Response:
    """Return a page that says what is wrong and where to go from there."""
    title = HTTP_STATUS_CODES.get(status, "Error")
    return _page("message.html", status=status, number=status, title=title, detail=printable_lines(detail), code=code)


def printable_lines(message: str) -> list[str]:
    """Return the lines of a message, each fit to be shown."""
    return [printable(line) for line in message.splitlines()]


@pages.get("/")
def overview() -> Response:
    """Show the verdict and what needs somebody."""
    return _page("overview.html", overview=backend().overview(audience=audience()), HEALTH=HEALTH)


@pages.get("/mirrors")
def mirrors() -> Response:
    """Show one page of mirrors."""
    wanted = {key: request.args.get(key, "").strip()[:200] for key in ("q", "health", "activity")}
    if wanted["health"] not in HEALTH:
        wanted["health"] = ""
    if wanted["activity"] not in ACTIVITY:
        wanted["activity"] = ""
    which = MirrorFilter(query=wanted["q"], health=wanted["health"], activity=wanted["activity"], audience=audience())
    listing = backend().list_status(which, cursor=request.args.get("cursor", "")[:2000], limit=PAGE_MIRRORS)
    return _page("mirrors.html", listing=listing, wanted=wanted, HEALTH=HEALTH, ACTIVITY=ACTIVITY)


@pages.get("/mirrors/<path:name>")
def mirror(name: str) -> Response:  # noqa: ARG001 - read from the wire, where an escaped slash is still one
    """Show one mirror."""
    app = backend()
    found = _asked_mirror()
    document = app.mirror_status(found.name)
    asked = raw_query()
    runs = app.state.runs(found.id, before=number("runs", default=0, low=0, high=2**63 - 1) or None, limit=PAGE_RUNS)
    missing = app.state.lfs_missing(found.id, after=asked.get("missing", "")[:64], limit=PAGE_MISSING)
    refs: list[tuple[str, str]] = []
    if document["published_at"] is not None:
        _head, listed = app.serving.refs(
            found.name, after=asked.get("refs", ""), limit=PAGE_REFS, prefix=asked.get("prefix", "")
        )
        refs = [(str(ref), oid) for ref, oid in listed]
    return _page(
        "mirror.html",
        doc=document,
        why=app.why(found.name),
        clone_url=f"{public_base()}/{found.name}",
        refs=refs,
        more_refs=len(refs) == PAGE_REFS,
        prefix=asked.get("prefix", ""),
        runs=[run_document(run) for run in runs],
        more_runs=len(runs) == PAGE_RUNS,
        journal=app.state.ref_journal(found.id, limit=PAGE_JOURNAL),
        kept=app.state.kept_tips(found.id)[:PAGE_KEPT],
        missing=missing,
        more_missing=len(missing) == PAGE_MISSING,
    )


def _asked_mirror() -> Mirror:
    path = decoded_path(request.environ.get("RAW_URI", request.path))
    if path is None or not path.startswith(PREFIX):
        raise NotFound("no such mirror")
    try:
        name: MirrorName = parse_mirror_name(path.removeprefix(PREFIX))
    except UsageError:
        raise NotFound("no such mirror") from None
    return shown_mirror(name)


@pages.get("/use")
def use() -> Response:
    """Show what to type to use the mirrors."""
    example = backend().list_status(MirrorFilter(audience=audience()), limit=1)["items"]
    name = example[0]["name"] if example else "github.com/acme/model"
    scheme = example[0]["upstream"].partition("://")[0] if example else "https"
    host = name.partition("/")[0]
    return _page(
        "use.html",
        base=public_base(),
        name=name,
        host=host,
        scheme=scheme,
        upstream=f"{scheme}://{host}",
        hub=bool(backend().settings.huggingface.hosts),
    )


@pages.get("/errors")
def codes() -> Response:
    """Show every code."""
    return _page("codes.html", CODES=CODES)


@pages.get("/errors/<code>")
def code_page(code: str) -> Response:
    """Show what one code means and what to do."""
    found = CODES.get(code.upper())
    if found is None:
        return error_page(404, detail=gettext("There is no such code."))
    return _page("code.html", code=code.upper(), explanation=found)


@pages.get("/favicon.ico")
def icon() -> Response:
    """Lead to the icon."""
    return redirect("/static/icon.svg", code=301)  # type: ignore[return-value]  # werkzeug's own Response class


@pages.get("/robots.txt")
def robots() -> Response:
    """Ask crawlers to leave repositories alone."""
    return text(200, "User-agent: *\nDisallow: /api/\nDisallow: /mirrors/")
