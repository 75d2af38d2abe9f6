"""Names of mirrors, refs and objects, and the URLs they come from."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import NewType
from urllib.parse import quote, unquote, urlsplit

from mirror_sync.errors import AddressRefused, UsageError

MirrorName = NewType("MirrorName", str)
"""``host/path`` without ``.git``; a port that is not the scheme's own is part of the host.

Where another mirror is the upstream, the path begins with the host it mirrors, port and all.
"""

RefName = NewType("RefName", str)
"""A full ref name. Bytes that are not UTF-8 are kept by ``surrogateescape``."""

GitOid = NewType("GitOid", str)
"""A Git object id: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits."""

LfsOid = NewType("LfsOid", str)
"""The SHA-256 of an LFS object: 64 lower-case hex digits."""

RESERVED_FIRST_SEGMENTS = frozenset(
    {
        "api", "hooks", "hf", "metrics", "healthz", "readyz", "static", "mirrors", "use", "errors", "s",
        "admin", "login", "logout", "status", "favicon.ico", "robots.txt", "help", "lfs", "bundles",
        "mirrorz.json", "tunasync.json", "manifest.js.gz", "datasets", "spaces", "models",
    }
)  # fmt: skip
"""First path segments that belong to the product's own pages; a mirror's host never equals one."""

MAX_NAME_BYTES = 1024
MAX_SEGMENT_BYTES = 200
DEFAULT_PORTS = {"https": 443, "http": 80}

_GIT_OID = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_LFS_OID = re.compile(r"[0-9a-f]{64}\Z")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?\Z")
_SSH = re.compile(r"(?:git\+)?(?:ssh|git)://(?:[\w.-]+@)?(?P<host>[\w.-]+)(?::\d+)?/(?P<path>\S+)\Z")
_SCP = re.compile(r"[\w.-]+@(?P<host>[\w.-]+):/?(?P<path>\S+)\Z")
_BARE = re.compile(r"(?P<host>[\w-][\w.-]*\.[\w.-]+)/(?P<path>\S+)\Z")
_USER = re.compile(r"[^/@\s]*:[^/@\s]*@")
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?):[0-9]{1,5}\Z")
"""A host with a port, as a segment of what is mirrored from a mirror."""

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\:?*\[\]<>|\"]")


def ref_bytes(name: str) -> bytes:
    """Return the bytes Git knows this ref name by."""
    return name.encode("utf-8", "surrogateescape")


def ref_from_bytes(raw: bytes) -> RefName:
    """Return the ref name for the bytes Git gave; the inverse of :func:`ref_bytes`."""
    return RefName(raw.decode("utf-8", "surrogateescape"))


def printable(text: str) -> str:
    """Return ``text`` fit for a page, a log or a database: every undecodable, control or bidi character shown as an escape."""
    out: list[str] = []
    for char in text:
        point = ord(char)
        if 0xDC80 <= point <= 0xDCFF:
            out.append(f"\\x{point - 0xDC00:02x}")
        elif 0xD800 <= point <= 0xDFFF:
            out.append(f"\\u{point:04x}")
        elif point < 0x20 or 0x7F <= point < 0xA0:
            out.append(f"\\x{point:02x}")
        elif point in _BIDI:
            out.append(f"\\u{point:04x}")
        else:
            out.append(char)
    return "".join(out)


_BIDI = frozenset([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029, 0xFEFF])


def is_git_oid(text: str) -> bool:
    """Tell whether ``text`` is a Git object id."""
    return _GIT_OID.match(text) is not None


def is_lfs_oid(text: str) -> bool:
    """Tell whether ``text`` is an LFS object's oid."""
    return _LFS_OID.match(text) is not None


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """A checked upstream URL: scheme, host and path, never credentials, query or fragment."""

    scheme: str
    host: str
    port: int
    path: str
    """Decoded, begins with ``/``, no trailing slash, ``.git`` kept as the operator typed it."""

    @property
    def netloc(self) -> str:
        """``host`` or ``host:port`` when the port is not the scheme's own; IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if DEFAULT_PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """``scheme://host[:port]``: credentials never leave it."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def name(self) -> MirrorName:
        """The mirror's name: ``netloc/path`` without ``.git``."""
        path = self.path.removesuffix(".git")
        return MirrorName(f"{self.netloc}{path}")

    def __str__(self) -> str:
        return f"{self.origin}{quote(self.path, safe='/:~@!$&()+,;=-._')}"

    def with_path(self, path: str) -> UpstreamUrl:
        """Return the same origin with another decoded path."""
        return UpstreamUrl(self.scheme, self.host, self.port, path)


