"""The WSGI application: git and LFS over HTTP, webhooks, API, pages, metrics on one port."""

from __future__ import annotations

from flask import Flask, Response, g, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from mirror_sync.errors import MirrorSyncError, NotFound, StateUnavailable
from mirror_sync.web import language
from mirror_sync.web.api import api
from mirror_sync.web.backend import EXTENSION, LIMITS, App, backend
from mirror_sync.web.bodies import BodyRefused, leave_body, patience
from mirror_sync.web.door import DOOR, LOGGED, Door, check_network, for_everybody, served_mirror
from mirror_sync.web.files import answer_files, asked_files
from mirror_sync.web.git_http import answer_git
from mirror_sync.web.health import health
from mirror_sync.web.hooks import hooks
from mirror_sync.web.hub import answer_hub, hub_refusal, speaks_hub
from mirror_sync.web.lfs import answer_lfs
from mirror_sync.web.limits import Limits
from mirror_sync.web.pages import error_page, mirror_url, pages
from mirror_sync.web.paths import Service, Target, parse_target
from mirror_sync.web.pulls import PULLS, Pulls
from mirror_sync.web.replies import Refused, lfs_refusal, problem, problem_of, status_of, text
from mirror_sync.web.shown import install_filters
from mirror_sync.web.unknown import answer_unknown

EVERY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)

CHALLENGE = 'Basic realm="mirror-sync", charset="UTF-8"'

FROM_ANYWHERE = frozenset({"/healthz", "/readyz", "/hooks/github"})
"""Answered whatever the address lists say: they show no mirror, and deliveries prove themselves by a signature."""

ANSWER_STALL_SECONDS = 30.0
"""A client that takes nothing of a small answer for so long has gone; streams set a longer time."""

_LFS_SERVICES = frozenset(
    {
        Service.LFS_BATCH, Service.LFS_OBJECT, Service.LFS_LOCKS, Service.LFS_LOCKS_VERIFY, Service.LFS_UNLOCK,
        Service.LFS_OTHER,
    }
)  # fmt: skip


def create_app(app: App) -> Flask:
    """Return the WSGI application over one App; makes as many as are wanted."""
    flask = Flask("mirror_sync.web", static_folder="static", static_url_path="/static")
    flask.url_map.strict_slashes = False
    flask.url_map.merge_slashes = False
    flask.extensions[EXTENSION] = app
    flask.extensions[LIMITS] = Limits(app.settings, app.clock)
    flask.extensions[DOOR] = Door(app.settings, app.clock)
    flask.extensions[PULLS] = Pulls(app)
    flask.jinja_env.trim_blocks = True
    flask.jinja_env.lstrip_blocks = True
    flask.config["SEND_FILE_MAX_AGE_DEFAULT"] = 86400
    language.install(flask)
    install_filters(flask)
    for part in (health, hooks, api, pages):
        flask.register_blueprint(part)
    flask.add_url_rule("/hf/<path:anything>", "hub", answer_hub, methods=EVERY_METHOD)
    flask.add_url_rule("/<path:anything>", "mirror", _mirror, methods=EVERY_METHOD)
    flask.register_error_handler(MirrorSyncError, _our_error)
    flask.register_error_handler(HTTPException, _http_error)
    flask.register_error_handler(Refused, _refused)
    flask.register_error_handler(BodyRefused, _body_refused)
    flask.before_request(_bound)
    flask.after_request(_finish)
    if app.settings.server.trusted_proxies:
        count = app.settings.server.trusted_proxies
        flask.wsgi_app = ProxyFix(flask.wsgi_app, x_for=count, x_proto=count, x_host=count)  # type: ignore[method-assign]
    return flask


def _mirror(anything: str) -> Response:  # noqa: ARG001 - read from the wire, where an escaped slash is still one
    """Answer a request below a mirror's name."""
    target = parse_target(request.environ.get("RAW_URI", request.path))
    files = asked_files(unless=target)
    if files is not None:
        return answer_files(files)
    g.target = target
    if target is None:
        raise Refused(404, "No such mirror or page.")
    if target.service is not Service.PAGE:
        try:
            return _served(target)
        except Refused as refusal:
            if refusal.status != 404:
                raise
            return answer_unknown(target, refusal) or _served(target)
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, "This address is read with GET.")
    mirror = served_mirror(target.name)
    return redirect(mirror_url(mirror.name), code=302)  # type: ignore[return-value]  # werkzeug's own Response class


