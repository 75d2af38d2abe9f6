"""Which mirror and which of its services a request path names.

User text is only ever compared with names in the database; no part of it is joined to a
path on disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from mirror_sync.domain.names import RESERVED_FIRST_SEGMENTS, MirrorName, parse_mirror_name
from mirror_sync.errors import UsageError

MAX_TARGET_BYTES = 4096


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


def decoded_path(raw_target: str) -> str | None:
    """Return the decoded path of a request target, or ``None`` when it has anything a name cannot have.

    Works on the target as it came over the wire, because once decoded an escaped
    slash cannot be told from a real one.
    """
    path = raw_target.partition("?")[0]
    if "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
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
