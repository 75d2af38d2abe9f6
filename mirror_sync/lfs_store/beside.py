"""Work done beside a download, in order, on a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]
WAITING = 16
"""Jobs that may wait; with pieces of 1 MiB this bounds the memory of one lane."""


class Lane:
    """Does jobs one after another; the thread begins with the first.

    When a job raises, the later ones are dropped and the next :meth:`put` or
    :meth:`finish` raises the same.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.Queue[Job | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self.dropped = False
        """Set once nobody wants the rest; long jobs look at it."""

    def put(self, job: Job) -> None:
        """Queue a job; waits while too many do."""
        self._begin()
        self._jobs.put(job)

    def offer(self, job: Job) -> bool:
        """Queue a job unless too many wait; tell whether it was."""
        self._begin()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def _begin(self) -> None:
        self._complain()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def idle(self) -> bool:
        """Tell whether every job is done; raises what one raised."""
        self._complain()
        return self._jobs.unfinished_tasks == 0

    def finish(self) -> None:
        """Wait until every job is done; raises what one raised."""
        self._jobs.join()
        self._complain()

    def rest(self) -> None:
        """Wait until every job is done and forget what failed: the caller does the same work itself now."""
        self._jobs.join()
        self._failed = None

    def drop(self) -> None:
        """End the thread without doing what still waits."""
        self.dropped = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _complain(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                if not self.dropped and self._failed is None:
                    job()
            except BaseException as error:  # noqa: BLE001 - raised again where the owner waits for the job
                self._failed = error
            finally:
                self._jobs.task_done()
