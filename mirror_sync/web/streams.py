"""Answers that are sent piece by piece."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

BLOCK_BYTES = 256 * 1024
SENT_FILE = "mirror_sync.sent_file"
"""Where the access log finds the file of an answer: the server does not count what it hands to ``sendfile``."""


class Stream:
    """An iterable body that always cleans up: when it ends, when the client goes, when it was never begun."""

    def __init__(self, pieces: Iterator[bytes], *, first: bytes = b"", done: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._first = first
        self._done = done
        self._sent = 0
        self._closed = False
        self._lock = threading.Lock()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        piece, self._first = self._first, b""
        while not piece:
            piece = next(self._pieces)
        self._sent += len(piece)
        return piece

    def close(self) -> None:
        """End the stream; called by the server whatever happened."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._done(self._sent)


class SentFile:
    """A range of a file that the server may hand to ``sendfile``; knows how much of it was sent.

    ``socket.sendfile`` seeks to where it stopped, which is how the count is known.
    """

    def __init__(self, file: BinaryIO, *, start: int, length: int, done: Callable[[int], None]) -> None:
        self._file = file
        self._start = start
        self._left = length
        self._sent = 0
        self._done = done
        self._closed = False
        os.lseek(file.fileno(), start, os.SEEK_SET)

    @property
    def sent(self) -> int:
        """Bytes handed to the client so far."""
        return self._sent

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, never past the range."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = os.read(self._file.fileno(), min(wanted, BLOCK_BYTES)) if wanted else b""
        self._left -= len(data)
        self._sent += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move within the file, as ``socket.sendfile`` does when it stops."""
        position = os.lseek(self._file.fileno(), offset, whence)
        self._sent = max(self._sent, position - self._start)
        return position

    def close(self) -> None:
        """Close the file and report what was sent."""
        if self._closed:
            return
        self._closed = True
        self._file.close()
        self._done(self._sent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
