"""The one scheduler: it only ticks, what is due lives in the database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from mirror_sync.ports import Clock

QUICK_THREADS = 4
SLOW_THREADS = 12


class Ticker:
    """Calls functions at intervals, each never twice at once, late rather than never.

    Quick ticks share a few threads; slow ones (minutes of work) and lease renewal have
    threads of their own, so that neither can hold up the other.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        # "maximum number of running instances reached" is what keeps a slow job single, not news
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                "quick": ThreadPoolExecutor(QUICK_THREADS),
                "slow": ThreadPoolExecutor(SLOW_THREADS),
                "leases": ThreadPoolExecutor(1),
            },
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def every(
        self, seconds: float, function: Callable[[], None], *, name: str, lane: str = "quick", first: float = 0.0
    ) -> None:
        """Call ``function`` every ``seconds`` in ``lane`` (quick, slow or leases), ``first`` seconds from now on.

        A name that ticks already is replaced.
        """
        self._scheduler.add_job(
            function, "interval", seconds=seconds, id=name, name=name, executor=lane,
            next_run_time=self._from_now(first), replace_existing=True,
        )  # fmt: skip

    def soon(self, name: str) -> None:
        """Let the next tick of ``name`` come at once; nothing happens when it ticks no more."""
        try:
            self._scheduler.modify_job(name, next_run_time=self._from_now(0.0))
        except JobLookupError:
            return

    def drop(self, name: str) -> None:
        """Let ``name`` tick no more; a call that is running goes on."""
        try:
            self._scheduler.remove_job(name)
        except JobLookupError:
            return

    def realign(self) -> None:
        """Let every tick come at once: after the wall clock jumped back the next ones would be far away."""
        for job in self._scheduler.get_jobs():
            self.soon(job.id)

    def start(self) -> None:
        """Begin to tick."""
        self._scheduler.start()

    def stop(self) -> None:
        """End every tick; returns when the running ones have returned."""
        # without the pause a tick falling due meanwhile meets a closed thread pool
        self._scheduler.pause()
        self._scheduler.shutdown(wait=True)

    def _from_now(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC) + timedelta(seconds=seconds)
