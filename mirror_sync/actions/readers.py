"""Who may read, where somebody has to be asked: upstream about its own readers, the state about clone tokens."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256

from mirror_sync.domain.names import printable
from mirror_sync.domain.readers import MOST_GLOBS, TOKEN_BYTES, TOKEN_PREFIX, CloneToken, token_digest
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import Overloaded, UpstreamGone, UpstreamRefused, UsageError
from mirror_sync.ports import Clock, Credential, StateStore

ASKED_AT_ONCE = 8
"""Questions to upstreams at the same time; whoever comes when all are taken waits, and is then sent away."""

WAITING = 32
"""All that ask or wait, so that questions never take the threads of everybody else."""

WAIT_SECONDS = 10.0
REMEMBERED = 10_000
MOST_CREDENTIAL_CHARACTERS = 4096


class UpstreamsWord:
    """Whether upstream lets somebody read a mirror, by their own credential, remembered for a short time.

    What is remembered is kept in memory alone, under a keyed hash of mirror and
    credential whose key dies with the process.  The same question is asked once however
    many ask it at the same time.
    """

    def __init__(
        self, ask: Callable[[Mirror, Credential], None], *, clock: Clock, yes_seconds: float, no_seconds: float
    ) -> None:
        """Take ``ask``, which returns when upstream shows its refs and raises as :meth:`Upstream.observe` does."""
        self._ask = ask
        self._clock = clock
        self._yes_seconds = yes_seconds
        self._no_seconds = no_seconds
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()
        self._asking: dict[bytes, threading.Event] = {}
        self._places = threading.BoundedSemaphore(ASKED_AT_ONCE)
        self._line = threading.BoundedSemaphore(WAITING)

    def remembered(self, mirror: Mirror, credential: Credential) -> bool | None:
        """Return what upstream said a short time ago; ``None`` when that is not known."""
        return self._remembered(self._name(mirror, credential))

    def lets_read(self, mirror: Mirror, credential: Credential) -> bool:
        """Tell whether upstream shows the mirror's repository to whoever has this credential.

        Raises what asking raises when upstream cannot be asked, and :class:`Overloaded`
        when too many ask at once; nothing is remembered then.
        """
        if not _sendable(credential):
            return False
        name = self._name(mirror, credential)
        known = self._remembered(name)
        if known is not None:
            return known
        if not self._line.acquire(blocking=False):
            raise Overloaded("too many ask upstreams who may read; ask again in a moment", retry_after=WAIT_SECONDS)
        try:
            return self._learnt(name, mirror, credential)
        finally:
            self._line.release()

    def _learnt(self, name: bytes, mirror: Mirror, credential: Credential) -> bool:
        while True:
            with self._lock:
                known = self._look(name)
                if known is not None:
                    return known
                others = self._asking.get(name)
                if others is None:
                    mine = self._asking[name] = threading.Event()
                    break
            if not others.wait(WAIT_SECONDS):
                raise Overloaded(
                    "upstream is slow to say who may read; ask again in a moment", retry_after=WAIT_SECONDS
                )
        try:
            return self._asked(name, mirror, credential)
        finally:
            with self._lock:
                del self._asking[name]
            mine.set()

    def _asked(self, name: bytes, mirror: Mirror, credential: Credential) -> bool:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise Overloaded("too many ask upstreams who may read; ask again in a moment", retry_after=WAIT_SECONDS)
        try:
            self._ask(mirror, credential)
        except (UpstreamGone, UpstreamRefused):
            answer = False
        else:
            answer = True
        finally:
            self._places.release()
        until = self._clock.monotonic() + (self._yes_seconds if answer else self._no_seconds)
        with self._lock:
            self._known[name] = (until, answer)
            self._known.move_to_end(name)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return answer

    def _remembered(self, name: bytes) -> bool | None:
        with self._lock:
            return self._look(name)

    def _look(self, name: bytes) -> bool | None:
        until, answer = self._known.get(name, (0.0, False))
        return answer if self._clock.monotonic() < until else None

    def _name(self, mirror: Mirror, credential: Credential) -> bytes:
        # each part with its length, so that no two questions have one name
        parts = (mirror.upstream, credential.username, credential.password)
        raw = [part.encode("utf-8", "surrogatepass") for part in parts]
        whole = b"".join(len(part).to_bytes(8, "big") + part for part in raw)
        return hmac.digest(self._key, mirror.id.to_bytes(8, "big") + whole, sha256)


def _sendable(credential: Credential) -> bool:
    """Tell whether a credential can be sent to an upstream at all: it fits a header, and is no clone token of ours."""
    both = credential.username + credential.password
    return (
        credential.password != ""
        and len(both) <= MOST_CREDENTIAL_CHARACTERS
        and both.isascii()
        and both.isprintable()
        and credential.password == credential.password.strip()
        and ":" not in credential.username
        and TOKEN_PREFIX not in both
    )


def new_token(
    state: StateStore, clock: Clock, *, globs: Sequence[str], lasts: float | None, note: str
) -> tuple[str, CloneToken]:
    """Make a clone token for mirrors whose names fit ``globs``, good for ``lasts`` seconds (``None``: until revoked).

    Returns the token, which is shown once and kept nowhere, and what is kept of it.
    Raises :class:`UsageError`.
    """
    if not globs or len(globs) > MOST_GLOBS:
        raise UsageError(f"a token is for 1 to {MOST_GLOBS} names or globs of mirrors")
    for glob in globs:
        if not glob or len(glob) > 1024 or glob != printable(glob) or glob != glob.strip():
            raise UsageError(
                f"{printable(glob)[:100]!r} is no glob of mirror names", remedy="such as 'github.com/acme/*'"
            )
    if len(note) > 500:
        raise UsageError("a note has at most 500 characters")
    if lasts is not None and lasts <= 0:
        raise UsageError("a token that expires lasts longer than nothing")
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    until = None if lasts is None else clock.now() + lasts
    return token, state.add_token(token_digest(token), globs=tuple(dict.fromkeys(globs)), expires_at=until, note=note)
