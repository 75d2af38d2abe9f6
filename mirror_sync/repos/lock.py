"""The exclusive lock of one mirror, shared with its git children."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.errors import LeaseLost
from mirror_sync.repos.files import make_directories


class MirrorLock:
    """An ``flock`` on the mirror's lock file, held by one object at a time and not re-entrant.

    Every git child started meanwhile inherits the descriptor, so a free lock proves that
    no child of an earlier process lives.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptor children inherit; empty while the lock is not held."""
        return () if self._descriptor is None else (self._descriptor,)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; raises :class:`LeaseLost` at once when anybody else has it."""
        descriptor = self._acquire()
        self._descriptor = descriptor
        try:
            yield
        finally:
            self._descriptor = None
            # Said aloud, since a child that another thread is just starting has a copy until it execs.
            # Our own children have all been waited for; only after a crash do they keep the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _acquire(self) -> int:
        while True:
            try:
                make_directories(self._path.parent)
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue  # another process removed the whole mirror just now
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    return descriptor
            except BlockingIOError as error:
                os.close(descriptor)
                raise LeaseLost(
                    "another process holds this mirror's lock",
                    why="a worker is busy with it, or a git child of a worker that died has not ended yet",
                    remedy="nothing: it is tried again",
                ) from error
            os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Tell whether the locked file still has its name: a removed mirror's lock guards nothing."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        own = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)
