"""The worker: looks for due mirrors, runs their syncs in a bounded pool, keeps house in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from mirror_sync.domain.runs import Lease, Outcome
from mirror_sync.errors import StateUnavailable
from mirror_sync.worker.edge import Edge
from mirror_sync.worker.leases import RENEWALS_PER_LEASE, Leases, Running
from mirror_sync.worker.notify import Notifier
from mirror_sync.worker.ticks import Ticker
from mirror_sync.worker.work import Work

LOOK_EVERY_SECONDS = 1.0
BEAT_EVERY_SECONDS = 10.0
BEATS_MISSED = 3
"""So many beats in a row that the database did not take are no progress."""

HISTORY_EVERY_SECONDS = 5.0
HISTORY_SLOTS = 3
ASKED_EVERY_SECONDS = 5.0
ASKED_SLOTS = 4
"""Mirrors for whose waiting clients LFS objects are fetched at the same time."""

UPKEEP_EVERY_SECONDS = 30.0
SWEEP_EVERY_SECONDS = 3600.0
SWEEP_FIRST_SECONDS = 60.0
CLOCK_JUMP_SECONDS = 5.0
MOST_RUNS_AT_ONCE = 1024

ASKED = tuple(f"asked-{slot}" for slot in range(ASKED_SLOTS))


class Worker:
    """Claims due mirrors and syncs them until it is told to drain.

    No thread, timer or process belongs to a mirror: the pool's threads take whichever
    is due, and everything else is a tick.  ``on_change`` is called from any thread
    whenever the number of running jobs fell.
    """

    def __init__(self, app: Work, *, name: str, notifier: Notifier, on_change: Callable[[], None]) -> None:
        self._app = app
        self._name = name
        self._notifier = notifier
        self._clock = app.clock
        self._edge = Edge(app.telemetry, clock=self._clock)
        self._ticker = Ticker(clock=self._clock)
        self._leases = Leases(on_change)
        self._kept = Leases(on_change)
        self._pool = ThreadPoolExecutor(MOST_RUNS_AT_ONCE, thread_name_prefix="sync")
        self._dispatching = threading.Lock()
        self._draining = False
        self._background_stop = threading.Event()
        self._background = 0
        self._background_lock = threading.Lock()
        self._on_change = on_change
        self._ended = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="listen")
        watchdog = notifier.watchdog_seconds
        self._beat_every = min(BEAT_EVERY_SECONDS, watchdog / 4) if watchdog else BEAT_EVERY_SECONDS
        self._beat_at = float("-inf")
        self._alive_at = float("-inf")

    # -- life
    def start(self) -> None:
        """Give a first sign of life, begin to tick and to listen."""
        self._beat()
        lease_seconds = self._app.settings.workers.lease_seconds
        every = self._ticker.every
        every(LOOK_EVERY_SECONDS, self._tick("look", self._look), name="look")
        every(
            lease_seconds / RENEWALS_PER_LEASE, self._tick("renew", self._renew), name="renew", lane="leases",
            first=lease_seconds / RENEWALS_PER_LEASE,
        )  # fmt: skip
        every(self._beat_every, self._tick("beat", self._beat), name="beat", first=self._beat_every)
        for slot in range(HISTORY_SLOTS):
            # one of them takes small objects alone, which so never stand behind large ones
            fetch = partial(self._fetch_history, small=slot == 0)
            every(HISTORY_EVERY_SECONDS, self._slow("history", fetch), name=f"history-{slot}", lane="slow")
        for name in ASKED:
            every(ASKED_EVERY_SECONDS, self._slow("asked", self._fetch_asked), name=name, lane="slow")
        every(UPKEEP_EVERY_SECONDS, self._slow("remove", self._remove), name="remove", lane="slow")
        every(UPKEEP_EVERY_SECONDS, self._slow("maintain", self._maintain), name="maintain", lane="slow")
        every(
            SWEEP_EVERY_SECONDS, self._slow("sweep", self._sweep), name="sweep", lane="slow", first=SWEEP_FIRST_SECONDS
        )
        self._ticker.start()
        self._listener.start()

    def drain(self) -> None:
        """Claim nothing more and end the housekeeping; running syncs go on.  Returns at once."""
        with self._dispatching:
            self._draining = True
        self._background_stop.set()
        self._kept.stop_all()
        for name in ("remove", "maintain", "sweep", *ASKED, *(f"history-{slot}" for slot in range(HISTORY_SLOTS))):
            self._ticker.drop(name)

    def stop_runs(self) -> None:
        """Ask the running syncs to end too, at a point where the next start goes on."""
        self._leases.stop_all()

    def is_idle(self) -> bool:
        """Tell whether neither a sync nor a housekeeping job is running."""
        with self._background_lock:
            return self._background == 0 and len(self._leases) == 0

    def busy_with(self) -> list[str]:
        """Return the mirrors whose syncs are running."""
        return self._leases.names()

    def close(self) -> None:
        """End the ticks and the threads of an idle worker."""
        self._ended.set()
        self._app.waker.poke()
        self._ticker.stop()
        self._listener.join()
        self._pool.shutdown(wait=True)

    def look_soon(self) -> None:
        """Look for due mirrors at once: there may be new ones."""
        self._ticker.soon("look")

    # -- looking for due mirrors
    def dispatch(self) -> None:
        """Claim due mirrors while there is room and start their syncs.

        One call claims; those that come meanwhile wait for it, so that the pool's bound
        holds whoever calls.
        """
        with self._dispatching:
            while not self._draining and len(self._leases) < self._app.settings.workers.git:
                if not self._begin_one():
                    return

    def is_crowded(self) -> bool:
        """Tell whether every place is taken while a mirror is due."""
        if self._draining or len(self._leases) < self._app.settings.workers.git:
            return False
        try:
            return self._app.state.anything_due()
        except StateUnavailable:
            return False  # whoever waits could not begin

    def _begin_one(self) -> bool:
        lease = self._app.claim(self._name)
        if lease is None:
            return False
        running = self._leases.begin(self._app, lease)
        try:
            self._pool.submit(self._run, running)
        except BaseException:
            self._leases.end(running)  # no thread was to be had; the lease lapses and is taken again
            raise
        return True

    def _look(self) -> None:
        self.dispatch()
        self._give_sign_of_life()

    def _listen(self) -> None:
        """Dispatch at once when poked, and notice when the wall clock jumps."""
        wall, steady = self._clock.now(), self._clock.monotonic()
        while not self._ended.is_set():
            if self._edge.run("listen", self._wait_for_poke):
                for name in ASKED:
                    self._ticker.soon(name)
                self._edge.run("look", self.dispatch)
            now, monotonic = self._clock.now(), self._clock.monotonic()
            jump = (now - wall) - (monotonic - steady)
            wall, steady = now, monotonic
            if abs(jump) > CLOCK_JUMP_SECONDS:
                self._app.telemetry.event("clock_jumped", seconds=round(jump, 3), level="warning")
                self._ticker.realign()

    def _wait_for_poke(self) -> bool:
        try:
            return self._app.waker.wait(LOOK_EVERY_SECONDS)
        except BaseException:
            # a waker that fails at once must not turn this loop into a spin
            self._clock.sleep(LOOK_EVERY_SECONDS, stop=self._ended)
            raise

    def _run(self, running: Running) -> None:
        lease = running.lease
        try:
            report = self._edge.run(
                "sync",
                lambda: self._app.sync(lease, stop=running.stop, crowded=self.is_crowded),
                mirror=lease.mirror.name,
                on_break=lambda error: self._app.record_crash(lease, error),
            )
        finally:
            self._leases.end(running)
        if report is not None and report.outcome in (Outcome.PUBLISHED, Outcome.HELD):
            for slot in range(HISTORY_SLOTS):
                self._ticker.soon(f"history-{slot}")
        self._edge.run("look", self.dispatch)

    # -- signs of life
    def _beat(self) -> None:
        self._app.state.beat(self._name)
        self._beat_at = self._clock.monotonic()
        self._app.metrics.publish()

    def _give_sign_of_life(self) -> None:
        """Ping the watchdog: only the loop that does the work gets here, and only after the database took a write."""
        if not self._notifier.watchdog_seconds:
            return
        now = self._clock.monotonic()
        stalled = now - self._beat_at > BEATS_MISSED * self._beat_every
        if stalled or now - self._alive_at < self._notifier.watchdog_seconds / 4:
            return
        self._alive_at = now
        self._notifier.alive()

    # -- housekeeping
    def _renew(self) -> None:
        try:
            self._leases.renew()
        finally:
            self._kept.renew()

    @contextmanager
    def _keep(self, lease: Lease) -> Iterator[threading.Event]:
        """Renew a lease that is no sync's while its work lasts."""
        kept = self._kept.begin(self._app, lease)
        if self._background_stop.is_set():
            kept.stop.set()
        try:
            yield kept.stop
        finally:
            self._kept.end(kept)

    def _fetch_history(self, *, small: bool) -> None:
        while not self._background_stop.is_set() and self._app.fetch_history(
            self._name, small=small, stop=self._background_stop
        ):
            pass

    def _fetch_asked(self) -> None:
        while not self._background_stop.is_set() and self._app.fetch_asked(stop=self._background_stop):
            pass

    def _maintain(self) -> None:
        while not self._background_stop.is_set() and self._app.maintain_one(self._name, keep=self._keep):
            pass

    def _remove(self) -> None:
        while not self._background_stop.is_set() and self._app.remove_one(self._name, keep=self._keep):
            pass

    def _sweep(self) -> None:
        self._app.sweep(self._name, keep=self._keep, stop=self._background_stop)

    def _tick(self, job: str, function: Callable[[], None]) -> Callable[[], None]:
        def tick() -> None:
            self._edge.run(job, function)

        return tick

    def _slow(self, job: str, function: Callable[[], None]) -> Callable[[], None]:
        def tick() -> None:
            with self._background_lock:
                if self._background_stop.is_set():
                    return
                self._background += 1
            try:
                self._edge.run(job, function)
            finally:
                with self._background_lock:
                    self._background -= 1
                self._on_change()

        return tick
