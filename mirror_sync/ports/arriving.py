"""LFS objects while they arrive, for those who only read."""

from __future__ import annotations

from typing import Protocol

from mirror_sync.domain.parts import Part
from mirror_sync.domain.pointers import Pointer


class Arrival(Protocol):
    """One LFS object that another process may be bringing; looking at it disturbs nobody."""

    pointer: Pointer

    def look(self) -> list[Part]:
        """Look again, and return the ranges whose bytes are durable, ascending: all of them once it is verified.

        What is not verified yet may still be replaced, or go away.  Raises
        :class:`StorageFailed`.
        """

    @property
    def verified(self) -> bool:
        """Whether the last look found the verified object; from then on its bytes never change."""

    def read(self, start: int, end: int) -> bytes:
        """Return bytes that the last look found; fewer where they have gone since.  Raises :class:`StorageFailed`."""

    def close(self) -> None:
        """Let go; nobody may be reading any more."""


class Arrivals(Protocol):
    """Where LFS objects can be looked at while they arrive."""

    def watch(self, pointer: Pointer) -> Arrival:
        """Return a view of an object, whether anything of it is here or not; the caller closes it."""
