"""The one gate that every connection passes: is this URL, and is this address, allowed?

A name is resolved here and nowhere else; the connection is made to the address that
was checked, so an answer that changes between check and use changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from mirror_sync.domain.names import DEFAULT_PORTS, printable
from mirror_sync.errors import AddressRefused, UpstreamUnavailable
from mirror_sync.ports import Clock
from mirror_sync.upstream.access import Access

KEEP_SECONDS = 60.0
MAX_KEPT = 4096
MAX_URL = 16_384

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], list[str]]
"""Returns every address of a name; raises :class:`OSError` when there is none."""

_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",  # this network, link-local, multicast
        "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32",  # metadata services outside link-local
        "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128",
    )
)  # fmt: skip
"""Never connected to, whatever the rule says: no git host lives there, cloud metadata does."""

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
        "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
)  # fmt: skip
"""Not public (IANA special-purpose registries); 2001::/23 holds Teredo and 2002::/16 is 6to4, which hide an IPv4 one."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def refusal(text: str, *, allow_private: bool) -> str | None:
    """Return why this address may not be connected to, or ``None`` when it may."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "it is no IP address"
    if isinstance(address, ipaddress.IPv6Address):
        if "%" in text:
            return "it is bound to one link"
        if address in _NAT64:
            # An IPv6-only network reaches all of IPv4 this way; the address inside decides.
            return refusal(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)), allow_private=False)
        if address.ipv4_mapped is not None:
            return "it is an IPv4 address in disguise"
    if any(address in network for network in _NEVER if network.version == address.version):
        return "it is a link-local, metadata, multicast or unspecified address"
    if allow_private:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return "it is not a public address"
    if any(address in network for network in _PRIVATE if network.version == address.version):
        return "it is a private, loopback or special-purpose address"
    return None


def system_lookup(host: str, port: int) -> list[str]:
    """Return every address the system's resolver gives for ``host``, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class Resolver:
    """Names to checked addresses, remembered for up to a minute."""

    def __init__(self, *, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._clock = clock
        self._lookup = lookup
        self._kept: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        self._guard = threading.Lock()

    def addresses(self, host: str, port: int, *, allow_private: bool) -> tuple[str, ...]:
        """Return the addresses to connect to, every one of them allowed.

        Raises :class:`AddressRefused` when a single answer is not, and
        :class:`UpstreamUnavailable` when the name does not resolve.  Only allowed
        answers are remembered.
        """
        now = self._clock.monotonic()
        with self._guard:
            kept = self._kept.get((host, port))
        fresh = kept is not None and 0 <= now - kept[0] < KEEP_SECONDS
        found = kept[1] if kept is not None and fresh else self._ask(host, port)
        for address in found:
            why = refusal(address, allow_private=allow_private)
            if why is not None:
                raise AddressRefused(
                    f"{printable(host)} resolves to {address}, which is not allowed",
                    why=why,
                    remedy=f'if this host is yours: [upstream."{printable(host)}"] allow_private = true',
                )
        if not fresh:
            with self._guard:
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
                self._kept[host, port] = (now, found)
        return found

    def _ask(self, host: str, port: int) -> tuple[str, ...]:
        try:
            found = tuple(self._lookup(host, port))
        except (OSError, UnicodeError) as error:
            raise UpstreamUnavailable(
                f"{printable(host)} does not resolve", why=printable(str(error)), code="MS-U530"
            ) from error
        if not found:
            raise UpstreamUnavailable(f"{printable(host)} does not resolve", why="no address", code="MS-U530")
        return found


@dataclass(frozen=True, slots=True)
class Target:
    """A checked absolute URL, verbatim, with the parts that decide where it goes."""

    url: str
    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """``host`` or ``host:port`` when the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if DEFAULT_PORTS[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """What a credential belongs to."""
        return (self.scheme, self.host, self.port)


def parse_target(url: str) -> Target:
    """Return the parts of an absolute http(s) URL, whose text stays as it is.

    Raises :class:`AddressRefused` for every other scheme, user information, blanks,
    control and non-ASCII characters.  The error never holds the query, which may be
    a signature.
    """
    shown = printable(url.partition("?")[0][:200])
    if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char == "\x7f" for char in url) or "\\" in url:
        raise AddressRefused(f"{shown!r} is not a URL that can be asked", why="blank, control or non-ASCII character")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise AddressRefused(f"{shown!r} is not a URL", why=str(error)) from error
    if parts.scheme not in DEFAULT_PORTS or not host or port == 0:
        raise AddressRefused(f"{shown!r} is not an https URL", why="upstreams are asked over https, nothing else")
    if "@" in parts.netloc:
        raise AddressRefused("a URL with a user name or password is never asked")
    if "%" in host:
        raise AddressRefused(f"{shown!r} names a host that cannot be", why="a host name has no percent sign")
    return Target(url, parts.scheme, host, port or DEFAULT_PORTS[parts.scheme])


def check_target(url: str, access: Access) -> Target:
    """Return the parts of ``url`` when the rule allows its scheme and, where it is one, its literal address.

    A name's addresses are checked when it is connected to; behind a proxy, which
    resolves names itself, the literal check is all there is.  Raises :class:`AddressRefused`.
    """
    target = parse_target(url)
    if target.scheme == "http" and not access.allow_http:
        raise AddressRefused(
            f"{target.netloc} is asked for over plain http",
            why="whoever sits between could read and change everything",
            remedy=f'use https, or if the way is yours: [upstream."{target.netloc}"] allow_http = true',
        )
    if _is_literal(target.host):
        why = refusal(target.host, allow_private=access.allow_private)
        if why is not None:
            raise AddressRefused(
                f"{target.host} is not allowed",
                why=why,
                remedy=f'if this host is yours: [upstream."{target.netloc}"] allow_private = true',
            )
    return target


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
