"""One blob that comes in pieces, on disk until it proves itself by its id."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.repos.files import Space, make_directories, remove_file, sync_file
from mirror_sync.repos.salvage import PIECE, checksum

SYNC_EVERY = 8 * 2**20
"""Bytes after which what came is made durable."""


class DiskBlobPart:
    """Implements :class:`mirror_sync.ports.filling.BlobPart` as one file that grows."""

    def __init__(
        self,
        path: Path,
        blob: GitOid,
        *,
        object_format: ObjectFormat,
        space: Space,
        guard: Callable[[], AbstractContextManager[None]],
        take_in: Callable[[Path, int], None],
    ) -> None:
        self._path = path
        self._blob = blob
        self._object_format = object_format
        self._space = space
        self._guard = guard
        self._take_in = take_in
        self._unsynced = 0

    def here(self) -> int:
        """Return how many of its first bytes are here."""
        with self._guard():
            try:
                return self._path.stat().st_size
            except FileNotFoundError:
                return 0

    def write(self, data: bytes) -> None:
        """Append, making durable what came from time to time."""
        with self._guard():
            self._space.check(len(data))
            make_directories(self._path.parent)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                self._unsynced += len(data)
                if self._unsynced >= SYNC_EVERY:
                    os.fdatasync(descriptor)
                    self._unsynced = 0
            finally:
                os.close(descriptor)

    def restart(self) -> None:
        """Forget every byte."""
        with self._guard():
            remove_file(self._path)
            self._unsynced = 0

    def keep(self) -> bool:
        """Take the blob into the stage when its bytes are what its id says; forget them when they are not."""
        with self._guard():
            make_directories(self._path.parent)
            size = self.here()
            if not self._matches(size):
                remove_file(self._path)
                return False
            self._path.touch()
            sync_file(self._path)
            self._take_in(self._path, size)
            remove_file(self._path)
            return True

    def _matches(self, size: int) -> bool:
        digest = checksum(self._object_format)
        digest.update(b"blob %d\0" % size)
        if size:
            with self._path.open("rb") as stream:
                while data := stream.read(PIECE):
                    digest.update(data)
        return bool(digest.hexdigest() == self._blob)
