"""LFS objects at rest and as they arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer


class Incomplete(Protocol):
    """One LFS object with some parts on disk, held exclusively by this process.

    Several threads may write at once, each bytes of its own.  What came for a pointer
    that claims another size for this oid is not here, and stays for that one until bytes
    of this one are written.
    """

    pointer: Pointer

    def missing(self) -> list[tuple[int, int]]:
        """Make what was written durable; return the half-open ranges that are not here, ascending.

        Empty when the verified object is here already.
        """

    def reserve(self) -> None:
        """Set disk space aside for what is missing; raises :class:`StorageFull` when it does not fit above the reserve."""

    def write(self, offset: int, data: bytes, *, source: str = "") -> None:
        """Write ``data``, which ``source`` sent, at ``offset``; never past the object's size.

        Durable from time to time and at close, and so is who sent it.
        """

    def origins(self) -> list[tuple[int, int, str]]:
        """Return what is here as ascending ``(start, end, source)``; bytes whose source nobody named have none."""

    def read(self, start: int, end: int) -> bytes:
        """Return bytes that are here; shorter where the disk has lost some."""

    def agree(self, start: int, end: int) -> None:
        """Take note that bytes which are here came twice the same.

        Durable as they are themselves, until they are written again or all is forgotten.
        """

    def agreed(self) -> list[tuple[int, int]]:
        """Return what came twice the same, as ascending half-open ranges."""

    def restart(self) -> None:
        """Forget every part."""

    def verify(self) -> None:
        """Raise :class:`ObjectCorrupt`, keeping every part, unless the bytes have the right SHA-256.

        Raises :class:`UsageError` while any is missing.  Reads again only what was not
        hashed as it came.
        """

    def promote(self) -> None:
        """Verify, then make the object durable under its final path, read-only."""


class ObjectStore(Protocol):
    """LFS objects by oid, shared by all mirrors."""

    def has(self, pointer: Pointer) -> bool:
        """Tell whether the verified object is here."""

    def open(self, oid: LfsOid) -> BinaryIO:
        """Open a verified object for reading as a real file; raises :class:`NotFound`."""

    def place(self, oid: LfsOid) -> str:
        """Return where a verified object stands below the directory of all of them, whether it is here or not.

        For a server in front that sends the file itself.  Raises :class:`UsageError` for what is no oid.
        """

    def size(self, oid: LfsOid) -> int | None:
        """Return the bytes of a verified object, ``None`` when it is not here."""

    def incomplete(self, pointer: Pointer) -> AbstractContextManager[Incomplete]:
        """Hold this object's incomplete, made when absent; raises :class:`ObjectBusy` while another holds it."""

    def begun(self) -> frozenset[LfsOid]:
        """Return the oids of which parts may be here."""

    def promote(self, incompletes: Sequence[Incomplete]) -> None:
        """Verify and promote several of this store's incompletes; flushing the disk for all of them costs what few do.

        Raises :class:`ObjectCorrupt` before anything is promoted when one is wrong.
        """

    def reserve(self, size: int) -> None:
        """Raise :class:`StorageFull` unless ``size`` more bytes fit above the reserve."""

    def reserved_bytes(self) -> int:
        """Return the free bytes that are left alone."""

    def lacking(self, pointers: Sequence[Pointer]) -> int:
        """Return the bytes of disk that bringing these objects still takes.

        What is here of them, or set aside for them, takes no more.
        """

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
