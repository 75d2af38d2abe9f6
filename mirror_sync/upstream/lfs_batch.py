"""The LFS Batch API as a client: which objects may be downloaded, and from where.

Sources: git-lfs ``docs/api/batch.md`` and what its client accepts (``tq/api.go``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mirror_sync.domain.names import LfsOid, RefName, UpstreamUrl, printable
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import AddressRefused, MirrorSyncError, UpstreamInvalid, UpstreamRefused, UpstreamUnavailable
from mirror_sync.ports import LfsAction, LfsAnswer
from mirror_sync.upstream.addresses import parse_target
from mirror_sync.upstream.answers import LFS_JSON, clean, failure, http_date, media_type, rfc3339
from mirror_sync.upstream.connections import Question
from mirror_sync.upstream.place import Place

MAX_ANSWER_BYTES = 16 * 1024 * 1024
SKEW_SECONDS = 5.0
NOT_FOUND = 404
TOO_MANY = 413
UNUSABLE = 422

MOST_LIFE = 10**9
"""Seconds; an action that lives longer is taken for one of so many."""

_DANGEROUS = frozenset(
    {
        "accept-encoding", "connection", "content-encoding", "content-length", "expect", "host", "keep-alive",
        "proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "if-range", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that steer the connection or the range; ours alone to set."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_BUDGET = re.compile(r"budget|quota|bandwidth", re.IGNORECASE)


def endpoint(base: UpstreamUrl) -> str:
    """Return the LFS endpoint that git-lfs derives from a repository's address."""
    text = str(base)
    return f"{text}/info/lfs" if text.endswith(".git") else f"{text}.git/info/lfs"


def batch(place: Place, pointers: Sequence[Pointer], *, ref: RefName | None) -> list[LfsAnswer]:
    """Return one answer per pointer, in order; see :meth:`mirror_sync.ports.Upstream.batch`."""
    known = place.connections.memory.capabilities(str(place.url))
    base = known.base if known is not None else place.url
    out: list[LfsAnswer] = []
    while len(out) < len(pointers):
        size = place.connections.memory.batch_size(base.netloc)
        some = pointers[len(out) : len(out) + size]
        answers = _ask(place, base, some, ref=ref)
        if answers is None:
            place.connections.memory.shrink_batch(base.netloc, len(some))
            continue
        out += answers
    return out


def _ask(
    place: Place, base: UpstreamUrl, pointers: Sequence[Pointer], *, ref: RefName | None
) -> list[LfsAnswer] | None:
    """Ask for one batch; ``None`` when the server wants fewer objects at once."""
    document: dict[str, Any] = {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": pointer.oid, "size": pointer.size} for pointer in pointers],
        "hash_algo": "sha256",
    }
    if ref:
        # Some servers refuse an empty ref or null, so it is named or left out.
        document["ref"] = {"name": printable(ref)}
    headers = {"Accept": LFS_JSON, "Content-Type": LFS_JSON, **place.authorization(base)}
    server = place.lfs_server or endpoint(base)
    question = Question("POST", f"{server}/objects/batch", "lfs-batch", headers, body=json.dumps(document).encode())
    clock = place.connections.clock
    asked_at = clock.now()
    with place.connections.ask(question, place.rule(base.netloc)) as answer:
        if answer.status == TOO_MANY:
            if len(pointers) > 1:
                return None
            return [
                LfsAnswer(pointers[0], error_code=TOO_MANY, error_message="the server takes no batch of one object")
            ]
        if answer.status == NOT_FOUND:
            said = _message(answer.head_of_body()) or "the server has no LFS objects for this repository"
            return [LfsAnswer(pointer, error_code=NOT_FOUND, error_message=said) for pointer in pointers]
        if answer.status != 200:
            raise _refusal(place, answer.status, answer.headers, answer.head_of_body(16_384), now=clock.now())
        if media_type(answer.headers) not in (LFS_JSON, "application/json"):
            raise UpstreamInvalid(
                f"{base.netloc} answered the LFS batch with something else",
                why=f"Content-Type {printable(media_type(answer.headers)[:80]) or 'missing'}, expected {LFS_JSON}",
            )
        body, date = answer.body(MAX_ANSWER_BYTES), http_date(answer.headers.get("date", ""))
    skew = asked_at - date if date is not None and abs(asked_at - date) > SKEW_SECONDS else 0.0
    reader = BatchReader(place, base, asked_at=asked_at, skew=skew)
    return reader.read(body, pointers)


