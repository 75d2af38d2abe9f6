"""The store's front door."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mirror_sync.domain.names import LfsOid, is_lfs_oid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import NotFound, ObjectBusy, UsageError
from mirror_sync.lfs_store.durable import remove, storage_error, sync_directory, sync_file_system, told
from mirror_sync.lfs_store.incomplete import FileIncomplete, Shop
from mirror_sync.lfs_store.layout import LEAVING, Layout
from mirror_sync.lfs_store.space import Space
from mirror_sync.ports import Clock, Incomplete

TOGETHER = 4
"""From so many objects on, flushing the whole file system twice costs less than each file and directory."""


class FileObjectStore:
    """LFS objects as files under one directory; implements :class:`mirror_sync.ports.ObjectStore`.

    ``reserve_bytes`` stay free on the file system; ``None`` means the smaller of
    100 GiB and 5 %.  What arrives is made durable every ``sync_bytes`` or every
    second, whichever comes first.  Several processes may use one directory.
    """

    def __init__(
        self, directory: Path, *, reserve_bytes: int | None = None, clock: Clock, sync_bytes: int = 32 << 20
    ) -> None:
        self._layout = Layout(directory)
        self._clock = clock
        with told("make the LFS directory"):
            self._layout.make()
        self._bring_back()
        self._space = Space(directory, reserve_bytes=reserve_bytes)
        self._shop = Shop(self._layout, self._space, clock, sync_bytes)

    def _bring_back(self) -> None:
        """Put back what stood on its way out when an eviction was killed: it may have been touched just before."""
        for entry in _entries(self._layout.incompletes):
            oid = LfsOid(entry.name.removesuffix(LEAVING))
            if entry.name.endswith(LEAVING) and is_lfs_oid(oid):
                # OSError: it is gone for good by now, or this process may only read.
                with contextlib.suppress(OSError):
                    self._layout.make_shelf(oid)
                    with contextlib.suppress(FileExistsError):  # it was fetched anew meanwhile
                        os.link(entry.path, self._layout.object(oid))
                    sync_directory(self._layout.object(oid).parent)
                    remove(Path(entry.path))

    # -- what is here

    def has(self, pointer: Pointer) -> bool:
        """Tell whether the verified object is here."""
        return self.size(pointer.oid) == pointer.size

    def open(self, oid: LfsOid) -> BinaryIO:
        """Open a verified object for reading as a real file; raises :class:`NotFound`."""
        if not is_lfs_oid(oid):
            raise NotFound("no such LFS object")
        try:
            return os.fdopen(os.open(self._layout.object(oid), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")
        except FileNotFoundError as error:
            raise NotFound(f"LFS object {oid} is not here") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotFound(f"LFS object {oid} is not here: a symlink stands in its place") from error
            raise storage_error(error, "open an LFS object") from error

    def place(self, oid: LfsOid) -> str:
        """Return where a verified object stands below the directory of all of them."""
        return self._layout.object(oid).relative_to(self._layout.objects).as_posix()

    def size(self, oid: LfsOid) -> int | None:
        """Return the bytes of a verified object, ``None`` when it is not here."""
        if not is_lfs_oid(oid):
            return None
        with told("look for an LFS object"), contextlib.suppress(FileNotFoundError):
            found = self._layout.object(oid).lstat()
            return found.st_size if stat.S_ISREG(found.st_mode) else None
        return None

    def iterate(self) -> Iterator[tuple[Pointer, float]]:
        """Yield every verified object with the time it was last promoted or touched."""
        for first in _entries(self._layout.objects):
            for second in _entries(Path(first.path)):
                for entry in _entries(Path(second.path)):
                    if not is_lfs_oid(entry.name):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # evicted while we looked
                        found = entry.stat(follow_symlinks=False)
                        if not stat.S_ISREG(found.st_mode):
                            continue
                        yield Pointer(LfsOid(entry.name), found.st_size), found.st_mtime

    def verify(self, oid: LfsOid, *, stop: threading.Event | None = None) -> bool:
        """Read a whole object at rest and tell whether it still is what its oid says; raises :class:`NotFound`."""
        digest = hashlib.sha256()
        with self.open(oid) as file, told("read an LFS object"):
            while data := file.read(1 << 20):
                if stop is not None and stop.is_set():
                    return True
                digest.update(data)
        return digest.hexdigest() == oid

    # -- what is coming

    @contextlib.contextmanager
    def incomplete(self, pointer: Pointer) -> Iterator[FileIncomplete]:
        """Hold this object's incomplete, made when absent; raises :class:`ObjectBusy` while another holds it."""
        with told("open an incomplete LFS object"):
            fd = self._hold(pointer.oid)
            try:
                incomplete = FileIncomplete(pointer, fd, shop=self._shop, here=self.has(pointer))
            except BaseException:
                os.close(fd)
                raise
        try:
            yield incomplete
        finally:
            incomplete.close()

    def begun(self) -> frozenset[LfsOid]:
        """Return the oids of which parts may be here."""
        with told("look at incomplete LFS objects"):
            return frozenset(
                LfsOid(entry.name) for entry in _entries(self._layout.incompletes) if is_lfs_oid(entry.name)
            )

    def promote(self, incompletes: Sequence[Incomplete]) -> None:
        """Verify and promote several of this store's incompletes, flushing the disk for all of them at once."""
        waiting: list[FileIncomplete] = []
        for incomplete in incompletes:
            if not isinstance(incomplete, FileIncomplete):
                raise UsageError("this store promotes what it gave out itself")
            incomplete.verify()
            if not incomplete.here:
                waiting.append(incomplete)
        if len(waiting) < TOGETHER:
            for incomplete in waiting:
                incomplete.promote()
            return
        with told("keep LFS objects"):
            for incomplete in waiting:
                incomplete.finish()
            self._sync_bytes(waiting)
            shelves = [shelf for incomplete in waiting for shelf in self._layout.add_shelf(incomplete.pointer.oid)]
            for incomplete in waiting:
                incomplete.place()
            sync_file_system(self._layout.objects)
            self._layout.shelves_are_durable(shelves)
            for incomplete in waiting:
                incomplete.clear()

    def _sync_bytes(self, waiting: Sequence[FileIncomplete]) -> None:
        try:
            sync_file_system(self._layout.incompletes)
        except OSError:
            for incomplete in waiting:
                incomplete.lose()
            raise

    def _hold(self, oid: LfsOid) -> int:
        """Open and lock the data file; its lock counts only while it still has this name."""
        path = self._layout.data(oid)
        while True:
            fd = _open_writable(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise ObjectBusy(f"LFS object {oid} is being fetched by another run") from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(fd)):
                    return fd
            os.close(fd)  # promoted or swept between open and lock: that file is no longer ours to write

    # -- space

    def reserve(self, size: int) -> None:
        """Raise :class:`StorageFull` unless ``size`` more bytes fit above the reserve."""
        self._space.check(size)

    def reserved_bytes(self) -> int:
        """Return the free bytes that are left alone."""
        return self._space.reserve()

    def lacking(self, pointers: Sequence[Pointer]) -> int:
        """Return the bytes of disk that bringing these objects still takes."""
        return sum(self._lacking(pointer) for pointer in dict.fromkeys(pointers))

    def _lacking(self, pointer: Pointer) -> int:
        if self.has(pointer):
            return 0
        with told("look at an incomplete LFS object"):
            try:
                found = self._layout.data(pointer.oid).stat()
            except (FileNotFoundError, NotADirectoryError):
                return pointer.size
        return max(0, pointer.size - found.st_blocks * 512)

    def free_bytes(self) -> int:
        """Return the free bytes of the store's file system."""
        return self._space.free()

    # -- what is going

    def touch(self, oid: LfsOid) -> None:
        """Restart the object's grace period; does nothing when it is not here."""
        now = self._clock.now()
        with told("touch an LFS object"), contextlib.suppress(FileNotFoundError):
            os.utime(self._layout.object(oid), (now, now))

    def evict(self, oid: LfsOid, *, quarantine: bool) -> None:
        """Take an object out of the store; keep it aside for inspection when ``quarantine``."""
        path = self._layout.object(oid)
        with told("evict an LFS object"), contextlib.suppress(FileNotFoundError):
            if quarantine:
                path.rename(self._layout.aside(oid, at=self._clock.now()))
                sync_directory(self._layout.quarantine)
            else:
                path.unlink()
            sync_directory(path.parent)

    def evict_stale(self, oid: LfsOid, *, older_than: float) -> bool:
        """Delete an object whose grace began before the Unix time ``older_than``; ``False`` when it was touched since."""
        path, leaving = self._layout.object(oid), self._layout.leaving(oid)
        with told("evict an LFS object"), contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= older_than:
                return False
            path.rename(leaving)
            # From here on a touch finds nothing. One that came just before shows in the time.
            if leaving.stat().st_mtime >= older_than:
                leaving.rename(path)
                return False
            leaving.unlink()
            sync_directory(path.parent)
            return True
        return False

    def sweep_incompletes(self, *, older_than: float) -> int:
        """Delete incompletes not written since the Unix time ``older_than``, except those in use; return how many."""
        swept = 0
        with told("sweep incomplete LFS objects"):
            for oid in {LfsOid(entry.name[:64]) for entry in _entries(self._layout.incompletes)}:
                if is_lfs_oid(oid) and self._sweep(oid, older_than=older_than):
                    swept += 1
            if swept:
                sync_directory(self._layout.incompletes)
        return swept

    def _sweep(self, oid: LfsOid, *, older_than: float) -> bool:
        data, journal = self._layout.data(oid), self._layout.journal(oid)
        files = (journal, journal.with_name(journal.name + ".tmp"), self._layout.leaving(oid), data)
        if not _older(files, older_than):
            return False
        try:
            fd = self._hold(oid)
        except ObjectBusy:
            return False
        try:
            # The lock file may have been made just now, for the rest of a journal alone.
            if os.fstat(fd).st_size and not _older(files, older_than):
                return False
            for path in files:
                remove(path)
        finally:
            os.close(fd)
        return True


def _older(files: Iterable[Path], moment: float) -> bool:
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= moment:
                return False
    return True


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _open_writable(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT
    try:
        return os.open(path, flags, 0o600)
    except PermissionError:
        # Killed between "read-only" and the rename: the bytes are whole but not yet kept. Or
        # somebody is about to rename them, and holds the lock.
        with contextlib.suppress(FileNotFoundError):
            _make_writable(path)
        return os.open(path, flags, 0o600)


def _make_writable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(fd, 0o600)
    except BlockingIOError:
        raise ObjectBusy(f"LFS object {path.name} is being fetched by another run") from None
    finally:
        os.close(fd)
