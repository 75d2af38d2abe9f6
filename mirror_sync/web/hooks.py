"""Webhook receiver: verify, store, answer; the work is the worker's."""

from __future__ import annotations

import json

from flask import Blueprint, Response, request

from mirror_sync.errors import ConfigError, StateUnavailable
from mirror_sync.web.backend import backend, limits
from mirror_sync.web.bodies import BodyRefused, leave_body, small_body
from mirror_sync.web.github import PROVIDER, USED_EVENTS, PayloadRefused, check_headers, delivery_of, matching_secret
from mirror_sync.web.replies import text

BODY_SECONDS = 20.0

hooks = Blueprint("hooks", __name__)


@hooks.post("/hooks/github")
def github() -> Response:
    """Take one delivery of GitHub's.

    2xx is answered only after the delivery is stored durably; whatever of ours is
    broken answers 503, so that the sender shows it as failed and can send it again.
    """
    status, result, message = _receive()
    backend().metrics.webhook(provider=PROVIDER, result=result)
    if status in (403, 408, 413, 415, 429, 503):
        leave_body(request.environ)
    if status >= 400:
        backend().telemetry.event("delivery_refused", level="warning", provider=PROVIDER, status=status, why=message)
    return text(status, message, retry_after=30 if status in (429, 503) else None)


@hooks.get("/hooks/github")
def github_read() -> Response:
    """Tell a curious visitor what this address is for."""
    response = text(405, "Webhook deliveries of GitHub are sent here by POST.")
    response.headers["Allow"] = "POST"
    return response


def _receive() -> tuple[int, str, str]:
    """Return the HTTP status, the word for the metrics, and the text."""
    app = backend()
    source = request.remote_addr or "unknown"
    try:
        secrets = app.settings.webhooks.secrets()
    except ConfigError as error:
        return 503, "unready", f"{error.code}: the webhook secret cannot be read"
    if not secrets:
        return 403, "unconfigured", "no webhook secret is configured here; deliveries cannot be verified"
    if limits().patience.exhausted(source):
        return 429, "limited", "too many deliveries from this address failed verification"
    fault = _head_fault()
    if fault is not None:
        return fault
    try:
        with limits().body_place(request.content_length) as placed:
            if not placed:
                return 503, "busy", "too many deliveries are arriving at once; this one may be sent again"
            body = small_body(request, limit=app.settings.webhooks.max_body, seconds=BODY_SECONDS)
    except BodyRefused as error:
        limits().patience.failed(source)
        return error.status, "malformed", error.reason
    signature = request.headers.get("X-Hub-Signature-256", "").encode("latin-1", "replace")
    label = matching_secret(body, signature, secrets)
    if label is None:
        limits().patience.failed(source)
        return 401, "forged", "MS-W401: the signature is missing or does not match the secret configured here"
    try:
        return _accept(body, label)
    except PayloadRefused as error:
        return 400, "malformed", str(error)
    except StateUnavailable as error:
        return 503, "unready", f"{error.code}: the database does not answer; this delivery may be sent again"


def _head_fault() -> tuple[int, str, str] | None:
    """Return the refusal that the headers alone deserve."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        return 415, "malformed", "a delivery is sent uncompressed"
    if request.mimetype != "application/json":
        return 415, "malformed", "set the webhook's content type to application/json"
    length = request.content_length
    if length is not None and length > backend().settings.webhooks.max_body:
        return 413, "malformed", "the delivery is too large"
    return None


def _accept(body: bytes, label: str) -> tuple[int, str, str]:
    app = backend()
    event = request.headers.get("X-GitHub-Event", "")
    delivery_id = request.headers.get("X-GitHub-Delivery", "")
    check_headers(event, delivery_id)
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PayloadRefused("the payload is not JSON") from error
    if event == "ping":
        app.telemetry.event("delivery_accepted", provider=PROVIDER, kind=event, delivery=delivery_id, signed_by=label)
        return 200, "ping", "pong"
    if event not in USED_EVENTS:
        return 202, "ignored", "ignored"
    delivery = delivery_of(event, delivery_id, payload, received_at=app.clock.now())
    if not app.accept_delivery(delivery):
        return 202, "duplicate", "duplicate"
    app.telemetry.event(
        "delivery_accepted",
        provider=PROVIDER,
        kind=event,
        delivery=delivery_id,
        repository=delivery.clone_url or delivery.repository_id,
        signed_by=label,
    )
    return 202, "accepted", "accepted"