def _refusal(place: Place, status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> MirrorSyncError:
    host, said = place.url.netloc, _message(body)
    if status == 509 or (status in (403, 429, 507) and _BUDGET.search(said)):
        return UpstreamUnavailable(
            f"the LFS budget of this repository at {host} is used up",
            why=f"HTTP {status}. {said}".rstrip(),
            remedy="its owner can raise the budget; it is asked again later",
            code="MS-L509",
        )
    if status == 501:
        return UpstreamUnavailable(f"{host} offers no LFS here", why=f"HTTP 501. {said}".rstrip(), code="MS-L501")
    error = failure(status, headers, body, host=host, what="the LFS batch", now=now, credential=place.has_credential())
    if isinstance(error, UpstreamRefused):
        error.code = "MS-L401"
    return error


def _message(body: bytes) -> str:
    """Return the ``message`` of an LFS error document, cleaned; empty when there is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    said = document.get("message") if isinstance(document, dict) else None
    return clean(said) if isinstance(said, str) else ""


class BatchReader:
    """Reads one batch answer against what was asked."""

    def __init__(self, place: Place, base: UpstreamUrl, *, asked_at: float, skew: float) -> None:
        self._place = place
        self._base = base
        self._asked_at = asked_at
        self._skew = skew

    def read(self, body: bytes, pointers: Sequence[Pointer]) -> list[LfsAnswer]:
        """Return an answer per pointer; raises :class:`UpstreamInvalid` when the whole document cannot be used."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise UpstreamInvalid("upstream's LFS batch answer is not JSON", why=clean(str(error))) from error
        objects = document.get("objects") if isinstance(document, dict) else None
        if not isinstance(objects, list):
            raise UpstreamInvalid("upstream's LFS batch answer lists no objects")
        if (document.get("transfer") or "basic") != "basic":
            raise UpstreamInvalid(
                "upstream chose an LFS transfer that was not offered", why=clean(str(document.get("transfer")))
            )
        if (document.get("hash_algo") or "sha256") != "sha256":
            raise UpstreamInvalid(
                "upstream names LFS objects by another hash than SHA-256", why=clean(str(document.get("hash_algo")))
            )
        found: dict[object, dict[str, Any]] = {}
        for item in objects:
            if isinstance(item, dict) and isinstance(item.get("oid"), str):
                found.setdefault(item["oid"], item)
        return [self._one(pointer, found.get(LfsOid(pointer.oid))) for pointer in pointers]

    def _one(self, pointer: Pointer, item: dict[str, Any] | None) -> LfsAnswer:
        if item is None:
            return LfsAnswer(pointer, error_message="the server's answer leaves this object out")
        error = item.get("error")
        if error:
            return _object_error(pointer, error)
        size = item.get("size")
        if size is not None and (type(size) is not int or size != pointer.size):
            return _unusable(
                pointer, f"the server says it has {clean(str(size))} bytes, its pointer says {pointer.size}"
            )
        actions = item.get("actions") or item.get("_links")
        action = actions.get("download") if isinstance(actions, dict) else None
        if action is None:
            return LfsAnswer(pointer, error_message="the server names no way to download this object")
        if not isinstance(action, dict) or not isinstance(action.get("href"), str):
            return _unusable(pointer, "the server's download action has no href")
        try:
            target = parse_target(action["href"])
        except AddressRefused as error_:
            return _unusable(pointer, str(error_))
        header = safe_header(action.get("header"))
        own = parse_target(str(self._base))
        bare = not any(name.lower() == "authorization" for name in header)
        if bare and target.origin == own.origin and item.get("authenticated") is not True:
            header |= self._place.authorization(self._base)
        return LfsAnswer(pointer, LfsAction(action["href"], header, self._expiry(action)))

    def _expiry(self, action: dict[str, Any]) -> float | None:
        seconds, moment = action.get("expires_in"), action.get("expires_at")
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds:
            return self._asked_at + float(max(0, min(seconds, MOST_LIFE)))  # a number of any length may come
        if isinstance(moment, str) and (at := rfc3339(moment)) is not None:
            return at + self._skew
        return None


def _object_error(pointer: Pointer, error: object) -> LfsAnswer:
    code = error.get("code") if isinstance(error, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    usable = type(code) is int and 400 <= code < 600
    return LfsAnswer(
        pointer,
        error_code=code if type(code) is int and usable else UNUSABLE,
        error_message=clean(str(said)) if said else "the server gave no reason",
    )


def _unusable(pointer: Pointer, why: str) -> LfsAnswer:
    return LfsAnswer(pointer, error_code=UNUSABLE, error_message=why)


def safe_header(raw: object) -> dict[str, str]:
    """Return an action's headers as they are, less those that are no header or would steer the connection."""
    if not isinstance(raw, dict):
        return {}
    out: dict[str, str] = {}
    for name, value in raw.items():
        if not isinstance(name, str) or not isinstance(value, str) or not _TOKEN.match(name):
            continue
        if name.lower() in _DANGEROUS or any(char < " " or char == "\x7f" or ord(char) > 0xFF for char in value):
            continue
        out[name] = value
    return out
