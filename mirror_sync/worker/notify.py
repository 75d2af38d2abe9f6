"""What systemd is told (sd_notify(3)): one datagram per message, nothing when nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Tells the service manager how the process is doing.

    ``address`` is ``NOTIFY_SOCKET``: a path, or an abstract name that begins with ``@``.
    ``watchdog_seconds`` is how long the manager waits for a sign of life, 0 for ever.
    """

    def __init__(self, address: str = "", *, watchdog_seconds: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Notifier:
        """Return the notifier that this process's environment asks for."""
        micros = environment.get("WATCHDOG_USEC", "")
        meant_for_us = environment.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
        watchdog = int(micros) / 1e6 if meant_for_us and micros.isascii() and micros.isdigit() else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_seconds=watchdog)

    def send(self, *lines: str) -> None:
        """Send ``NAME=value`` lines; a manager that is gone or slow is no reason to stop working."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            try:
                out.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
            except OSError:
                return

    def ready(self, status: str) -> None:
        """Say that start-up, or a reload, is over."""
        self.send("READY=1", f"STATUS={status}")

    def reloading(self, *, monotonic: float) -> None:
        """Say that the configuration is being read again."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={int(monotonic * 1e6)}")

    def stopping(self, status: str) -> None:
        """Say that the process is winding down."""
        self.send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Give the sign of life that the watchdog waits for."""
        self.send("WATCHDOG=1")
