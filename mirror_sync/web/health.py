"""What other machines ask: metrics, alive, ready."""

from __future__ import annotations

from flask import Blueprint, Response, abort, request

from mirror_sync.errors import MirrorSyncError
from mirror_sync.web.backend import backend
from mirror_sync.web.door import audience
from mirror_sync.web.replies import json_answer, text

WORKER_SILENT_SECONDS = 60.0

health = Blueprint("health", __name__)


@health.get("/healthz")
def alive() -> Response:
    """Say that the process answers; asks nothing of anybody else."""
    return text(200, "ok")


@health.get("/readyz")
def ready() -> Response:
    """Say whether the database, the storage and a worker are fine."""
    checks = {"database": _database(), "storage": _storage(), "worker": _worker()}
    good = all(fault == "" for fault in checks.values())
    document = {"ready": good, "checks": {name: fault or "ok" for name, fault in checks.items()}}
    response = json_answer(document, status=200 if good else 503)
    response.headers["Cache-Control"] = "no-store"
    return response


@health.get("/metrics")
def metrics() -> Response:
    """Answer a scrape in the format that its Accept header prefers."""
    body, content_type = backend().metrics.render(request.headers.get("Accept", ""))
    response = Response(body, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    return response


@health.get("/metrics/mirrors")
def mirror_metrics() -> Response:
    """Answer a scrape of the series that grow with the number of mirrors, where the operator wants them.

    Only of mirrors that the scraper may know of: a clone token opens more than what everybody may read.
    """
    app = backend()
    if not app.settings.metrics.per_mirror:
        abort(404)
    response = Response(app.metrics.render_mirrors(audience()), content_type="text/plain; version=0.0.4; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response


def _database() -> str:
    try:
        backend().state.check()
    except MirrorSyncError as error:
        return f"{error.code}: {error.message}"
    return ""


def _storage() -> str:
    app = backend()
    storage = app.settings.storage
    for directory in (storage.git_dir, storage.lfs_dir):
        try:
            next(directory.iterdir(), None)
        except OSError as error:
            return f"{error.strerror}"
    try:
        app.objects.free_bytes()
    except (OSError, MirrorSyncError) as error:
        return type(error).__name__
    return ""


def _worker() -> str:
    app = backend()
    try:
        beats = app.state.workers()
    except MirrorSyncError as error:
        return error.code
    latest = max(beats.values(), default=0.0)
    silent = app.clock.now() - latest
    if latest and silent < WORKER_SILENT_SECONDS:
        return ""
    return f"no worker has given a sign of life for {silent:.0f} s" if latest else "no worker has started yet"
