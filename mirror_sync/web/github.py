"""What GitHub's webhook payloads say, as deliveries."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mirror_sync.domain.deliveries import CHANGE_EVENTS, NOTICE_EVENTS
from mirror_sync.domain.names import RefName, parse_upstream_url
from mirror_sync.domain.runs import Delivery
from mirror_sync.errors import MirrorSyncError

PROVIDER = "github"
SIGNATURE_PREFIX = b"sha256="
USED_EVENTS = CHANGE_EVENTS | NOTICE_EVENTS
"""Events that can mean a change; every other one is thanked for and ignored."""

_DELIVERY_ID = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_EVENT = re.compile(r"[a-z0-9_]{1,60}\Z")


class PayloadRefused(Exception):
    """A genuine request that says nothing usable."""


def matching_secret(body: bytes, signature: bytes, secrets: Sequence[tuple[str, bytes]]) -> str | None:
    """Return the label of the secret that signed ``body``, or ``None``.

    Every secret is tried whatever the first says, comparing bytes in constant time.
    """
    found: str | None = None
    for label, secret in secrets:
        expected = SIGNATURE_PREFIX + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
        if hmac.compare_digest(expected, signature) and found is None:
            found = label
    return found


def check_headers(event: str, delivery_id: str) -> None:
    """Raise :class:`PayloadRefused` unless the event and delivery headers are what GitHub sends."""
    if not _EVENT.match(event):
        raise PayloadRefused("X-GitHub-Event is missing or malformed")
    if not _DELIVERY_ID.match(delivery_id):
        raise PayloadRefused("X-GitHub-Delivery is missing or malformed")


def delivery_of(event: str, delivery_id: str, payload: object, *, received_at: float) -> Delivery:
    """Return the delivery that a payload of one of :data:`USED_EVENTS` stands for.

    Nothing in it is taken for truth: it makes a mirror due, and the ref list decides.
    Raises :class:`PayloadRefused` when the payload names no repository.
    """
    if not isinstance(payload, dict):
        raise PayloadRefused("the payload is not a JSON object")
    repository = payload.get("repository")
    if not isinstance(repository, dict):
        raise PayloadRefused("the payload names no repository")
    number = repository.get("id")
    changed, deleted = _refs(event, payload)
    return Delivery(
        provider=PROVIDER,
        delivery_id=delivery_id,
        event=event,
        received_at=received_at,
        repository_id=str(number) if isinstance(number, int) and not isinstance(number, bool) else "",
        clone_url=_clone_url(repository),
        refs=changed,
        deleted_refs=deleted,
        action=_text(payload.get("action"), 60),
    )


def _refs(event: str, payload: Mapping[str, Any]) -> tuple[tuple[RefName, ...], tuple[RefName, ...]]:
    """Return the refs an event says changed, and among them those it says are gone."""
    ref = _text(payload.get("ref"), 4000)
    if event == "push" and ref.startswith("refs/"):
        name = RefName(ref)
        return (name,), (name,) if payload.get("deleted") is True else ()
    if event in ("create", "delete") and ref:
        kind = {"branch": "refs/heads/", "tag": "refs/tags/"}.get(_text(payload.get("ref_type"), 20))
        if kind is None:
            return (), ()
        name = RefName(ref if ref.startswith(kind) else kind + ref)
        return (name,), (name,) if event == "delete" else ()
    if event == "release" and isinstance(payload.get("release"), dict):
        tag = _text(payload["release"].get("tag_name"), 1000)
        return ((RefName(f"refs/tags/{tag}"),) if tag else ()), ()
    return (), ()


def _clone_url(repository: Mapping[str, Any]) -> str:
    """Return the clone URL when it is one that could be mirrored, else an empty string."""
    url = _text(repository.get("clone_url"), 2048) or _text(repository.get("html_url"), 2048)
    try:
        return str(parse_upstream_url(url))
    except MirrorSyncError:
        return ""


def _text(value: object, limit: int) -> str:
    return value if isinstance(value, str) and len(value) <= limit and "\x00" not in value else ""
