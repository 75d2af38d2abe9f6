"""Reading an LFS object while another process brings it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from mirror_sync.domain.parts import Part, clip
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store import journal
from mirror_sync.lfs_store.durable import told
from mirror_sync.lfs_store.layout import Layout

READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class FileArrivals:
    """Objects on their way in a store's directory; implements :class:`mirror_sync.ports.Arrivals`.

    Takes no lock and writes nothing: who brings an object need not know of it.
    """

    def __init__(self, directory: Path) -> None:
        self._layout = Layout(directory)

    def watch(self, pointer: Pointer) -> FileArrival:
        """Return a view of an object, whether anything of it is here or not."""
        return FileArrival(pointer, self._layout)


class FileArrival:
    """One object's file, under whichever name it has; implements :class:`mirror_sync.ports.Arrival`.

    Goes by the journal, which tells of durable bytes only and is replaced as a whole, and
    never by the file's length: disk is set aside for the whole object at once.
    """

    def __init__(self, pointer: Pointer, layout: Layout) -> None:
        self.pointer = pointer
        self._final = layout.object(pointer.oid)
        self._data = layout.data(pointer.oid)
        self._journal = layout.journal(pointer.oid)
        self._fd = -1
        self._opened: list[int] = []
        self._verified = False

    @property
    def verified(self) -> bool:
        """Whether the last look found the verified object."""
        return self._verified

    def look(self) -> list[Part]:
        """Look again, and return the ranges whose bytes are durable."""
        if self._verified:
            return [(0, self.pointer.size)]
        with told("look at an LFS object on its way"):
            if self._take(self._final):
                found = os.fstat(self._fd)
                if stat.S_ISREG(found.st_mode) and found.st_size == self.pointer.size:
                    self._verified = True
                    return [(0, self.pointer.size)]
                return []
            # The journal first: the file of one that is told of there was opened before or is there now.
            parts = journal.load(self._journal, self.pointer).parts
            if not parts or not self._take(self._data):
                return []
            return clip(parts, os.fstat(self._fd).st_size)

    def _take(self, path: Path) -> bool:
        """Read from ``path`` from now on; ``False`` when nothing is there."""
        try:
            fd = os.open(path, READING)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False  # a symlink stands in its place: whoever brings the object replaces it
            raise
        if self._fd >= 0 and os.path.samestat(os.fstat(fd), os.fstat(self._fd)):
            os.close(fd)
            return True
        # Others may be reading from the one before: it is closed with everything else.
        self._opened.append(fd)
        self._fd = fd
        return True

    def read(self, start: int, end: int) -> bytes:
        """Return bytes that the last look found."""
        if self._fd < 0:
            return b""
        with told("read an LFS object on its way"):
            return os.pread(self._fd, end - start, start)

    def close(self) -> None:
        """Let go."""
        for fd in self._opened:
            with contextlib.suppress(OSError):  # only read from: nothing is lost
                os.close(fd)
        self._opened, self._fd = [], -1
