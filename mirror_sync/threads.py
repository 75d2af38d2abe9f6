"""Many at once, on threads."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from mirror_sync.errors import MirrorSyncError, UsageError

T = TypeVar("T")
R = TypeVar("R")


class ThreadParallel:
    """Threads that live as long as one :meth:`each`; implements :class:`mirror_sync.ports.Parallel`.

    Items are taken from the iterable one by one, in the caller's thread, when a place is
    free; each function call sees a copy of the caller's context variables.
    """

    def __init__(self, name: str = "parallel") -> None:
        self._name = name

    def each(self, function: Callable[[T], R], items: Iterable[T], *, limit: int) -> Iterator[tuple[T, R | Exception]]:
        """Yield ``(item, result or MirrorSyncError)`` as each finishes, at most ``limit`` at once, in any order.

        Any other exception, of ``function`` or of ``items``, is raised after the running
        ones have ended.  Leaving the loop early waits for them too.
        """
        if limit < 1:
            raise UsageError("at least one must be allowed to run")
        waiting = iter(items)
        with ThreadPoolExecutor(max_workers=limit, thread_name_prefix=self._name) as pool:
            running: dict[Future[R], T] = {}
            exhausted = False
            while True:
                while not exhausted and len(running) < limit:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        exhausted = True
                        break
                    running[pool.submit(contextvars.copy_context().run, function, item)] = item
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    outcome: R | Exception
                    try:
                        outcome = future.result()
                    except MirrorSyncError as error:
                        outcome = error
                    yield item, outcome
