"""LFS objects in memory."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import BinaryIO

from mirror_sync.domain.names import LfsOid, is_lfs_oid
from mirror_sync.domain.parts import Part, add, count, remove, subtract
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import NotFound, ObjectBusy, ObjectCorrupt, StorageFull, UsageError
from mirror_sync.ports import Clock, Incomplete


class MemoryIncomplete:
    """Some parts of one object; implements :class:`mirror_sync.ports.Incomplete`."""

    def __init__(self, pointer: Pointer, store: MemoryObjectStore) -> None:
        self.pointer = pointer
        self._store = store
        # Space is made for what arrives, not for what a pointer claims.
        self._data, self._parts = store.parts.get(pointer.oid, (bytearray(), []))
        self._from = store.sources.setdefault(pointer.oid, {})
        self._agreed = store.agreed.get(pointer.oid, [])
        self._guard = threading.Lock()
        # What came for another size stays until bytes of this one come.
        self._others = bool(self._parts) and store.sizes_tried.get(pointer.oid, pointer.size) != pointer.size

    def missing(self) -> list[Part]:
        if self._store.has(self.pointer):
            return []
        return subtract((0, self.pointer.size), [] if self._others else self._parts)

    def reserve(self) -> None:
        if not self._store.has(self.pointer):
            self._store.reserve(self.pointer.size - (0 if self._others else count(self._parts)))

    def write(self, offset: int, data: bytes, *, source: str = "") -> None:
        with self._guard:
            if self._others:
                self._others = False
                self._forget()
            self._store.sizes_tried[self.pointer.oid] = self.pointer.size
            end = offset + len(data)
            if offset < 0 or end > self.pointer.size or self._store.has(self.pointer):
                raise UsageError("those bytes are not part of what is missing")
            self._store.reserve(end - max(offset, len(self._data)) if end > len(self._data) else 0)
            if len(self._data) < end:
                self._data.extend(bytes(end - len(self._data)))
            self._data[offset:end] = data
            self._parts = add(self._parts, (offset, end))
            self._note_agreed(remove(self._agreed, (offset, end)))
            for name in self._from:
                self._from[name] = remove(self._from[name], (offset, end))
            if source:
                self._from[source] = add(self._from.get(source, []), (offset, end))
            self._store.parts[self.pointer.oid] = (self._data, self._parts)

    def origins(self) -> list[tuple[int, int, str]]:
        if self._others:
            return []
        with self._guard:
            named = [(start, end, source) for source, parts in self._from.items() for start, end in parts]
            rest = self._parts
        for start, end, _ in named:
            rest = remove(rest, (start, end))
        return sorted([*named, *((start, end, "") for start, end in rest)])

    def read(self, start: int, end: int) -> bytes:
        with self._guard:
            return bytes(self._data[start:end])

    def agree(self, start: int, end: int) -> None:
        with self._guard:
            self._note_agreed(add(self._agreed, (start, end)))

    def agreed(self) -> list[Part]:
        return [] if self._others else list(self._agreed)

    def _note_agreed(self, parts: list[Part]) -> None:
        self._agreed = self._store.agreed[self.pointer.oid] = parts

    def restart(self) -> None:
        with self._guard:
            if not self._others:
                self._forget()

    def _forget(self) -> None:
        self._note_agreed([])
        self._data, self._parts = bytearray(), []
        self._from = self._store.sources[self.pointer.oid] = {}
        self._store.parts.pop(self.pointer.oid, None)

    def verify(self) -> None:
        if self._store.has(self.pointer):
            return
        if self.missing():
            raise UsageError("parts are still missing")
        actual = hashlib.sha256(self._data).hexdigest()
        if actual != self.pointer.oid:
            raise ObjectCorrupt(expected=self.pointer.oid, actual=actual)

    def promote(self) -> None:
        if self._store.has(self.pointer):
            return
        self.verify()
        self._store.put(bytes(self._data))
        self.restart()

    def close(self) -> None:
        if self._parts:
            self._store.written[self.pointer.oid] = self._store.clock.now()
        else:
            self._store.written.pop(self.pointer.oid, None)
            self._store.sizes_tried.pop(self.pointer.oid, None)
            self._store.sources.pop(self.pointer.oid, None)
            self._store.agreed.pop(self.pointer.oid, None)


class MemoryObjectStore:
    """LFS objects as bytes in memory; implements :class:`mirror_sync.ports.ObjectStore`.

    ``capacity`` is how many bytes it may hold in all, ``None`` for no limit.
    """

    def __init__(self, clock: Clock, *, capacity: int | None = None) -> None:
        self.clock = clock
        self.capacity = capacity
        self.objects: dict[LfsOid, bytes] = {}
        self.times: dict[LfsOid, float] = {}
        self.quarantined: dict[LfsOid, bytes] = {}
        self.parts: dict[LfsOid, tuple[bytearray, list[Part]]] = {}
        self.sources: dict[LfsOid, dict[str, list[Part]]] = {}
        self.agreed: dict[LfsOid, list[Part]] = {}
        self.written: dict[LfsOid, float] = {}
        self.sizes_tried: dict[LfsOid, int] = {}
        self._held: set[LfsOid] = set()
        self._guard = threading.Lock()

    def put(self, data: bytes) -> Pointer:
        """Place a verified object, as if it had been promoted now."""
        pointer = Pointer(LfsOid(hashlib.sha256(data).hexdigest()), len(data))
        self.objects[pointer.oid] = data
        self.times[pointer.oid] = self.clock.now()
        return pointer

    def damage(self, oid: LfsOid) -> None:
        """Flip one bit of an object at rest."""
        data = bytearray(self.objects[oid])
        data[0] ^= 1
        self.objects[oid] = bytes(data)

    def has(self, pointer: Pointer) -> bool:
        return self.size(pointer.oid) == pointer.size

    def open(self, oid: LfsOid) -> BinaryIO:
        if oid not in self.objects:
            raise NotFound(f"LFS object {oid} is not here")
        return BytesIO(self.objects[oid])

    def place(self, oid: LfsOid) -> str:
        if not is_lfs_oid(oid):
            raise UsageError("an LFS oid is 64 lower-case hex digits")
        return oid

    def size(self, oid: LfsOid) -> int | None:
        data = self.objects.get(oid)
        return None if data is None else len(data)

    @contextlib.contextmanager
    def incomplete(self, pointer: Pointer) -> Iterator[MemoryIncomplete]:
        with self._guard:
            if pointer.oid in self._held:
                raise ObjectBusy
            self._held.add(pointer.oid)
        try:
            incomplete = MemoryIncomplete(pointer, self)
            try:
                yield incomplete
            finally:
                incomplete.close()
        finally:
            with self._guard:
                self._held.discard(pointer.oid)

    def begun(self) -> frozenset[LfsOid]:
        return frozenset(self.parts) | frozenset(self._held)

    def promote(self, incompletes: Sequence[Incomplete]) -> None:
        for incomplete in incompletes:
            incomplete.verify()
        for incomplete in incompletes:
            incomplete.promote()

    def reserve(self, size: int) -> None:
        if self.capacity is not None and size > self.free_bytes():
            raise StorageFull(f"{size} bytes do not fit")

    def reserved_bytes(self) -> int:
        return 0

    def lacking(self, pointers: Sequence[Pointer]) -> int:
        return sum(
            pointer.size - count(self.parts.get(pointer.oid, (b"", []))[1])
            for pointer in dict.fromkeys(pointers)
            if not self.has(pointer)
        )

    def free_bytes(self) -> int:
        held = sum(map(len, self.objects.values())) + sum(count(parts) for _, parts in self.parts.values())
        return (1 << 62) - held if self.capacity is None else self.capacity - held

    def iterate(self) -> Iterator[tuple[Pointer, float]]:
        for oid, data in sorted(self.objects.items()):
            yield Pointer(oid, len(data)), self.times[oid]

    def verify(self, oid: LfsOid, *, stop: threading.Event | None = None) -> bool:
        if stop is not None and stop.is_set():
            return True
        return hashlib.sha256(self.open(oid).read()).hexdigest() == oid

    def evict(self, oid: LfsOid, *, quarantine: bool) -> None:
        data = self.objects.pop(oid, None)
        if data is not None and quarantine:
            self.quarantined[oid] = data
        self.times.pop(oid, None)

    def evict_stale(self, oid: LfsOid, *, older_than: float) -> bool:
        if oid not in self.objects or self.times[oid] >= older_than:
            return False
        self.evict(oid, quarantine=False)
        return True

    def touch(self, oid: LfsOid) -> None:
        if oid in self.objects:
            self.times[oid] = self.clock.now()

    def sweep_incompletes(self, *, older_than: float) -> int:
        stale = [oid for oid, at in self.written.items() if at < older_than and oid not in self._held]
        for oid in stale:
            del self.parts[oid], self.written[oid]
            self.sources.pop(oid, None)
            self.sizes_tried.pop(oid, None)
        return len(stale)
