"""Whether LFS objects fit on the disk, asked before their first byte."""

from __future__ import annotations

from collections.abc import Sequence

from mirror_sync.domain.figures import objects_text, size_text
from mirror_sync.domain.pointers import Pointer
from mirror_sync.ports import ObjectStore


class Room:
    """The free space above the reserve, given away plan by plan.

    What this or another transfer has set aside on the disk is no longer free, so it is
    counted once, whoever asks.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._planned = 0

    def take(self, pointers: Sequence[Pointer]) -> str:
        """Plan to bring ``pointers`` and return the empty text; when they do not all fit, plan nothing and return the figures."""
        if not pointers:
            return ""
        needed = self._objects.lacking(pointers)
        free, reserve = self._objects.free_bytes(), self._objects.reserved_bytes()
        if self._planned + needed <= free - reserve:
            self._planned += needed
            return ""
        largest = max(pointer.size for pointer in pointers)
        before = f", {size_text(self._planned)} of it for refs that go before" if self._planned else ""
        return (
            f"needs {size_text(needed)} in {objects_text(len(pointers))}, largest {size_text(largest)}; "
            f"free {size_text(free)}{before}, reserve {size_text(reserve)}"
        )
