"""An LFS object with some parts on disk and a journal of which."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from mirror_sync.domain.parts import Part, add, clip, count, remove, subtract
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import ObjectCorrupt, UsageError
from mirror_sync.lfs_store import journal
from mirror_sync.lfs_store.beside import Lane
from mirror_sync.lfs_store.durable import allocate, sync_directory, told, write_all
from mirror_sync.lfs_store.durable import remove as delete
from mirror_sync.lfs_store.journal import Told
from mirror_sync.lfs_store.layout import Layout
from mirror_sync.lfs_store.prefix_hash import PrefixHash
from mirror_sync.lfs_store.space import Space
from mirror_sync.ports import Clock

SYNC_SECONDS = 1.0
SMALL = 4 << 20
"""Objects up to this many bytes need no threads beside the download and no disk set aside first."""

CHECK_BYTES = 4 << 20
READ_ONLY = 0o444


@dataclass(frozen=True, slots=True)
class Shop:
    """What every incomplete of one store shares."""

    layout: Layout
    space: Space
    clock: Clock
    sync_bytes: int
    """Bytes after which what was written is made durable and the journal says so."""


class FileIncomplete:
    """Bytes of one object as they arrive; implements :class:`mirror_sync.ports.Incomplete`.

    Holds the descriptor whose flock makes this the only one.  ``here`` says that the
    verified object exists already, so that nothing is missing.
    """

    def __init__(self, pointer: Pointer, fd: int, *, shop: Shop, here: bool) -> None:
        self.pointer = pointer
        self._fd = fd
        self._shop = shop
        self._here = here
        self._journal = shop.layout.journal(pointer.oid)
        self._data = shop.layout.data(pointer.oid)
        large = pointer.size > SMALL
        self._hash = PrefixHash(fd, beside=large)
        self._syncs = Lane("lfs-sync") if large else None
        self._guard = threading.Lock()
        """Held for every look at or change of what is written, never while bytes are."""
        self._allocated = False
        self._verified = False
        self._unchecked = 0
        self._unsynced = 0
        self._lost = False
        self._synced_at = shop.clock.monotonic()
        self._others = False
        """Whether what is here came for a pointer that claims another size; it stays until bytes of this one come."""
        self._durable = Told()
        if not here:
            self._load()
        self._written = self._durable.parts
        self._from = self._durable.origins
        self._agreed = self._durable.agreed

    def _load(self) -> None:
        told_of = journal.load(self._journal, self.pointer)
        if told_of.other_size:
            # Two pointers claim different sizes. Which of them lies is not known before bytes come.
            self._others = True
            return
        parts = clip(told_of.parts, os.fstat(self._fd).st_size)
        if parts != told_of.parts or (not parts and self._journal.exists()):
            # A journal that says more than the data holds belongs to data that is gone.
            # It must not come true by itself when the file grows again.
            self._forget_journal()
            return
        self._durable = told_of

    def missing(self) -> list[Part]:
        """Make what was written durable; return the half-open ranges that are not here, ascending."""
        if self._here:
            return []
        with self._guard:
            self._settle()
            return subtract((0, self.pointer.size), self._written)

    def reserve(self) -> None:
        """Set disk space aside for what is missing; raises :class:`StorageFull` when it does not fit above the reserve."""
        if self._here or self._allocated:
            return
        if self.pointer.size <= SMALL or self._others:
            # Nothing is set aside, so there is nothing to decide under a lock.
            self._shop.space.check(self.pointer.size - count(self._written))
            return
        with self._shop.space.deciding():
            on_disk = os.fstat(self._fd).st_blocks * 512
            lacking = min(self.pointer.size - count(self._written), max(0, self.pointer.size - on_disk))
            self._shop.space.check(lacking)
            with told("set disk space aside for an LFS object"):
                self._allocated = allocate(self._fd, self.pointer.size)

    def write(self, offset: int, data: bytes, *, source: str = "") -> None:
        """Write ``data``, which ``source`` sent, at ``offset``; see :meth:`mirror_sync.ports.Incomplete.write`."""
        end = offset + len(data)
        if offset < 0 or end > self.pointer.size or self._here:
            raise UsageError(f"bytes {offset} to {end} are not part of what is missing of {self.pointer.oid}")
        if not self._allocated:
            self._check_space(len(data))
        self._take_over()
        with told("write a part of an LFS object"):
            write_all(self._fd, data, offset)
            with self._guard:
                self._verified = False
                self._written = add(self._written, (offset, end))
                self._note_source(source, (offset, end))
                self._agreed = remove(self._agreed, (offset, end))
                self._hash.follow(offset, data, written=self._written)
                self._unsynced += len(data)
                self._sync_in_time()

    def _sync_in_time(self) -> None:
        if self._unsynced >= self._shop.sync_bytes or self._shop.clock.monotonic() >= self._synced_at + SYNC_SECONDS:
            self._sync_beside()

    def _take_over(self) -> None:
        if not self._others:
            return
        with self._guard, told("start an LFS object anew"):
            if self._others:
                self._forget_journal()
                os.ftruncate(self._fd, 0)
                self._others = False

    def _note_source(self, source: str, part: Part) -> None:
        # Never changed in place: the journal may be writing the one before.
        sent = {name: remove(parts, part) for name, parts in self._from.items() if name != source}
        if source:
            sent[source] = add(self._from.get(source, []), part)
        self._from = sent

    def _check_space(self, size: int) -> None:
        with self._guard:
            self._unchecked += size
            if self._unchecked < min(CHECK_BYTES, self.pointer.size):
                return
            size, self._unchecked = self._unchecked, 0
        self._shop.space.check(size)

    def origins(self) -> list[tuple[int, int, str]]:
        """Return what is here as ascending ``(start, end, source)``."""
        with self._guard:
            named = [(start, end, source) for source, parts in self._from.items() for start, end in parts]
            rest = self._written
            for start, end, _ in named:
                rest = remove(rest, (start, end))
        return sorted([*named, *((start, end, "") for start, end in rest)])

    def read(self, start: int, end: int) -> bytes:
        """Return bytes that are here; shorter where the disk has lost some."""
        with told("read a part of an LFS object"):
            return os.pread(self._fd, end - start, start)

    def agree(self, start: int, end: int) -> None:
        """Take note that bytes which are here came twice the same."""
        with told("make a part of an LFS object durable"), self._guard:
            self._agreed = add(self._agreed, (start, end))
            self._sync_in_time()

    def agreed(self) -> list[Part]:
        """Return what came twice the same, as ascending half-open ranges."""
        with self._guard:
            return list(self._agreed)

    def restart(self) -> None:
        """Forget every part."""
        if self._here or self._others:
            return
        with self._guard, told("start an LFS object anew"):
            self._rest()
            self._forget_journal()
            self._durable = Told()
            self._written, self._from, self._agreed = [], {}, []
            self._unsynced = 0
            self._verified = False
            self._hash.reset()

    def _forget_journal(self) -> None:
        if delete(self._journal):
            sync_directory(self._journal.parent)

    # -- durable bytes first, then the journal that tells of them

    def _sync_beside(self) -> None:
        if self._syncs is None:
            self._settle()
            return
        self._unsynced = 0
        self._synced_at = self._shop.clock.monotonic()
        if self._syncs.idle():  # a slow disk gets fewer, larger syncs instead of a queue
            now = self._now
            self._syncs.put(lambda: self._save(now))

    @property
    def _now(self) -> Told:
        return Told(self._written, self._from, self._agreed)

    def _settle(self) -> None:
        with told("make a part of an LFS object durable"):
            self._rest()
            if self._durable != self._now:
                self._save(self._now)
        self._unsynced = 0
        self._synced_at = self._shop.clock.monotonic()

    def _rest(self) -> None:
        if self._syncs is not None:
            self._syncs.rest()
        if self._lost:
            self._written, self._from = self._durable.parts, self._durable.origins
            self._agreed = self._durable.agreed
            self._hash.spoil()
            self._lost = False

    def _save(self, now: Told) -> None:
        self.sync()
        journal.save(self._journal, self.pointer, now.parts, now.origins, now.agreed)
        self._durable = now

    def sync(self) -> None:
        """Make the bytes durable; what was not durable before is lost when that fails."""
        try:
            os.fsync(self._fd)
        except OSError:
            # The kernel forgets what it could not write and reports success the next
            # time. Whatever was not durable before is gone, even where it can be read.
            self.lose()
            raise

    def lose(self) -> None:
        """Trust nothing that was not durable before."""
        self._lost = True
        self._verified = False

    # -- the end, one way or the other

    def verify(self) -> None:
        """Raise :class:`ObjectCorrupt`, keeping every part, unless the bytes have the right SHA-256."""
        if self._here or self._verified:
            return
        with self._guard:
            self._rest()
            if subtract((0, self.pointer.size), self._written):
                raise UsageError(f"parts of {self.pointer.oid} are still missing")
            with told("verify an LFS object"):
                actual = self._hash.digest(self.pointer.size)
            if actual != self.pointer.oid:
                raise ObjectCorrupt(
                    "an LFS object's bytes are not what its name says",
                    expected=self.pointer.oid,
                    actual=actual,
                    remedy="nothing: it is fetched again; if it stays so, upstream's LFS server has damaged bytes",
                )
            self._verified = True

    def promote(self) -> None:
        """Verify, then make the object durable under its final path, read-only."""
        if self._here:
            return
        self.verify()
        with told("keep an LFS object"):
            self.finish()
            self.sync()
            self._shop.layout.make_shelf(self.pointer.oid)
            final = self.place()
            sync_directory(final.parent)
            self.clear()
            sync_directory(self._data.parent)

    @property
    def here(self) -> bool:
        """Whether the verified object has its final path."""
        return self._here

    def finish(self) -> None:
        """Make the verified file what it will be: its size, its time, read-only."""
        now = self._shop.clock.now()
        os.ftruncate(self._fd, self.pointer.size)
        os.fchmod(self._fd, READ_ONLY)
        os.utime(self._fd, (now, now))

    def place(self) -> Path:
        """Give the durable file its final path, whose directory is there; the name is not durable yet."""
        final = self._shop.layout.object(self.pointer.oid)
        self._data.replace(final)
        self._here = True
        return final

    def clear(self) -> None:
        """Delete the journal of a file that has its final path durably."""
        delete(self._journal)

    def close(self) -> None:
        """Make what arrived durable and let go; an incomplete without a byte leaves nothing behind."""
        try:
            self._hash.close()
            if not self._here:
                self._settle()
            if self._here or not (self._durable.parts or self._others):
                with told("tidy up after an LFS object"):
                    self._tidy()
        finally:
            if self._syncs is not None:
                self._syncs.drop()
            os.close(self._fd)

    def _tidy(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # promoted: the name is already gone
            if os.path.samestat(self._data.stat(), os.fstat(self._fd)):
                delete(self._journal)  # first: a journal must never outlive its data
                delete(self._data)
