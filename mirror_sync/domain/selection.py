"""Which LFS objects a mirror keeps: by path, by size, by the age of the commits that refer to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from mirror_sync.domain.figures import size_text
from mirror_sync.domain.wildmatch import Wildcard

UNJUDGED = "it was found just now and nobody has looked at it yet"
OLD = "only commits older than those that this mirror looks at refer to it"
ELSEWHERE = "it lies at no path that this mirror keeps"
ELSEWHERE_OR_OLD = "the commits that this mirror looks at refer to it at no path that it keeps"


class PathPattern:
    """One pattern as ``lfs.fetchinclude`` and ``lfs.fetchexclude`` have them: a line of ``gitignore(5)``.

    A pattern without a slash before its end stands for a name anywhere; any other for a
    path from the top.  Whatever matches a directory matches all that is below it; with a
    slash at its end a pattern matches directories alone.
    """

    def __init__(self, text: str) -> None:
        pattern = text.encode("utf-8", "surrogateescape")
        self._directories = pattern.endswith(b"/")
        stem = pattern.rstrip(b"/")
        self._anchored = b"/" in stem
        self._wildcard = Wildcard(stem.removeprefix(b"/"))
        self.sound = bool(stem.strip(b"/")) and self._wildcard.sound
        """Whether it can match anything at all."""

    def matches(self, path: bytes) -> bool:
        """Tell whether the pattern matches the file at ``path`` or a directory above it."""
        begin = 0
        while True:
            end = path.find(b"/", begin)
            if end == -1:
                return not self._directories and self._wildcard.matches(path if self._anchored else path[begin:])
            if self._wildcard.matches(path[:end] if self._anchored else path[begin:end]):
                return True
            begin = end + 1


class _Paths:
    """The patterns of one selection, compiled once."""

    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self._include = [PathPattern(text) for text in include]
        self._exclude = [PathPattern(text) for text in exclude]

    def take(self, path: bytes) -> bool:
        if self._include and not any(pattern.matches(path) for pattern in self._include):
            return False
        return not any(pattern.matches(path) for pattern in self._exclude)


@dataclass(frozen=True)
class Selection:
    """What a mirror keeps of the LFS objects that its history refers to; by itself everything.

    An object is kept when it is not larger than ``max_object`` bytes and lies, in a
    commit that counts, at a path that ``include`` names (empty: any) and ``exclude`` does
    not.  The tips' own commits always count; the others unless they are older than
    ``recent`` seconds.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_object: int | None = None
    recent: float | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self == Selection()

    @property
    def by_place(self) -> bool:
        """Whether it matters which commits refer to an object, and at which path."""
        return bool(self.include or self.exclude or self.recent is not None)

    @cached_property
    def name(self) -> str:
        """A short name that differs whenever the selection does; empty when nothing is left out."""
        if self.everything:
            return ""
        told = repr((self.include, self.exclude, self.max_object, self.recent))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @cached_property
    def _paths(self) -> _Paths:
        return _Paths(self.include, self.exclude)

    def takes_path(self, path: str) -> bool:
        """Tell whether a file at ``path`` may bring an object in."""
        if not self.include and not self.exclude:
            return True
        return self._paths.take(path.encode("utf-8", "surrogateescape"))

    def takes_size(self, size: int) -> bool:
        """Tell whether an object of so many bytes is kept."""
        return self.max_object is None or size <= self.max_object

    @property
    def too_large(self) -> str:
        """Why an object is left out that is too large."""
        return f"it is larger than this mirror keeps ({size_text(self.max_object or 0)})"

    @property
    def out_of_place(self) -> str:
        """Why an object is left out that no commit that counts refers to at a path that is kept."""
        if self.recent is None:
            return ELSEWHERE
        return ELSEWHERE_OR_OLD if self.include or self.exclude else OLD
