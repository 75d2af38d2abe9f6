"""What a webhook delivery means: which mirrors it concerns, and whether it tells of a change."""

from __future__ import annotations

import hashlib

from mirror_sync.domain.names import parse_upstream_url, printable
from mirror_sync.domain.runs import Delivery
from mirror_sync.errors import MirrorSyncError

CHANGE_EVENTS = frozenset({"push", "create", "delete"})
"""Events that tell of moved refs."""

NOTICE_EVENTS = frozenset({"repository", "public", "release"})
"""Events after which upstream is worth a look, though no ref need have moved."""

MAX_KEY_CHARACTERS = 200


def tells_of_change(delivery: Delivery) -> bool:
    """Tell whether the delivery is evidence that refs moved upstream."""
    return delivery.event in CHANGE_EVENTS or bool(delivery.refs or delivery.deleted_refs)


def calls(delivery: Delivery) -> bool:
    """Tell whether the delivery makes its mirrors due."""
    return tells_of_change(delivery) or delivery.event in NOTICE_EVENTS


def event_label(delivery: Delivery) -> str:
    """Return the event as one of few words, fit for a metric."""
    known = CHANGE_EVENTS | NOTICE_EVENTS | {"ping", "meta"}
    return delivery.event if delivery.event in known else "other"


def delivery_key(delivery: Delivery) -> str:
    """Return the sender's delivery id, shortened by a hash when it is absurdly long."""
    text = printable(delivery.delivery_id)
    if len(text) <= MAX_KEY_CHARACTERS:
        return text
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def repository_key(url: str) -> tuple[str, str]:
    """Return ``(host, host/path)`` in lower case without ``.git``: forges ignore case, and a hint need not be exact.

    Both are empty for what is no repository URL.
    """
    try:
        parsed = parse_upstream_url(url)
    except MirrorSyncError:
        return "", ""
    return parsed.netloc.lower(), parsed.name.lower()
