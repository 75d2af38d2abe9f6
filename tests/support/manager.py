"""A service manager's ear: what processes tell over NOTIFY_SOCKET."""

from __future__ import annotations

import os
import queue
import secrets
import socket
import threading
import time
from types import TracebackType
from typing import Self


class Manager:
    """Receives sd_notify messages on an abstract socket."""

    def __init__(self) -> None:
        self.address = f"@mirror-sync-tests/{os.getpid()}/{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:])
        self._messages: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(b"", "\0" + self.address[1:])
        self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        while data := self._socket.recv(4096):
            self._messages.put(data.decode())

    def wait_for(self, line: str, *, seconds: float = 20.0) -> str:
        """Return the first message with this line; earlier ones are forgotten."""
        deadline = time.monotonic() + seconds
        while True:
            message = self._messages.get(timeout=max(0.0, deadline - time.monotonic()))
            if line in message.splitlines():
                return message

    def hears(self, line: str, *, seconds: float) -> bool:
        """Tell whether a message with this line comes within the time."""
        try:
            self.wait_for(line, seconds=seconds)
        except queue.Empty:
            return False
        return True
