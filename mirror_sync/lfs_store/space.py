"""How much disk may still be used."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.errors import StorageFull
from mirror_sync.lfs_store.durable import told

LARGEST_RESERVE = 100 << 30
RESERVE_SHARE = 20
"""The automatic reserve is one part in this many of the file system, never more than the largest."""


class Space:
    """The free space of one directory's file system and the reserve that stays untouched."""

    def __init__(self, directory: Path, *, reserve_bytes: int | None) -> None:
        self._directory = directory
        self._reserve = reserve_bytes
        self._guard = threading.Lock()

    def free(self) -> int:
        """Return the bytes we could write."""
        with told("look at the free space"):
            answer = os.statvfs(self._directory)
        return answer.f_bavail * answer.f_frsize

    def reserve(self) -> int:
        """Return the bytes that stay free."""
        if self._reserve is not None:
            return self._reserve
        with told("look at the free space"):
            answer = os.statvfs(self._directory)
        return min(LARGEST_RESERVE, answer.f_blocks * answer.f_frsize // RESERVE_SHARE)

    def check(self, size: int) -> None:
        """Raise :class:`StorageFull` unless ``size`` more bytes fit above the reserve."""
        free, reserve = self.free(), self.reserve()
        if size > free - reserve:
            raise StorageFull(
                f"{size} bytes do not fit in {self._directory}",
                why=f"{free} bytes are free and {reserve} of them are the reserve",
                remedy="free space, give the file system more, or lower storage.reserve; transfers go on by themselves",
            )

    @contextlib.contextmanager
    def deciding(self) -> Iterator[None]:
        """Let nobody else, in this process or another, decide meanwhile: what is checked is still so when it is taken."""
        with self._guard, told("lock the LFS directory"):
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)
