"""The journal of an incomplete: which of its bytes are durable, who sent them, and what came twice the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mirror_sync.domain.parts import Part, clip
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store.durable import replace_file

FORMAT = 2
READABLE = frozenset({1, FORMAT})
"""Format 1 says nothing of who sent what."""

Origins = Mapping[str, Sequence[Part]]
"""Merged parts by the source that sent them."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a journal tells of: durable parts, all and by who sent them, and those that came twice the same.

    ``other_size`` when it is of this object, but with another size: then it tells of nothing.
    """

    parts: list[Part] = field(default_factory=list)
    origins: dict[str, list[Part]] = field(default_factory=dict)
    agreed: list[Part] = field(default_factory=list)
    other_size: bool = False


def encode(pointer: Pointer, parts: Sequence[Part], origins: Origins, agreed: Sequence[Part] = ()) -> bytes:
    """Return the journal's bytes: one JSON object, its own SHA-256 last."""
    body = {
        "format": FORMAT,
        "oid": pointer.oid,
        "size": pointer.size,
        "parts": [list(part) for part in parts],
        "from": {source: [list(part) for part in sent] for source, sent in origins.items() if sent},
    }
    if agreed:
        body["agreed"] = [list(part) for part in agreed]
    return _compact({**body, "sum": _sum(body)})


def decode(data: bytes, pointer: Pointer) -> Told:
    """Return what is told of this very pointer; nothing when the journal is damaged or another's."""
    try:
        body = json.loads(data)
        told = body.pop("sum")
        if told != _sum(body) or body["format"] not in READABLE:
            return Told()
        if (body["oid"], body["size"]) != (pointer.oid, pointer.size):
            return Told(other_size=body["oid"] == pointer.oid)
        parts = _parts(body["parts"], pointer)
        origins = {str(source): _parts(sent, pointer) for source, sent in body.get("from", {}).items()}
        return Told(parts, origins, _parts(body.get("agreed", []), pointer))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Told()


def _parts(told: Sequence[Sequence[int]], pointer: Pointer) -> list[Part]:
    return clip([(start, end) for start, end in told], pointer.size)


def load(path: Path, pointer: Pointer) -> Told:
    """Return what the journal at ``path`` tells of; nothing when there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Told()
    return decode(data, pointer)


def save(path: Path, pointer: Pointer, parts: Sequence[Part], origins: Origins, agreed: Sequence[Part] = ()) -> None:
    """Make the journal say this, durably; the bytes themselves were synced before."""
    replace_file(path, encode(pointer, parts, origins, agreed))


def _compact(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":"), sort_keys=False).encode() + b"\n"


def _sum(body: dict[str, object]) -> str:
    return hashlib.sha256(_compact(body)).hexdigest()
