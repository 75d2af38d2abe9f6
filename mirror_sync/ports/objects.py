"""LFS objects at rest and as they arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer


class Incomplete(Protocol):
    """One LFS object with some parts on disk, held exclusively by this process and thread."""

    pointer: Pointer

    def missing(self) -> list[tuple[int, int]]:
        """Make what was written durable; return the half-open ranges that are not here, ascending.

        Empty when the verified object is here already.
        """

    def reserve(self) -> None:
        """Set disk space aside for what is missing; raises :class:`StorageFull` when it does not fit above the reserve."""

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``; never past the object's size.  Durable from time to time and at close."""

    def restart(self) -> None:
        """Forget every part."""

    def promote(self) -> None:
        """Verify size and SHA-256, make the object durable under its final path, read-only.

        Raises :class:`ObjectCorrupt` and forgets every part when the bytes are wrong;
        :class:`UsageError`, keeping them, while any is missing.
        """


class ObjectStore(Protocol):
    """LFS objects by oid, shared by all mirrors."""

    def has(self, pointer: Pointer) -> bool:
        """Tell whether the verified object is here."""

    def open(self, oid: LfsOid) -> BinaryIO:
        """Open a verified object for reading as a real file; raises :class:`NotFound`."""

    def size(self, oid: LfsOid) -> int | None:
        """Return the bytes of a verified object, ``None`` when it is not here."""

    def incomplete(self, pointer: Pointer) -> AbstractContextManager[Incomplete]:
        """Hold this object's incomplete, made when absent; raises :class:`ObjectBusy` while another holds it."""

    def reserve(self, size: int) -> None:
        """Raise :class:`StorageFull` unless ``size`` more bytes fit above the reserve."""

    def iterate(self) -> Iterator[tuple[Pointer, float]]:
        """Yield every verified object with the time it was last promoted or touched."""

    def verify(self, oid: LfsOid, *, stop: threading.Event | None = None) -> bool:
        """Read a whole object at rest and tell whether it still is what its oid says; raises :class:`NotFound`.

        Nothing is said against an object whose reading ``stop`` ended early.
        """

    def evict(self, oid: LfsOid, *, quarantine: bool) -> None:
        """Take an object out of the store; keep it aside for inspection when ``quarantine``."""

    def evict_stale(self, oid: LfsOid, *, older_than: float) -> bool:
        """Delete an object whose grace began before the Unix time ``older_than``; ``False`` when it was touched since.

        Safe against a :meth:`touch` at the same instant: either the object stays, or
        whoever touched it sees that it is not here.
        """

    def touch(self, oid: LfsOid) -> None:
        """Restart the object's grace period; does nothing when it is not here."""

    def sweep_incompletes(self, *, older_than: float) -> int:
        """Delete incompletes not written since the Unix time ``older_than``, except those in use; return how many."""

    def free_bytes(self) -> int:
        """Return the free bytes of the store's file system."""
