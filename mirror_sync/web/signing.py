"""Links to LFS objects of mirrors that are not for everybody: signed, for one object of one mirror, for a while.

git-lfs follows the links of a batch answer without credentials, and so do programs that
were handed one; a link proves by itself that somebody was let in.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import threading
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from mirror_sync.config import SecretFile, replace_secret, write_secret
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.errors import ConfigError, StorageFailed
from mirror_sync.ports import Clock

KEY = "access.link_key_file"
KEY_BYTES = 32
KEPT_KEYS = 2
"""The one that signs and the one before, which is accepted until the next rotation."""

_KEY_LINE = re.compile(r"[0-9a-f]{64}\Z")
_MOMENT = re.compile(r"[0-9]{1,12}\Z")


class LinkKeys:
    """The keys in their file, which is made when a link is first signed and read again when it changes.

    The file has one key to a line, in hex.  The first signs; all are accepted.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: tuple[bytes, ...] = ()
        self._seen: tuple[int, int, int] | None = None

    def signed(self, name: MirrorName, oid: LfsOid, *, seconds: float) -> str:
        """Return the query that opens one object of one mirror for so long.

        Raises :class:`ConfigError` or :class:`StorageFailed` when there is no key and none can be made.
        """
        until = int(self._clock.now() + seconds)
        with self._lock:
            keys = self._current() or self._made()
        return urlencode({"expires": str(until), "signature": _signature(keys[0], name, oid, until)})

    def opens(self, name: MirrorName, oid: LfsOid, *, expires: str, signature: str) -> bool:
        """Tell whether a link that was followed opens this object of this mirror now."""
        if not signature or not _MOMENT.match(expires) or int(expires) <= self._clock.now():
            return False
        with self._lock:
            keys = self._current()
        given = signature.encode("utf-8", "surrogatepass")
        # every key is tried, whichever fits
        fits = [hmac.compare_digest(_signature(key, name, oid, int(expires)).encode(), given) for key in keys]
        return any(fits)

    def rotate(self) -> bool:
        """Sign with a new key from now on; ``False`` when there was none yet, and one was made.

        Links that the key before signed count until they expire, those of the one before it no more.
        """
        with self._lock:
            keys = self._current()
            if not keys:
                self._made()
                return False
            lines = [secrets.token_hex(KEY_BYTES), *(key.hex() for key in keys)][:KEPT_KEYS]
            try:
                replace_secret(self._path, "\n".join(lines))
            except OSError as error:
                raise _unwritable(self._path, error) from error
            return True

    def _current(self) -> tuple[bytes, ...]:
        """Return the keys as the file has them now; none when there is no file."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._keys, self._seen = (), None
            return ()
        except OSError as error:
            raise _unwritable(self._path, error) from error
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            lines = SecretFile(KEY, self._path).read().split()
            if not all(_KEY_LINE.match(line) for line in lines):
                raise ConfigError(
                    f"{KEY}: the file holds something that is no key",
                    remedy=f"move {self._path} away; another is made, and links signed so far end",
                    code="MS-C004",
                )
            self._keys, self._seen = tuple(bytes.fromhex(line) for line in lines), seen
        return self._keys

    def _made(self) -> tuple[bytes, ...]:
        try:
            write_secret(self._path, secrets.token_hex(KEY_BYTES))  # another process may be first: its key counts
        except OSError as error:
            raise _unwritable(self._path, error) from error
        return self._current()


def _signature(key: bytes, name: MirrorName, oid: LfsOid, until: int) -> str:
    # neither a name nor an oid holds a line end, so no two links have one text
    text = f"lfs-object\n{name}\n{oid}\n{until}".encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(hmac.digest(key, text, sha256)).rstrip(b"=").decode("ascii")


def _unwritable(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        "the keys that sign links cannot be kept",
        why=f"{path}: {error.strerror or type(error).__name__}",
        remedy=f"let the web write there, or name another place: {KEY}",
    )
