"""The paths of the store.

::

    objects/aa/bb/<oid>        verified, read-only; nothing unverified is ever here
    incomplete/<oid>           bytes as they arrive; whoever holds its flock may write
    incomplete/<oid>.parts     the journal: which of them are durable
    incomplete/<oid>.evicted   an object on its way out
    quarantine/<oid>.<time>    damaged at rest, kept for inspection
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from mirror_sync.domain.names import LfsOid, is_lfs_oid
from mirror_sync.errors import UsageError
from mirror_sync.lfs_store.durable import make_directory, sync_directory

LEAVING = ".evicted"


class Layout:
    """Names every path from the oid alone, and only from a true one."""

    def __init__(self, directory: Path) -> None:
        self.objects = directory / "objects"
        self.incompletes = directory / "incomplete"
        self.quarantine = directory / "quarantine"
        self._made: set[Path] = set()

    def make(self) -> None:
        """Make the store's own directories, durably."""
        for path in (self.objects, self.incompletes, self.quarantine):
            make_directory(path)

    def make_shelf(self, oid: LfsOid) -> Path:
        """Make the directory an object will stand in, durably, and return it."""
        shelf = self.object(oid).parent
        for path in (shelf.parent, shelf):
            # That a directory is there does not mean that its name is durable: whoever
            # made it may still be about to sync. Only what we synced ourselves counts.
            if path not in self._made:
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                sync_directory(path.parent)
                self._made.add(path)
        return shelf

    def add_shelf(self, oid: LfsOid) -> list[Path]:
        """Make the directory an object will stand in; return what is not known to be durable of its path."""
        shelf = self.object(oid).parent
        new = [path for path in (shelf.parent, shelf) if path not in self._made]
        for path in new:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
        return new

    def shelves_are_durable(self, shelves: Iterable[Path]) -> None:
        """Take note that everything was synced since these were made."""
        self._made.update(shelves)

    def object(self, oid: LfsOid) -> Path:
        """Return the final path of an object."""
        _check(oid)
        return self.objects / oid[:2] / oid[2:4] / oid

    def data(self, oid: LfsOid) -> Path:
        """Return the path of an incomplete's bytes."""
        _check(oid)
        return self.incompletes / oid

    def journal(self, oid: LfsOid) -> Path:
        """Return the path of an incomplete's journal."""
        _check(oid)
        return self.incompletes / f"{oid}.parts"

    def leaving(self, oid: LfsOid) -> Path:
        """Return where an object stands while it is being evicted."""
        _check(oid)
        return self.incompletes / f"{oid}{LEAVING}"

    def aside(self, oid: LfsOid, *, at: float) -> Path:
        """Return where a damaged object found at ``at`` is kept."""
        _check(oid)
        return self.quarantine / f"{oid}.{int(at)}"


def _check(oid: str) -> None:
    if not is_lfs_oid(oid):
        raise UsageError("an LFS oid is 64 lower-case hex digits")
