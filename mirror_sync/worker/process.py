"""One worker process from start to drain: start-up, signals, the way out."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType

from mirror_sync.config import Settings
from mirror_sync.worker.loop import Worker
from mirror_sync.worker.notify import Notifier
from mirror_sync.worker.reload import reload
from mirror_sync.worker.work import Work

STOP_GRACE_SECONDS = 15.0
"""How long runs that were asked to stop may take to reach a point where the next start goes on."""

EXIT_CLEAN = 0
EXIT_CUT_OFF = 1


class Call(Enum):
    """What the main thread is called for."""

    DRAIN = auto()
    STOP = auto()
    RELOAD = auto()
    LOOK = auto()


SIGNALS: Mapping[signal.Signals, Call] = {
    signal.SIGTERM: Call.DRAIN,
    signal.SIGINT: Call.STOP,
    signal.SIGHUP: Call.RELOAD,
}


def run_worker(app: Work, *, load: Callable[[], Settings], environment: Mapping[str, str]) -> int:
    """Work until a signal ends it; return the exit status.

    SIGTERM drains: nothing more is claimed, running syncs may end for ``drain_timeout``
    and are then stopped where the next start goes on.  SIGINT, or a second SIGTERM,
    stops them at once; one more leaves without waiting.  SIGHUP reads the configuration
    again by ``load``.  Raises what start-up raises, before anything was claimed.
    Must be called in the main thread; ``app`` is closed by whoever made it.
    """
    process = WorkerProcess(app, load=load, notifier=Notifier.from_environment(environment))
    with process.signals():
        return process.run()


def worker_name() -> str:
    """Return a name that no other worker process has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


class WorkerProcess:
    """The main thread's part: it waits for calls and answers them one after another."""

    def __init__(self, app: Work, *, load: Callable[[], Settings], notifier: Notifier) -> None:
        self._app = app
        self._load = load
        self._notifier = notifier
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._worker = Worker(app, name=worker_name(), notifier=notifier, on_change=lambda: self._calls.put(Call.LOOK))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take the signals of the process while the ``with`` lasts."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def call(self, what: Call) -> None:
        """Call the main thread; from any thread, and from a signal handler."""
        self._calls.put(what)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.call(SIGNALS[signal.Signals(number)])

    def run(self) -> int:
        """Start, answer calls until one ends the process, wind down; return the exit status."""
        self._app.recover_all()
        self._app.declare_mirrors()
        self._worker.start()
        self._app.telemetry.event("worker_started")
        self._notifier.ready("looking for due mirrors")
        while True:
            call = self._calls.get()
            if call is Call.RELOAD:
                self._reload()
            elif call in (Call.DRAIN, Call.STOP):
                return self._wind_down(call)

    def _reload(self) -> None:
        self._notifier.reloading(monotonic=self._app.clock.monotonic())
        accepted = reload(self._app, self._load)
        self._notifier.ready(
            "looking for due mirrors" if accepted else "configuration refused; the old one is in force"
        )
        self._worker.look_soon()

    def _wind_down(self, call: Call) -> int:
        patience = 0.0 if call is Call.STOP else self._app.settings.workers.drain_timeout
        self._app.telemetry.event("worker_draining", mirrors=self._worker.busy_with(), seconds=patience)
        self._notifier.stopping("waiting for running syncs")
        self._worker.drain()
        self._wait_idle(patience)
        if not self._worker.is_idle():
            self._worker.stop_runs()
            self._wait_idle(STOP_GRACE_SECONDS)
        if not self._worker.is_idle():
            self._leave_now()
        self._worker.close()
        self._app.telemetry.event("worker_stopped")
        return EXIT_CLEAN

    def _wait_idle(self, seconds: float) -> None:
        """Wait until nothing runs, the time is over, or one more signal asks for the next stage."""
        clock = self._app.clock
        deadline = clock.monotonic() + seconds
        while not self._worker.is_idle():
            left = deadline - clock.monotonic()
            if left <= 0:
                return
            try:
                call = self._calls.get(timeout=left)
            except queue.Empty:
                return
            if call in (Call.DRAIN, Call.STOP):
                return

    def _leave_now(self) -> None:
        """End the process over what does not end: leases lapse, and the next start goes on from the disk."""
        self._app.telemetry.event("worker_cut_off", mirrors=self._worker.busy_with(), level="error")
        logging.shutdown()
        os._exit(EXIT_CUT_OFF)
