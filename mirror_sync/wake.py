"""How one of our processes rouses another on the same host: a datagram on a unix socket.

Losing a wake-up costs a second: the worker looks every second anyway.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

MAX_PATH_BYTES = 100
"""A unix socket's path has at most about 108 bytes; a longer one is reached through its directory."""


class LocalWaker:
    """Wakes whoever waits on ``path``; implements :class:`mirror_sync.ports.Waker`.

    Any number may poke, one waits.  The waiter's socket replaces a dead one's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    def poke(self) -> None:
        """Wake the waiter; never blocks, and does nothing when nobody waits."""
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender,
            _short(self._path) as path,
        ):
            sender.sendto(b"1", path)

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``; return ``True`` when poked, however often."""
        listener = self._listen()
        ready, _, _ = select.select([listener], [], [], max(0.0, seconds))
        if not ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.recv(64)
        return True

    def close(self) -> None:
        """Close the waiter's socket; later pokes do nothing."""
        with self._lock:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
                with contextlib.suppress(OSError):
                    self._path.unlink()

    def _listen(self) -> socket.socket:
        with self._lock:
            if self._listener is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                try:
                    with _short(self._path) as path:
                        self._path.unlink(missing_ok=True)
                        listener.bind(path)
                except OSError:
                    listener.close()
                    raise
                self._listener = listener
            return self._listener


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name for ``path`` that fits into a socket address."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
