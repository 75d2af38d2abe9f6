"""What strict checks found in the packs of a stage: each is looked at once, and a pack made of others inherits.

A record lies beside the stage's packs, by the pack's name.  It is not flushed: one that
a power cut took or tore is found out and made again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Self

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import GitFailed
from mirror_sync.repos.child import read_lines
from mirror_sync.repos.files import draft
from mirror_sync.repos.fsck import PackCheck, check_pack, check_quickly
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.stage import CHECKS, FSCK

_VERSION = "v1"


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
        self._keep(pack, check)
        return check

    def try_early(self, pack: str, *, stop: threading.Event, aside: bool = True) -> None:
        """Check a pack whose neighbours may still be missing; one that leans on those is left for later.

        Raises :class:`Interrupted` soon after ``stop`` is set.
        """
        if self._known(pack) is not None:
            return
        try:
            check = check_quickly(self._git, self._layout.stage_packs / pack, stop=stop, aside=aside)
        except GitFailed:
            return  # a later check says why
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
        """Tell whether every object of one pack is in one of the others; reads their sorted indexes side by side."""
        with ExitStack() as stack:
            inside = stack.enter_context(_Listing(self._git, self._index(made), self._object_format()))
            listings = [
                stack.enter_context(_Listing(self._git, self._index(pack), self._object_format())) for pack in packs
            ]
            theirs = (oid for oid, _ in groupby(merge(*(listing.oids() for listing in listings))))
            found = next(theirs, None)
            for oid in inside.oids():
                while found is not None and found < oid:
                    found = next(theirs, None)
                if found != oid:
                    for listing in (inside, *listings):
                        listing.kill()
                    return False
            for listing in listings:
                listing.kill()
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


class _Listing:
    """The ids in one pack's index, sorted, as git reads them."""

    def __init__(self, git: Git, index: Path, object_format: ObjectFormat) -> None:
        self._stream = index.open("rb")
        self._child = git.stream(["show-index", f"--object-format={object_format.value}"], stdin=self._stream)

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stream.close()
        self._child.__exit__(*raised)  # type: ignore[arg-type]  # handed on as it came

    def oids(self) -> Iterator[bytes]:
        for line in read_lines(self._child.stdout):
            yield line.split()[1]

    def kill(self) -> None:
        self._child.kill()


def write_down(path: Path, record: bytes) -> None:
    """Replace a record in one step, unflushed."""
    draft(path.with_name(f"tmp_{path.name}"), record).replace(path)
