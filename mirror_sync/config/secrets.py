"""Secrets live in files; this is the only thing that opens them."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

from mirror_sync.errors import ConfigError

CREDENTIAL_PREFIX = "credential:"
MAX_SECRET_BYTES = 64 * 1024
ABSENT = "there is no such file"


@dataclass(frozen=True, slots=True, repr=False)
class SecretFile:
    """A secret that is read from its file each time it is used, so that rotation needs no restart.

    ``key`` is the configuration key that named it.  ``path`` is ``None`` when systemd's
    credentials directory is not set for this process.
    """

    key: str
    path: Path | None
    credential: str = field(default="")
    """The name behind ``credential:``, or empty for a plain path."""
    label: str = "current"
    """Which of several secrets this is, for metrics."""

    def __repr__(self) -> str:
        return "SecretFile(***)"

    def where(self) -> str:
        """Return where the secret is kept, never the secret."""
        return f"{CREDENTIAL_PREFIX}{self.credential}" if self.credential else str(self.path)

    def read(self) -> str:
        """Return the secret without the line end behind it.

        Raises :class:`ConfigError` when the file is missing, empty, not UTF-8, too large or
        readable by everybody.
        """
        if self.path is None:
            raise ConfigError(
                f"{self.key} names credential {self.credential!r}, which this process was not given",
                why="$CREDENTIALS_DIRECTORY is not set",
                remedy="start the service by systemd with LoadCredential=, or name a file",
                code="MS-C004",
            )
        fault = secret_fault(self.path)
        if fault:
            raise ConfigError(
                f"{self.key}: {fault}",
                remedy=f"name a file that is there, with mode 600, in {self.key}"
                if fault == ABSENT
                else f"chmod 600 the file named in {self.key}",
                code="MS-C004",
            )
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_SECRET_BYTES + 1)
            text = raw.decode("utf-8")
        except OSError as error:
            raise ConfigError(
                f"{self.key}: the file cannot be read", why=error.strerror or type(error).__name__, code="MS-C004"
            ) from error
        except UnicodeDecodeError:
            # The exception would carry the secret's bytes along.
            raise ConfigError(f"{self.key}: the file is not UTF-8 text", code="MS-C004") from None
        secret = text.rstrip("\r\n")
        if not secret or len(raw) > MAX_SECRET_BYTES:
            raise ConfigError(
                f"{self.key}: the file is {'empty' if not secret else 'larger than 64 KiB'}", code="MS-C004"
            )
        return secret

    __call__ = read


def secret_fault(path: Path) -> str:
    """Return why this file may not hold a secret, or an empty string.

    A file that this process may not even look at is left to whoever reads it.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return ABSENT
    except NotADirectoryError:
        return ABSENT
    except PermissionError:
        return ""
    except OSError as error:
        return error.strerror or "the file cannot be looked at"
    if not stat.S_ISREG(found.st_mode):
        return "it is not a plain file"
    if found.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"everybody on this machine may read or write it (mode {stat.S_IMODE(found.st_mode):04o})"
    if found.st_mode & stat.S_IWGRP:
        return f"its whole group may write it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""
