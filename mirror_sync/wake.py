"""Rousing the worker on this host at once when something became due."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

_LONGEST = 4096


class LocalWaker:
    """Many pokers, one waiter, over a unix datagram socket; implements :class:`mirror_sync.ports.Waker`.

    Whoever waits first owns the socket as long as its process lives (a lock file beside
    it tells), so a file left by a dead process is replaced and a living waiter never loses
    its place; a second waiter only sleeps.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ear: socket.socket | None = None
        self._ownership = -1
        self._closed = threading.Event()

    def poke(self) -> None:
        """Implement :meth:`mirror_sync.ports.Waker.poke`."""
        # nobody waits, or so many pokes wait already that another tells nothing new
        with (
            contextlib.suppress(OSError),
            _reachable(self._path) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as mouth,
        ):
            mouth.sendto(b"!", address)

    def wait(self, seconds: float) -> bool:
        """Implement :meth:`mirror_sync.ports.Waker.wait`."""
        if self._ear is None:
            self._listen()
        ear = self._ear
        if ear is None:
            self._closed.wait(seconds)
            return False
        watch = select.poll()  # unlike select() it takes descriptors of any number
        watch.register(ear, select.POLLIN)
        if not watch.poll(max(0.0, seconds) * 1000.0):
            return False
        with contextlib.suppress(BlockingIOError):
            while True:  # a burst of pokes is one
                ear.recv(_LONGEST)
        return True

    def close(self) -> None:
        """Implement :meth:`mirror_sync.ports.Waker.close`."""
        self._closed.set()
        if self._ear is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._ear.close()
            self._ear = None
        if self._ownership >= 0:
            os.close(self._ownership)
            self._ownership = -1

    def _listen(self) -> None:
        """Own the socket; leave everything as it is when another waiter lives or the directory refuses."""
        try:
            ownership = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            fcntl.flock(ownership, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._path.unlink(missing_ok=True)
            with _reachable(self._path) as address:
                ear.bind(address)
        except OSError:
            ear.close()
            os.close(ownership)
            return
        self._ear, self._ownership = ear, ownership


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """Yield an address of ``path`` that fits a socket's 107 bytes however deep the directory is."""
    handle = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{path.name}"
    finally:
        os.close(handle)
