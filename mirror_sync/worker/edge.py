"""Where everything that a worker thread raises ends: in one log line, never in a dead thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from mirror_sync.errors import Interrupted, LeaseLost, MirrorSyncError
from mirror_sync.ports import Clock, Telemetry

T = TypeVar("T")

REPEAT_EVERY_SECONDS = 60.0


class Edge:
    """Runs jobs and turns what they raise into log lines.

    The same complaint of the same job is repeated once a minute only: a database that
    is away for an hour must not fill the disk through the log.
    """

    def __init__(self, telemetry: Telemetry, *, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._failing: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def run(
        self,
        job: str,
        function: Callable[[], T],
        *,
        mirror: str = "",
        on_break: Callable[[Exception], None] | None = None,
    ) -> T | None:
        """Return what ``function`` returns, or ``None`` when it raised.

        ``on_break`` hears of what no room foresaw, a fault of our own.
        """
        try:
            result = function()
        except (LeaseLost, Interrupted) as error:
            self._telemetry.event("job_ended_early", job=job, mirror=mirror, code=error.code, level="debug")
            return None
        except MirrorSyncError as error:
            if self._is_news(job, error.code):
                self._telemetry.event(
                    "job_failed", job=job, mirror=mirror, code=error.code, why=str(error), level="warning"
                )
            return None
        except Exception as error:  # noqa: BLE001 - the worker's edge, the one place where anything may end
            if self._is_news(job, type(error).__name__):
                self._telemetry.event("job_broke", job=job, mirror=mirror, level="error", exc_info=error)
            if on_break is not None:
                broken = error
                self.run(f"{job}-record", lambda: on_break(broken), mirror=mirror)
            return None
        self._recovered(job)
        return result

    def _is_news(self, job: str, what: str) -> bool:
        now = self._clock.monotonic()
        with self._lock:
            before, said_at = self._failing.get(job, ("", 0.0))
            if before == what and now - said_at < REPEAT_EVERY_SECONDS:
                return False
            self._failing[job] = (what, now)
            return True

    def _recovered(self, job: str) -> None:
        with self._lock:
            was = self._failing.pop(job, None)
        if was is not None:
            self._telemetry.event("job_recovered", job=job, after=was[0])
