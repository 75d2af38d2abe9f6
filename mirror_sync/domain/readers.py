"""Who may read a mirror: its visibility, clone tokens, and the networks that are served.

Everything here decides on paper; nothing asks anybody.
"""

from __future__ import annotations

import fnmatch
import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Mirror, Visibility

TokenId = NewType("TokenId", int)

TOKEN_PREFIX = "msy_"  # noqa: S105 - what tokens begin with, not one
"""Begins every clone token, so that one in a wrong place is recognised: it is never sent to an upstream."""

CLOSED_CODE = "MS-V403"
"""What is told of a public mirror that upstream does not show to everybody."""

TOKEN_BYTES = 32
MOST_GLOBS = 100

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class CloneToken:
    """What is kept of a clone token: never the token, only its digest.  Times are Unix seconds."""

    id: TokenId
    globs: tuple[str, ...]
    """Names of mirrors that it opens; ``*`` crosses slashes."""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    note: str = ""

    def is_good(self, now: float) -> bool:
        """Tell whether the token opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def covers(self, name: MirrorName) -> bool:
        """Tell whether the token is for this mirror."""
        return any(matches(glob, name) for glob in self.globs)


def token_digest(token: str) -> str:
    """Return what a token is kept and found by.

    One round of SHA-256 is right here: a token is 256 random bits, so there is nothing to
    guess that slowness could protect, and every request of a client pays for it.  A
    digest is looked up by an index, which tells by its time nothing of other tokens: to
    come near to a stored digest one would have to find its beginning, which is as hard as
    finding a token.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def matches(glob: str, name: str) -> bool:
    """Tell whether a mirror's name fits a glob: ``*`` is any text, ``?`` one character, all else itself."""
    return fnmatch.fnmatchcase(name, glob.replace("[", "[[]"))


@dataclass(frozen=True, slots=True)
class Visibilities:
    """What the configuration says of visibility, from the most general to the most particular."""

    general: Visibility = Visibility.PUBLIC
    classes: Mapping[str, Visibility] = field(default_factory=dict)
    """Of every class there is.  What a class said that is configured no more is not known: nobody reads its mirrors."""
    declared: Mapping[MirrorName, Visibility] = field(default_factory=dict)

    def of(self, mirror: Mirror) -> Visibility:
        """Return the visibility that holds: declared in the configuration, else the mirror's own, its class's, the general one."""
        own = self.declared.get(mirror.name) or mirror.visibility
        if own or not mirror.class_name:
            return own or self.general
        return self.classes.get(mirror.class_name, Visibility.NONE)

    def closes(self, mirror: Mirror) -> bool:
        """Tell whether nobody may read a public mirror because upstream does not show it to everybody."""
        return self.of(mirror) is Visibility.PUBLIC and mirror.shown_upstream is False


class Verdict(StrEnum):
    """What becomes of somebody's wish to read a mirror."""

    ADMIT = "admit"
    ASK = "ask"
    """Credentials may help."""
    CHECK = "check"
    """Upstream decides, by the credentials that were given."""
    HIDE = "hide"
    """As if there were no such mirror."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Somebody as far as clone tokens tell: what they may be told of without asking any upstream."""

    rules: Visibilities = field(default_factory=Visibilities)
    globs: tuple[str, ...] = ()
    """Those of the good token that was given; empty when none was."""

    def verdict(self, mirror: Mirror, *, credentials: bool) -> Verdict:
        """Return what becomes of a wish to read ``mirror``; ``credentials`` tells whether any were given.

        Upstream's word is not asked for where a clone token alone was given.
        """
        word = self.rules.of(mirror)
        if word is Visibility.OPEN:
            return Verdict.ADMIT
        if word is Visibility.PUBLIC:
            return Verdict.HIDE if self.rules.closes(mirror) else Verdict.ADMIT
        if word is Visibility.TOKEN:
            if any(matches(glob, mirror.name) for glob in self.globs):
                return Verdict.ADMIT
            # a good token that is for other mirrors: another one may be for this
            return Verdict.HIDE if self.globs else Verdict.ASK
        if word is Visibility.UPSTREAM:
            return Verdict.CHECK if credentials and not self.globs else Verdict.ASK
        return Verdict.HIDE

    def may_see(self, mirror: Mirror) -> bool:
        """Tell whether the mirror may be named to this somebody."""
        return self.verdict(mirror, credentials=False) is Verdict.ADMIT


@dataclass(frozen=True, slots=True)
class Networks:
    """Which clients are served at all, by their addresses."""

    allow: tuple[Network, ...] = ()
    """Empty: every address."""
    deny: tuple[Network, ...] = ()

    def admit(self, address: str) -> bool:
        """Tell whether a client is served.  One without a readable address is not, where any list is given."""
        if not self.allow and not self.deny:
            return True
        found = read_address(address)
        if found is None or _within(found, self.deny):
            return False
        return not self.allow or _within(found, self.allow)


def read_address(text: str) -> Address | None:
    """Return the address in a client's address as servers and proxies write it, perhaps with a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
