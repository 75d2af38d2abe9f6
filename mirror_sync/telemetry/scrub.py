"""Keeping secrets out of what is written down."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable

from mirror_sync.errors import MirrorSyncError
from mirror_sync.ports import Clock

STARS = "***"
SHORTEST_SECRET = 6
"""A shorter value would star out ordinary words; such a secret protects nothing."""

SECRET_FIELDS = frozenset(
    {
        "authorization", "proxy-authorization", "proxy_authorization", "cookie", "set-cookie", "set_cookie",
        "token", "password", "secret", "api_key", "private_token", "x-hub-signature", "x-hub-signature-256",
    }
)  # fmt: skip

_PATTERNS = (
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@\"'<>]+@"), r"\1" + STARS + "@"),
    (re.compile(r"(?i)\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)[^\"'\r\n,}]+"), r"\1" + STARS),
    (
        re.compile(r"(?i)\b(basic|bearer|remoteauth)(\s+)(?=[^\s\"']*[0-9+/=_~-])[A-Za-z0-9+/=._~-]{8,}"),
        r"\1\2" + STARS,
    ),
    (
        re.compile(r"(?i)([?&](?:[a-z0-9._-]*(?:signature|token|secret|password|credential)|sig)=)[^&\s\"'<>]+"),
        r"\1" + STARS,
    ),
)


class Scrubber:
    """Replaces secrets by stars wherever text leaves the process.

    ``source`` returns the secret values in use; it is asked at most every
    ``every`` seconds, and a value once seen stays starred after a rotation.
    Beside exact values it covers ``Authorization``-like headers, user
    information in URLs and signatures in query strings, whose values nobody
    can know beforehand.
    """

    def __init__(
        self, source: Callable[[], Iterable[str | bytes]] | None = None, *, clock: Clock, every: float = 30.0
    ) -> None:
        self._source = source
        self._clock = clock
        self._every = every
        self._asked = float("-inf")
        self._values: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()
        self._asking = threading.local()

    def add(self, value: str | bytes) -> None:
        """Star this value from now on."""
        self._learn([value])

    def text(self, text: str) -> str:
        """Return ``text`` without secrets."""
        self._refresh()
        if self._pattern is not None:
            text = self._pattern.sub(STARS, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value: object, *, field: str = "") -> object:
        """Return ``value`` without secrets, whatever it is made of."""
        if field.lower() in SECRET_FIELDS:
            return STARS
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "backslashreplace"))
        if isinstance(value, dict):
            return {key: self.value(item, field=str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return self.text(str(value))

    def _refresh(self) -> None:
        if self._source is None or getattr(self._asking, "now", False):
            return
        now = self._clock.monotonic()
        if now - self._asked < self._every:
            return
        self._asked = now
        self._asking.now = True
        try:
            self._learn(self._source())
        except (MirrorSyncError, OSError):
            # A secret file that is missing just now is reported by whoever uses it;
            # writing a log line must not depend on it, and known values stay starred.
            return
        finally:
            self._asking.now = False

    def _learn(self, values: Iterable[str | bytes]) -> None:
        new: set[str] = set()
        for value in values:
            text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
            text = text.strip()
            if len(text) >= SHORTEST_SECRET:
                new.add(text)
        with self._lock:
            if new <= self._values:
                return
            self._values |= new
            longest_first = sorted(self._values, key=len, reverse=True)
            self._pattern = re.compile("|".join(re.escape(value) for value in longest_first))
