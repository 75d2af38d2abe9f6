"""One after another, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mirror_sync.errors import MirrorSyncError

T = TypeVar("T")
R = TypeVar("R")


class OneByOne:
    """Runs each item in the caller's thread; implements :class:`mirror_sync.ports.Parallel` with nothing left to chance."""

    def each(self, function: Callable[[T], R], items: Iterable[T], *, limit: int) -> Iterator[tuple[T, R | Exception]]:
        assert limit >= 1
        for item in items:
            try:
                result: R | Exception = function(item)
            except MirrorSyncError as error:
                result = error
            yield item, result
