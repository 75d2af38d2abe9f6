"""What strict checks found in the packs of a stage: each is looked at once, and a pack made of others inherits.

A record lies beside the stage's packs, by the pack's name.  It is not flushed: one that
a power cut took or tore is found out and made again.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import GitFailed
from mirror_sync.repos.files import draft
from mirror_sync.repos.fsck import PackCheck, check_pack, check_quickly
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.salvage import id_bytes
from mirror_sync.repos.stage import CHECKS, FSCK

_VERSION = "v1"

_INDEX_HEAD = b"\377tOc" + (2).to_bytes(4)
"""Magic and version of a pack's index (gitformat-pack); the fan-out of 256 counts follows, then the ids, sorted."""

_IDS_BEGIN = len(_INDEX_HEAD) + 256 * 4

_IDS_AT_ONCE = 500_000
"""So many ids of one pack, about, are held at a time."""


class Checks:
    """The records of one mirror's stage; ``git`` sees the stage and what it borrows."""

    def __init__(self, layout: Layout, *, git: Git, object_format: Callable[[], ObjectFormat]) -> None:
        self._layout = layout
        self._git = git
        self._object_format = object_format

    def path(self, name: str) -> Path:
        """Return where the record of that name lies, in a directory that exists."""
        directory = self._layout.stage / CHECKS
        directory.mkdir(exist_ok=True)
        return directory / name

    def of(self, pack: str) -> PackCheck:
        """Return what is wrong in a pack of the stage, checking it when that was not done yet."""
        known = self._known(pack)
        if known is not None:
            return known
        check = check_pack(
            self._git,
            self._layout.stage_packs / pack,
            object_format=self._object_format(),
            scratch=self._layout.stage / FSCK,
        )
        if not check.lacks:
            self._keep(pack, check)
        return check

    def try_early(
        self,
        pack: str,
        *,
        stop: threading.Event | None = None,
        tick: Callable[[], None] | None = None,
        aside: bool = True,
    ) -> None:
        """Check a pack whose neighbours may still be missing; one that leans on those is left for later.

        Raises :class:`Interrupted` soon after ``stop`` is set; ``tick`` is called now and then and may raise.
        """
        if self._known(pack) is not None:
            return
        try:
            check = check_quickly(self._git, self._layout.stage_packs / pack, stop=stop, tick=tick, aside=aside)
        except GitFailed:
            return  # a later check says why
        if not check.lacks:
            self._keep(pack, check)

    def unchecked(self, packs: Iterable[str]) -> list[str]:
        """Return those of ``packs`` that were not checked yet."""
        return [pack for pack in sorted(packs) if self._known(pack) is None]

    def inherit(self, packs: Iterable[str], made: str) -> bool:
        """Let a pack that git made of others have what was found in ``packs``; tell whether it has.

        It has not, and is checked by itself, when one of them was not checked or ``made``
        holds an object that is in none of them.
        """
        together = PackCheck()
        sources = sorted(packs)
        for pack in sources:
            known = self._known(pack)
            if known is None:
                return False
            together.add(known)
        if not self._holds_only(made, sources):
            return False
        self._keep(made, together)
        return True

    def _holds_only(self, made: str, packs: Iterable[str]) -> bool:
        """Tell whether every object of one pack is in one of the others.

        A part of the ids is looked at at a time, so that neither memory nor descriptors
        grow with the packs.
        """
        try:
            inside = _Index(self._index(made), self._object_format())
            others = [_Index(self._index(pack), self._object_format()) for pack in packs]
            largest = max(index.objects for index in (inside, *others))
            step = max(1, 256 * _IDS_AT_ONCE // max(largest, 1))
            for first in range(0, 256, step):
                last = min(first + step, 256)
                left = inside.ids(first, last)
                for index in others:
                    if not left:
                        break
                    left -= index.ids(first, last)
                if left:
                    return False
        except (ValueError, FileNotFoundError):
            return False  # checking it by itself is always right
        return True

    def _index(self, pack: str) -> Path:
        return self._layout.stage_packs / f"{pack}.idx"

    def _known(self, pack: str) -> PackCheck | None:
        try:
            return PackCheck.from_json(self.path(f"{pack}.{_VERSION}.json").read_bytes())
        except FileNotFoundError:
            return None

    def _keep(self, pack: str, check: PackCheck) -> None:
        write_down(self.path(f"{pack}.{_VERSION}.json"), check.to_json())


class _Index:
    """The ids in one pack's index, by their first bytes; raises :class:`ValueError` for one that is not as git writes it."""

    def __init__(self, path: Path, object_format: ObjectFormat) -> None:
        self._path = path
        self._width = id_bytes(object_format)
        with path.open("rb") as stream:
            head = stream.read(_IDS_BEGIN)
        if len(head) < _IDS_BEGIN or not head.startswith(_INDEX_HEAD):
            raise ValueError(path.name)
        self._before: tuple[int, ...] = (0, *struct.unpack(">256I", head[len(_INDEX_HEAD) :]))

    @property
    def objects(self) -> int:
        """How many there are."""
        return self._before[-1]

    def ids(self, first: int, last: int) -> set[bytes]:
        """Return the ids whose first byte is at least ``first`` and below ``last``."""
        begin, end = self._before[first], self._before[last]
        if begin == end:
            return set()
        with self._path.open("rb") as stream:
            stream.seek(_IDS_BEGIN + begin * self._width)
            data = stream.read((end - begin) * self._width)
        if len(data) != (end - begin) * self._width:
            raise ValueError(self._path.name)
        return {data[at : at + self._width] for at in range(0, len(data), self._width)}


def write_down(path: Path, record: bytes) -> None:
    """Replace a record in one step, unflushed."""
    draft(path.with_name(f"tmp_{path.name}"), record).replace(path)
