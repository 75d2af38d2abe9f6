"""The journal of an incomplete: which of its bytes are durable, and who sent them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mirror_sync.domain.parts import Part, clip
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store.durable import replace_file

FORMAT = 2
READABLE = frozenset({1, FORMAT})
"""Format 1 says nothing of who sent what."""

Origins = Mapping[str, Sequence[Part]]
"""Merged parts by the source that sent them."""


def encode(pointer: Pointer, parts: Sequence[Part], origins: Origins) -> bytes:
    """Return the journal's bytes: one JSON object, its own SHA-256 last."""
    body = {
        "format": FORMAT,
        "oid": pointer.oid,
        "size": pointer.size,
        "parts": [list(part) for part in parts],
        "from": {source: [list(part) for part in sent] for source, sent in origins.items() if sent},
    }
    return _compact({**body, "sum": _sum(body)})


def decode(data: bytes, pointer: Pointer) -> tuple[list[Part], dict[str, list[Part]]]:
    """Return the durable parts of this very pointer, all and by source; none when the journal is damaged or another's."""
    try:
        body = json.loads(data)
        told = body.pop("sum")
        if told != _sum(body) or body["format"] not in READABLE:
            return [], {}
        if (body["oid"], body["size"]) != (pointer.oid, pointer.size):
            return [], {}
        parts = clip([(start, end) for start, end in body["parts"]], pointer.size)
        origins = {
            str(source): clip([(start, end) for start, end in sent], pointer.size)
            for source, sent in body.get("from", {}).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [], {}
    return parts, origins


def load(path: Path, pointer: Pointer) -> tuple[list[Part], dict[str, list[Part]]]:
    """Return what the journal at ``path`` tells of; nothing when there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], {}
    return decode(data, pointer)


def save(path: Path, pointer: Pointer, parts: Sequence[Part], origins: Origins) -> None:
    """Make the journal say this, durably; the bytes themselves were synced before."""
    replace_file(path, encode(pointer, parts, origins))


def _compact(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), sort_keys=False).encode() + b"\n"


def _sum(body: dict[str, object]) -> str:
    return hashlib.sha256(_compact(body)).hexdigest()
