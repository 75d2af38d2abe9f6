"""Which mirror and which of its services a request path names.

User text is only ever compared with names in the database; no part of it is joined to a
path on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from mirror_sync.domain.names import RESERVED_FIRST_SEGMENTS, MirrorName, parse_mirror_name
from mirror_sync.errors import UsageError

MAX_TARGET_BYTES = 4096

MOST_READINGS = 8
"""Ways of reading one path that are tried: a directory may be called like a service."""


class Service(StrEnum):
    """What is asked of a mirror."""

    PAGE = "page"
    INFO_REFS = "info/refs"
    UPLOAD_PACK = "git-upload-pack"
    RECEIVE_PACK = "git-receive-pack"
    DUMB = "dumb"
    LFS_BATCH = "lfs-batch"
    LFS_OBJECT = "lfs-object"
    LFS_LOCKS = "lfs-locks"
    LFS_LOCKS_VERIFY = "lfs-locks-verify"
    LFS_UNLOCK = "lfs-unlock"
    LFS_OTHER = "lfs-other"


@dataclass(frozen=True, slots=True)
class Target:
    """A mirror's name as the client wrote it, the service, and what the service is asked about."""

    name: MirrorName
    service: Service
    rest: str = ""


class FileService(StrEnum):
    """What is asked of the files of a mirror."""

    RESOLVE = "resolve"
    CHECKSUMS = "checksums"


@dataclass(frozen=True, slots=True)
class FileTarget:
    """A mirror's name, the service, and the words behind it: a revision, which may take several, and a path."""

    name: MirrorName
    service: FileService
    words: tuple[bytes, ...]


_SERVICES: tuple[tuple[re.Pattern[str], Service], ...] = (
    (re.compile(r"(?P<name>/.+)/info/lfs/objects/batch\Z"), Service.LFS_BATCH),
    (re.compile(r"(?P<name>/.+)/info/lfs/objects/(?P<rest>[^/]+)\Z"), Service.LFS_OBJECT),
    (re.compile(r"(?P<name>/.+)/info/lfs/locks/verify\Z"), Service.LFS_LOCKS_VERIFY),
    (re.compile(r"(?P<name>/.+)/info/lfs/locks/[^/]+/unlock\Z"), Service.LFS_UNLOCK),
    (re.compile(r"(?P<name>/.+)/info/lfs/locks\Z"), Service.LFS_LOCKS),
    (re.compile(r"(?P<name>/.+)/info/lfs(?:/.*)?\Z"), Service.LFS_OTHER),
    (re.compile(r"(?P<name>/.+)/info/refs\Z"), Service.INFO_REFS),
    (re.compile(r"(?P<name>/.+)/git-upload-pack\Z"), Service.UPLOAD_PACK),
    (re.compile(r"(?P<name>/.+)/git-receive-pack\Z"), Service.RECEIVE_PACK),
    (re.compile(r"(?P<name>/.+\.git)/(?:HEAD|objects/.+|refs/.+|packed-refs)\Z"), Service.DUMB),
    (re.compile(r"(?P<name>/.+?)/?\Z"), Service.PAGE),
)


def wire_path(raw_target: str) -> str:
    """Return the path of a request target as it came over the wire."""
    path = raw_target.partition("?")[0]
    if "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path


def words_of(raw: str) -> tuple[bytes, ...]:
    """Return the decoded segments of a part of a path; whatever Git takes for a name may be in them."""
    return tuple(unquote_to_bytes(segment) for segment in raw.strip("/").split("/")) if raw.strip("/") else ()


def decoded_path(raw_target: str) -> str | None:
    """Return the decoded path of a request target, or ``None`` when it has anything a name cannot have.

    Works on the target as it came over the wire, because once decoded an escaped
    slash cannot be told from a real one.
    """
    path = wire_path(raw_target)
    if not path.startswith("/") or len(path) > MAX_TARGET_BYTES:
        return None
    segments: list[str] = []
    for index, raw in enumerate(path.split("/")[1:]):
        try:
            segment = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            return None
        last = index == path.count("/") - 1
        if (segment == "" and not last) or segment in (".", ".."):
            return None
        if any(char in "/\\" or ord(char) < 0x20 or ord(char) == 0x7F for char in segment):
            return None
        segments.append(segment)
    return "/" + "/".join(segments)


def parse_target(raw_target: str) -> Target | None:
    """Return what a request target names, or ``None`` when it can be no mirror's.

    The name is the longest that leaves a known service behind it.
    """
    path = decoded_path(raw_target)
    if path is None or path.strip("/").partition("/")[0].lower() in RESERVED_FIRST_SEGMENTS:
        return None
    for pattern, service in _SERVICES:
        match = pattern.match(path)
        if match is None:
            continue
        try:
            name = parse_mirror_name(match["name"].lstrip("/"))
        except UsageError:
            return None
        return Target(name, service, match.groupdict().get("rest") or "")
    return None


def file_targets(raw_target: str) -> Iterator[FileTarget]:
    """Yield what a request target may ask of a mirror's files, the shortest name first."""
    path = wire_path(raw_target)
    segments = path.split("/")
    if not path.startswith("/") or len(path) > MAX_TARGET_BYTES or segments[1].lower() in RESERVED_FIRST_SEGMENTS:
        return
    places = [at for at, word in enumerate(segments) if at > 2 and word in set(FileService)]
    for at in places[:MOST_READINGS]:
        name = decoded_path("/".join(segments[:at]))
        if name is None:
            continue
        try:
            found = parse_mirror_name(name.lstrip("/"))
        except UsageError:
            continue
        yield FileTarget(found, FileService(segments[at]), words_of("/".join(segments[at + 1 :])))
