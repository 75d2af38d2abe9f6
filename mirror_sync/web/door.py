"""The one door to mirrors: whatever shows or serves one finds it here, and nowhere else.

A route gives the mirror's name; who asks is read from the request.  Credentials come as
Basic (what git and git-lfs send) or Bearer, and are looked at only where they matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from flask import current_app, g, request

from mirror_sync.config import Settings
from mirror_sync.domain.names import MirrorName, printable
from mirror_sync.domain.readers import TOKEN_PREFIX, Audience, CloneToken, Verdict, token_digest
from mirror_sync.domain.runs import Mirror, Visibility
from mirror_sync.errors import MirrorSyncError, NotFound
from mirror_sync.ports import Clock, Credential
from mirror_sync.web.backend import backend
from mirror_sync.web.limits import Patience
from mirror_sync.web.replies import RETRY_SECONDS, Refused, unknown_mirror
from mirror_sync.web.signing import LinkKeys

DOOR = "mirror_sync_door"
MIRROR = "mirror_sync.mirror"
TOKEN = "mirror_sync.token"  # noqa: S105 - where a request's number of a token is noted, for the log

LOGGED = "mirror_sync.logged"

TOO_MANY = "Too many credentials from this address were refused. Please try again in a minute."
CONCEALED = "Credentials are needed here."


class Door:
    """What the door knows beside each request: the rules in force, and who tried too often."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.rules = settings.visibilities()
        self.conceal = settings.access.conceal
        self.networks = settings.access.networks
        self.patience = Patience(clock)
        self.link_keys = LinkKeys(settings.link_keys(), clock)


def _door() -> Door:
    return cast("Door", current_app.extensions[DOOR])


def link_keys() -> LinkKeys:
    """Return the keys that sign links to LFS objects."""
    return _door().link_keys


class Caller:
    """Who asks: an address, and what credentials say.  Nothing is looked up before it is needed."""

    def __init__(self) -> None:
        self.address = request.remote_addr or ""
        self.credential = _credential()

    @cached_property
    def token(self) -> CloneToken | None:
        """The good clone token that was given."""
        given = self._given
        if given is None:
            return None
        app = backend()
        # nobody guesses 256 bits, so a wrong token costs its sender no patience
        found = app.state.token(token_digest(given))
        if found is None or not found.is_good(app.clock.now()):
            return None
        request.environ[TOKEN] = found.id
        return found

    @property
    def _given(self) -> str | None:
        """The clone token among the credentials: the password, or the user name where people write it there."""
        if self.credential is None:
            return None
        for word in (self.credential.password, self.credential.username):
            if word.startswith(TOKEN_PREFIX):
                return word
        return None

    @property
    def gave_token(self) -> bool:
        """Whether something that looks like a clone token was given, good or not."""
        return self._given is not None

    def lets_read(self, mirror: Mirror) -> bool:
        """Ask upstream whether it lets this caller read; raises :class:`Refused` when it cannot be asked."""
        if self.credential is None or self.gave_token:
            return False
        app = backend()
        known = app.upstreams_word.remembered(mirror, self.credential)
        if known is not None:
            return known
        if _door().patience.exhausted(self.address):
            raise Refused(429, TOO_MANY, retry_after=60)
        try:
            answer = app.upstreams_word.lets_read(mirror, self.credential)
        except MirrorSyncError as error:
            app.telemetry.event("reader_not_checked", level="warning", mirror=mirror.name, code=error.code)
            raise Refused(
                503,
                f"{error.code}: upstream cannot be asked at the moment whether you may read this mirror.",
                retry_after=RETRY_SECONDS,
            ) from error
        if not answer:
            _door().patience.failed(self.address)
        return answer


def _credential() -> Credential | None:
    given = request.authorization
    if given is None:
        return None
    if given.type == "basic":
        return Credential(given.username or "", given.password or "")
    if given.type == "bearer" and given.token:
        return Credential("", given.token)
    return None


def caller() -> Caller:
    """Return who asks, once for each request."""
    found: Caller | None = g.get("caller")
    if found is None:
        found = g.caller = Caller()
    return found


