"""Lines for systemd's journal, with fields that ``journalctl MIRROR=...`` finds."""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import Mapping

SOCKET_PATH = "/run/systemd/journal/socket"
STDOUT_PATH = "/run/systemd/journal/stdout"
LARGEST_DATAGRAM = 180_000
"""Below the default send buffer; a longer message is cut and says so."""

PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def stderr_is_journal() -> bool:
    """Tell whether standard error is connected to the journal.

    Asks the descriptor itself, so that a child that inherited the environment but
    not the descriptor is not taken for a service.
    """
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return False
    with socket.socket(fileno=descriptor) as peer:
        try:
            return peer.family == socket.AF_UNIX and peer.getpeername() == STDOUT_PATH
        except OSError:
            return False


def encode_entry(fields: Mapping[str, str]) -> bytes:
    """Return one entry in the journal's native protocol (systemd.io, "Native Journal Protocol")."""
    parts: list[bytes] = []
    for name, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")
        if b"\n" in raw:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        else:
            parts.append(name.encode() + b"=" + raw + b"\n")
    return b"".join(parts)


def priority(level: int) -> int:
    """Return the syslog priority of a logging level."""
    for known in sorted(PRIORITIES, reverse=True):
        if level >= known:
            return PRIORITIES[known]
    return PRIORITIES[logging.DEBUG]


class JournalHandler(logging.Handler):
    """Sends each record as one datagram; fields named in ``FIELDS`` become journal fields."""

    FIELDS: Mapping[str, str] = {
        "mirror": "MIRROR",
        "run": "RUN",
        "code": "CODE",
        "outcome": "OUTCOME",
        "event": "EVENT",
    }

    def __init__(self, path: str = SOCKET_PATH) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; a journal that does not take it gets the line on standard error instead."""
        try:
            known: dict[str, object] = {}
            record.__dict__["journal_fields"] = known
            message = self.format(record)
            fields = {
                "PRIORITY": str(priority(record.levelno)),
                "SYSLOG_IDENTIFIER": "mirror-sync",
                "LOGGER": record.name,
            }
            fields.update({self.FIELDS[key]: str(value) for key, value in known.items() if key in self.FIELDS})
            fields["MESSAGE"] = message
            entry = encode_entry(fields)
            if len(entry) > LARGEST_DATAGRAM:
                fields["MESSAGE"] = message[: LARGEST_DATAGRAM // 8] + f" [cut, {len(message)} characters]"
                entry = encode_entry(fields)
            try:
                self._socket.sendto(entry, self._path)
            except OSError:
                sys.stderr.write(f"<{priority(record.levelno)}>{message}\n")
        except Exception:  # noqa: BLE001 - logging's own rule: a handler reports and never raises
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()
