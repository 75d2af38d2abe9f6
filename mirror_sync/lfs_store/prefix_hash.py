"""SHA-256 of a file while it grows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from mirror_sync.domain.parts import Part, reach
from mirror_sync.lfs_store.beside import Job, Lane

PIECE = 1 << 20


class PrefixHash:
    """The SHA-256 of a file's gapless beginning, kept up beside the writing.

    Bytes that arrive in order are hashed from memory; what lay on disk before, arrived out
    of order or faster than it can be hashed, is read back.
    """

    def __init__(self, fd: int, *, beside: bool) -> None:
        self._fd = fd
        self._lane = Lane("lfs-hash") if beside else None
        self._hash = hashlib.sha256()
        self._at = 0
        self._spoilt = False

    def follow(self, offset: int, data: bytes, *, written: Sequence[Part]) -> None:
        """Take note that ``data`` now stands at ``offset``; ``written`` is every part that does."""
        if offset < self._at:
            self._spoilt = True  # bytes already hashed were written again
            return
        if offset == self._at and self._offer(lambda: self._hash.update(data)):
            self._at += len(data)
        start, end = self._at, reach(written, self._at)
        if start < end and self._offer(lambda: self._read(start, end)):
            self._at = end

    def spoil(self) -> None:
        """Trust nothing hashed so far: read it all again when the digest is asked for."""
        self._spoilt = True

    def digest(self, size: int) -> str:
        """Return the SHA-256 of the first ``size`` bytes, in hex, reading only what was not hashed yet."""
        if self._spoilt:
            self.reset()
        self._catch_up(size)
        if self._lane is not None:
            self._lane.finish()
        return self._hash.hexdigest()

    def reset(self) -> None:
        """Begin again with nothing."""
        if self._lane is not None:
            self._lane.finish()
        self._hash = hashlib.sha256()
        self._at = 0
        self._spoilt = False

    def close(self) -> None:
        """End the thread, whatever it was doing."""
        if self._lane is not None:
            self._lane.drop()

    def _catch_up(self, end: int) -> None:
        if end <= self._at:
            return
        start, self._at = self._at, end
        if self._lane is None:
            self._read(start, end)
        else:
            self._lane.put(lambda: self._read(start, end))

    def _read(self, start: int, end: int) -> None:
        buffer = bytearray(min(PIECE, end - start))
        view = memoryview(buffer)
        while start < end and not (self._lane is not None and self._lane.dropped):
            count = os.preadv(self._fd, [view[: min(PIECE, end - start)]], start)
            if count == 0:
                return  # the file is shorter than it was: the digest will not match
            self._hash.update(view[:count])
            start += count

    def _offer(self, job: Job) -> bool:
        """Do a job now or beside; ``False`` when too many wait already, for nobody who writes has to wait for a hash."""
        if self._lane is not None:
            return self._lane.offer(job)
        job()
        return True