def audience() -> Audience:
    """Return what this request may be told of in lists of mirrors, as :attr:`MirrorFilter.audience` takes it."""
    token = caller().token
    if token is not None:
        g.private = True
    return Audience(_door().rules, token.globs if token is not None else ())


def for_everybody() -> bool:
    """Tell whether what this request was let to is for everybody, so that caches between may keep the answer."""
    return not g.get("private", False)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a mirror is not given: credentials may help, or it is as if there were none."""

    ask: bool


def served_mirror(name: MirrorName, *, granted: Callable[[Mirror], bool] = lambda _mirror: False) -> Mirror:
    """Return a mirror whose bytes this request may be given: git, LFS, files.

    Raises :class:`Refused`: 404 for one that is unknown, or that nobody but others may
    know of, 401 where credentials may help, 410 for one being removed.  Paused, stale and
    gone mirrors are served: what is here stays useful.  ``granted`` tells of a mirror
    that some may read whether the request has another proof that it may, such as a
    signed link.
    """
    try:
        mirror = backend().state.mirror(name)
    except NotFound:
        raise _absent(name) from None
    request.environ[MIRROR] = mirror.name
    refusal = _refusal(mirror, granted=granted)
    if refusal is not None:
        raise _asking(mirror) if refusal.ask else _absent(name)
    if mirror.removing_at is not None:
        raise Refused(410, f"{name} is no longer mirrored here.\nIts upstream is {mirror.upstream}")
    return mirror


def shown_mirror(name: MirrorName) -> Mirror:
    """Return a mirror that this request may be told of: pages and API.

    Raises :class:`NotFound`, the same for one that is unknown and one that is not for
    whoever asks.  One being removed is shown as such.
    """
    try:
        mirror = backend().state.mirror(name)
    except NotFound:
        mirror = None
    if mirror is not None:
        request.environ[MIRROR] = mirror.name
        if _refusal(mirror) is None:
            return mirror
    raise NotFound(f"no mirror is named {printable(name)}")


def _refusal(mirror: Mirror, *, granted: Callable[[Mirror], bool] = lambda _mirror: False) -> _Refusal | None:
    """Return why this request may not read a mirror, ``None`` when it may; decided once for each request."""
    decided: dict[int, _Refusal | None] = g.setdefault("decided", {})
    if mirror.id not in decided:
        decided[mirror.id] = _decide(mirror, granted)
    return decided[mirror.id]


def _decide(mirror: Mirror, granted: Callable[[Mirror], bool]) -> _Refusal | None:
    door, who = _door(), caller()
    word = door.rules.of(mirror)
    if word in (Visibility.PUBLIC, Visibility.OPEN, Visibility.NONE):
        seen = Audience(door.rules).may_see(mirror)
        return None if seen else _Refusal(ask=False)
    g.private = True
    if granted(mirror):
        return None
    token = who.token
    found = Audience(door.rules, token.globs if token is not None else ())
    verdict = found.verdict(mirror, credentials=who.credential is not None and not who.gave_token)
    if verdict is Verdict.CHECK:
        verdict = Verdict.ADMIT if who.lets_read(mirror) else Verdict.ASK
    if verdict is Verdict.ADMIT:
        return None
    # a good token that does not open this is told what it would be told of a name that is not here
    return _Refusal(ask=verdict is Verdict.ASK and not (door.conceal and token is not None))


def _absent(name: MirrorName) -> Refused:
    """Return the refusal of a name that is not here, or not for whoever asks."""
    if _door().conceal and caller().token is None:
        return Refused(401, CONCEALED, challenge=True)
    return unknown_mirror(name)


def _asking(mirror: Mirror) -> Refused:
    door = _door()
    if door.conceal:
        return Refused(401, CONCEALED, challenge=True)
    if door.rules.of(mirror) is Visibility.UPSTREAM:
        host = mirror.upstream.partition("://")[2].partition("/")[0]
        reason = f"This mirror is read with the credentials by which {host} lets you read the repository."
    else:
        reason = "This mirror is read with a clone token: give it as the password, with any user name."
    return Refused(401, reason, challenge=True)


def check_network() -> None:
    """Raise :class:`Refused` for a client from a network that is not served."""
    if not _door().networks.admit(request.remote_addr or ""):
        raise Refused(403, "Clients at your address are not served here.")
