"""Files and directories that are still there after a power cut, and errors told in our words."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.errors import MirrorSyncError, StorageFailed, StorageFull

_libc = ctypes.CDLL(None, use_errno=True)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
CANNOT_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn an :class:`OSError` inside into :class:`StorageFull` or :class:`StorageFailed`, saying ``what`` failed."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, what) from error


def storage_error(error: OSError, what: str) -> MirrorSyncError:
    """Return the error that says the same in our words."""
    if error.errno in FULL:
        return StorageFull(
            f"cannot {what}: the file system is full",
            why=os.strerror(error.errno or 0),
            remedy="free space on the LFS file system or give it more; transfers go on by themselves",
        )
    return StorageFailed(
        f"cannot {what}",
        why=f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else ""),
        remedy="check the LFS file system and its permissions, then the kernel's log",
    )


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """Make everything durable that the file system of ``path`` holds: for many files at once cheaper than one by one."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make a directory, and its parents, durable; does nothing when it is there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with contextlib.suppress(FileExistsError):  # another thread or process was quicker
        path.mkdir()
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data`` durably: after a crash it is the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, data, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_directory(path.parent)


def remove(path: Path) -> bool:
    """Delete a file; tell whether it was there.  The caller makes its directory durable."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write every byte at ``offset``; the kernel may take fewer at once."""
    written = os.pwrite(fd, data, offset)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        written += os.pwrite(fd, view[written:], offset + written)


def _find_fallocate() -> ctypes._NamedFuncPointer | None:
    # os.posix_fallocate writes a byte into every block where the file system cannot
    # allocate: minutes for a large object, and then it only slows the real writes.
    for name in ("fallocate64", "fallocate"):
        found: ctypes._NamedFuncPointer | None = getattr(_libc, name, None)
        if found is not None:
            found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
            found.restype = ctypes.c_int
            return found
    return None


_fallocate = _find_fallocate()


def allocate(fd: int, size: int) -> bool:
    """Set ``size`` bytes of disk aside for a file; ``False`` where the file system cannot, and nothing was done."""
    if _fallocate is None:
        return False
    while _fallocate(fd, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in CANNOT_ALLOCATE:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True