def _served(target: Target) -> Response:
    return answer_lfs(target) if target.service in _LFS_SERVICES else answer_git(target)


def _target() -> Target | None:
    target: Target | None = g.get("target")
    return target


def _speaks_lfs() -> bool:
    target = _target()
    return target is not None and target.service in _LFS_SERVICES


def _refused(error: Refused) -> Response:
    response = _refusal_of(error)
    if error.challenge:
        response.headers["WWW-Authenticate"] = CHALLENGE
        if _speaks_lfs():
            response.headers["LFS-Authenticate"] = CHALLENGE
    return response


def _refusal_of(error: Refused) -> Response:
    if _speaks_lfs():
        # git-lfs gives up at once on a 503 and comes again after a 429.
        status = 429 if error.status == 503 else error.status
        return lfs_refusal(status, error.reason, retry_after=error.retry_after)
    if request.path.startswith("/api/"):
        return problem(error.status, title=error.reason)
    if speaks_hub():
        return hub_refusal(error.status, error.reason, retry_after=error.retry_after, error=error)
    if _wants_page():
        return error_page(error.status, detail=error.reason)
    return text(error.status, error.reason, retry_after=error.retry_after)


def _body_refused(error: BodyRefused) -> Response:
    leave_body(request.environ)
    return _refused(Refused(error.status, error.reason))


def _our_error(error: MirrorSyncError) -> Response:
    status = status_of(error)
    if status >= 500:
        backend().telemetry.event("request_failed", level="error", code=error.code, why=str(error), path=request.path)
    if request.path.startswith("/api/"):
        return problem_of(error)
    if speaks_hub():
        return hub_refusal(status, _told(error), retry_after=30 if status in (429, 503) else None)
    if _speaks_lfs():
        # git-lfs gives up at once on a 503 and comes again after a 429.
        return lfs_refusal(429 if isinstance(error, StateUnavailable) else status, _told(error), retry_after=30)
    if _wants_page():
        return error_page(status, detail="" if isinstance(error, NotFound) else error.message, code=error.code)
    return text(status, _told(error), retry_after=30 if status == 503 else None)


def _told(error: MirrorSyncError) -> str:
    return f"{error.code}: {error.message}"


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if error.response is not None:
        return error.response  # type: ignore[return-value]  # flask made it
    title = error.name
    if request.path.startswith("/api/"):
        return problem(status, title=title)
    if speaks_hub():
        return hub_refusal(status, title)
    if _speaks_lfs():
        return lfs_refusal(status, title)
    if _wants_page():
        return error_page(status)
    return text(status, title)


def _wants_page() -> bool:
    """Tell whether a browser asks, rather than git or a script."""
    target = _target()
    if target is not None and target.service is not Service.PAGE:
        return False
    if request.method not in ("GET", "HEAD") or request.path.startswith(("/hooks/", "/api/", "/metrics")):
        return False
    return "text/html" in request.headers.get("Accept", "")


def _bound() -> None:
    """Let no client hold a thread by not taking its answer, and none in from a network that is not served."""
    with patience(request.environ, ANSWER_STALL_SECONDS):
        pass
    request.environ[LOGGED] = backend().settings.log.access
    if request.path in FROM_ANYWHERE:
        return
    try:
        check_network()
    except Refused:
        if request.content_length or "Transfer-Encoding" in request.headers:
            leave_body(request.environ)
        raise


def _finish(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
    if response.mimetype == "text/html":
        response.headers.setdefault("Cache-Control", "no-cache")
    if not for_everybody():
        response.cache_control.public = False
        response.cache_control.private = True
        response.vary.add("Authorization")
    backend().metrics.served(protocol=_protocol(), code=response.status_code)
    return response


def _protocol() -> str:
    if g.get("files", False):
        return "file"
    target = _target()
    if target is not None and target.service is not Service.PAGE:
        return "lfs" if target.service in _LFS_SERVICES else "git"
    head = request.path.strip("/").partition("/")[0]
    return {"api": "api", "hooks": "hook", "metrics": "metrics", "healthz": "health", "readyz": "health"}.get(
        head, "page"
    )