def parse_upstream_url(text: str) -> UpstreamUrl:
    """Return the checked URL of a repository that may be mirrored.

    What :func:`parse_repository_url` raises, and the same for hosts and paths that cannot
    be part of a mirror's name.
    """
    url = parse_repository_url(text)
    check_path(url.path.removesuffix(".git"))
    if url.host in RESERVED_FIRST_SEGMENTS:
        raise AddressRefused(
            f"a host named {url.host!r} cannot be mirrored: the first path segment is the product's own"
        )
    return url


def parse_repository_url(text: str) -> UpstreamUrl:
    """Return the checked URL.

    This is the one parser of repository URLs.  Only ``https`` and ``http`` pass here;
    whether plain http or a private address is allowed is policy, decided later.
    Raises :class:`AddressRefused` for what is never allowed (other schemes, user
    information, control bytes, a leading dash) and :class:`UsageError` for what is
    no repository URL at all.
    """
    if not text:
        raise UsageError("the URL is empty", remedy="give the https:// address of the repository")
    if len(text) > 2048:
        raise UsageError("an upstream URL has at most 2,048 characters")
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in text) or "\\" in text:
        raise AddressRefused(f"{printable(text)!r} has a blank, a control character or a backslash")
    if text.startswith("-"):
        raise AddressRefused("an upstream URL does not begin with a dash")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise UsageError(f"{printable(text)!r} is not a URL", why=str(error)) from error
    if parts.scheme not in DEFAULT_PORTS:
        guess = _https_guess(text)
        raise AddressRefused(
            f"{printable(_USER.sub('***@', text))!r} is not an https URL",
            why=f"{printable(parts.scheme)}:// is not spoken here"
            if "://" in text
            else "it does not begin with https://",
            remedy=f"did you mean: {printable(guess)}" if guess else "give the https:// address of the repository",
        )
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise AddressRefused(
            "an upstream URL never holds a user name or password",
            remedy='put the token in a file and name it: [upstream."HOST"] token_file = "..."',
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise UsageError(f"{printable(text)!r} has a query or fragment; give the repository's address alone")
    path = _decode_path(parts.path, text)
    if not path or {"", ".", ".."} & set(path.split("/")[1:]):
        raise UsageError("a repository URL has a path, such as /owner/name")
    if any(char < " " or char in "\x7f\\" for char in path):
        raise AddressRefused(f"{printable(text)!r} hides a control character or a backslash in its path")
    host = _check_host(host, text)
    return UpstreamUrl(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


def _https_guess(text: str) -> str:
    """Return the https URL that an address in another form may mean, or an empty string."""
    found = _SSH.match(text) or _SCP.match(text) or _BARE.match(text)
    return f"https://{found['host']}/{found['path']}" if found and "@" not in found["path"] else ""


def _decode_path(raw: str, text: str) -> str:
    if "%2f" in raw.lower() or "%5c" in raw.lower():
        raise UsageError(f"{printable(text)!r} hides a slash in its path")
    try:
        return unquote(raw, errors="strict").rstrip("/")
    except UnicodeDecodeError as error:
        raise UsageError(f"{printable(text)!r} has a path that is not UTF-8") from error


def _check_host(host: str, text: str) -> str:
    if not host:
        raise UsageError(f"{printable(text)!r} names no host")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise UsageError(f"{printable(host)!r} is no IPv6 address") from error
        return host
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise UsageError(f"{printable(host)!r} is no host name") from error
    host = host.rstrip(".")
    if not _HOST.match(host) or len(host) > 253:
        raise UsageError(f"{printable(host)!r} is no host name")
    return host


def check_path(path: str) -> None:
    """Raise unless ``path`` (``/segment/...``, without ``.git``) may be part of a mirror's name."""
    segments = path.split("/")
    if len(segments) < 2 or segments[0] != "":
        raise UsageError("a repository URL has a path, such as /owner/name")
    for segment in segments[1:]:
        if segment in ("", ".", "..") or segment.startswith("-") or segment.endswith((".lock", ".git")):
            raise UsageError(f"{printable(segment)!r} cannot be a segment of a repository path")
        if _NETLOC.match(segment) is not None:
            continue
        if _UNSAFE.search(segment) or any(0xD800 <= ord(char) <= 0xDFFF for char in segment):
            raise UsageError(f"{printable(segment)!r} has a character that a repository path cannot have")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise UsageError(f"a path segment has at most {MAX_SEGMENT_BYTES} bytes")
    if len(path.encode()) > MAX_NAME_BYTES:
        raise UsageError(f"a repository path has at most {MAX_NAME_BYTES} bytes")


def parse_mirror_name(text: str) -> MirrorName:
    """Return the mirror name in ``text``: a name, a name with ``.git``, or an upstream URL.

    Raises :class:`UsageError` when it is none of these.
    """
    if "://" in text:
        return parse_upstream_url(text).name
    host, slash, path = text.strip("/").removesuffix(".git").partition("/")
    if not slash:
        raise UsageError(
            f"{printable(text)!r} is not a mirror name", remedy="write host/path, such as github.com/acme/model"
        )
    check_path("/" + path)
    return MirrorName(f"{host.lower()}/{path}")


MAX_REF_COMPONENT_BYTES = 250
"""A longer component cannot be a file with ``.lock`` behind it in a client's clone."""

MAX_REF_BYTES = 4000
OWN_REFS = "refs/mirror-sync/"

_PLAIN_REF = re.compile(r"refs/(?!mirror-sync/)[\w-]+(?:/[\w+=-]+(?:\.[\w+=-]+)*)+\Z", re.ASCII)
_FORBIDDEN_IN_REF = re.compile(rb"[\x00-\x20\x7f~^:?*\[\\]")


def refname_fault(name: str) -> str | None:
    """Return why this ref name is refused, or ``None`` when it is sound.

    Follows ``git check-ref-format`` and adds what no client could check out.
    """
    if len(name) <= MAX_REF_COMPONENT_BYTES and _PLAIN_REF.match(name) is not None and ".lock" not in name:
        return None  # nearly every name there is; a list may have 100,000 of them
    return _fault_in(ref_bytes(name))


def _fault_in(raw: bytes) -> str | None:
    fault: str | None = None
    if not raw.startswith(b"refs/") or raw.count(b"/") < 2:
        fault = "does not begin with refs/ and a namespace"
    elif raw.startswith(OWN_REFS.encode()):
        fault = f"{OWN_REFS} belongs to the mirror"
    elif len(raw) > MAX_REF_BYTES:
        fault = f"longer than {MAX_REF_BYTES} bytes"
    elif _FORBIDDEN_IN_REF.search(raw) is not None:
        fault = "has a character that Git forbids"
    elif b".." in raw or b"@{" in raw or b"//" in raw or raw.endswith((b"/", b".")):
        fault = "has a sequence that Git forbids"
    else:
        for component in raw.split(b"/"):
            if component.startswith(b".") or component.endswith(b".lock"):
                fault = "has a component that Git forbids"
            elif len(component) > MAX_REF_COMPONENT_BYTES:
                fault = f"has a component longer than {MAX_REF_COMPONENT_BYTES} bytes"
    return fault
