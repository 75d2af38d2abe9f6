"""Files that survive a power cut: written beside, flushed, renamed, and the directory flushed too."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mirror_sync.domain.figures import size_text
from mirror_sync.errors import RepositoryDamaged, StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSING = frozenset({errno.EIO, errno.EROFS})

SYNCS_AT_ONCE = 8

RESERVE_BYTES = 100 * 2**30
RESERVE_SHARE = 0.05


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_together(paths: Sequence[Path]) -> None:
    """Make files and the names in directories durable, all at the same time.

    A journalling file system commits what waits together at once, so several cost
    hardly more than one.  Raises what the first that failed raised, when all have ended.
    """
    with ThreadPoolExecutor(min(len(paths), SYNCS_AT_ONCE)) as pool:
        for done in [pool.submit(sync_file, path) for path in paths]:
            done.result()


def write_new(path: Path, data: bytes) -> None:
    """Write a new file durably, except for its name in the directory."""
    _write(path, data, sync=True)


def draft(path: Path, data: bytes) -> Path:
    """Write a new file that :func:`sync_together` is still to make durable, and return its path."""
    _write(path, data, sync=False)
    return path


def _write(path: Path, data: bytes, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Make ``data`` the durable content of ``path`` in one step: a reader sees the old file or the new one."""
    temporary = path.with_name(f"tmp_{path.name}")
    write_new(temporary, data)
    temporary.replace(path)
    sync_directory(path.parent)


def make_directories(path: Path) -> None:
    """Make a directory and the missing ones above it, durably."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(0o755)
        sync_directory(directory.parent)


def remove_tree(path: Path) -> bool:
    """Delete a directory and all below; ``False`` when it was not there.  Symlinks are deleted, never followed."""
    if not os.path.lexists(path):
        return False
    shutil.rmtree(path)
    return True


def remove_file(path: Path) -> bool:
    """Delete a file; ``False`` when it was not there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Translate what the file system says into the product's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"{where} has no space left", why=error.strerror or "") from error
        if error.errno in _REFUSING:
            raise RepositoryDamaged(
                f"{where} does not take writes",
                why=error.strerror or "",
                remedy="check the disk and the file system (dmesg, mount); serving goes on from what can be read",
            ) from error
        raise


class Space:
    """How much of a file system may still be filled.

    ``reserve`` is what stays free, in bytes; ``None`` means the smaller of 100 GiB
    and 5 % of the file system.
    """

    def __init__(self, directory: Path, reserve: int | None) -> None:
        self._directory = directory
        self._reserve = reserve

    def fits(self, needed: int) -> bool:
        """Tell whether ``needed`` more bytes fit above the reserve."""
        try:
            self.check(needed)
        except StorageFull:
            return False
        return True

    def check(self, needed: int = 0) -> None:
        """Raise :class:`StorageFull` unless ``needed`` more bytes fit above the reserve."""
        at = self._directory
        while not at.is_dir():
            at = at.parent
        state = os.statvfs(at)
        free = state.f_bavail * state.f_frsize
        reserve = self._reserve
        if reserve is None:
            reserve = min(RESERVE_BYTES, int(state.f_blocks * state.f_frsize * RESERVE_SHARE))
        if free - needed < reserve:
            raise StorageFull(
                f"{self._directory} has {size_text(free)} free and {size_text(reserve)} are kept in reserve",
                remedy="free space or move the storage to a larger disk; syncing goes on by itself then",
            )
        if state.f_files and not state.f_favail:
            raise StorageFull(
                f"{self._directory} has no inodes left", remedy="free space or use a file system with more inodes"
            )
