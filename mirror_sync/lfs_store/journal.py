"""The journal of an incomplete: which of its bytes are durable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mirror_sync.domain.parts import Part, clip
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store.durable import replace_file

FORMAT = 1


def encode(pointer: Pointer, parts: Sequence[Part]) -> bytes:
    """Return the journal's bytes: one JSON object, its own SHA-256 last."""
    body = {"format": FORMAT, "oid": pointer.oid, "size": pointer.size, "parts": [list(part) for part in parts]}
    return _compact({**body, "sum": _sum(body)})


def decode(data: bytes, pointer: Pointer) -> list[Part]:
    """Return the durable parts of this very pointer; none when the journal is damaged or another's."""
    try:
        body = json.loads(data)
        told = body.pop("sum")
        if told != _sum(body) or body["format"] != FORMAT:
            return []
        if (body["oid"], body["size"]) != (pointer.oid, pointer.size):
            return []
        return clip([(start, end) for start, end in body["parts"]], pointer.size)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def load(path: Path, pointer: Pointer) -> list[Part]:
    """Return the durable parts the journal at ``path`` tells of; none when there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return decode(data, pointer)


def save(path: Path, pointer: Pointer, parts: Sequence[Part]) -> None:
    """Make the journal say ``parts``, durably; the bytes themselves were synced before."""
    replace_file(path, encode(pointer, parts))


def _compact(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), sort_keys=False).encode() + b"\n"


def _sum(body: dict[str, object]) -> str:
    return hashlib.sha256(_compact(body)).hexdigest()
