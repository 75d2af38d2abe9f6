"""An App for the worker's tests: a state store in memory, syncs that do what the test says.

Run as a program it is a whole worker process over such an App::

    python -m tests.support.worker_app '{"sync_seconds": 30, "mirrors": 2}'

It writes one line per event to standard output, so that a test can wait for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mirror_sync.clock import SystemClock
from mirror_sync.config import Settings, WorkerSettings
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Lease, NewMirror, Outcome, RunReport
from mirror_sync.errors import ConfigError, Interrupted
from mirror_sync.ports import Clock, Keep
from mirror_sync.testing.state import MemoryState


class EventWaker:
    def __init__(self) -> None:
        self._poked = threading.Event()

    def poke(self) -> None:
        self._poked.set()

    def wait(self, seconds: float) -> bool:
        poked = self._poked.wait(seconds)
        self._poked.clear()
        return poked

    def close(self) -> None:
        self._poked.set()


class Heard:
    """Telemetry that remembers, and lets a test wait for an event."""

    def __init__(self, on_event: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.changed = threading.Condition()
        self._on_event = on_event

    def event(self, name: str, **fields: object) -> None:
        with self.changed:
            self.events.append((name, fields))
            self.changed.notify_all()
        if self._on_event is not None:
            self._on_event(name, fields)

    def named(self, name: str) -> list[dict[str, Any]]:
        with self.changed:
            return [fields for event, fields in self.events if event == name]

    def wait_for(self, name: str, *, count: int = 1, seconds: float = 10.0) -> list[dict[str, Any]]:
        with self.changed:
            assert self.changed.wait_for(
                lambda: sum(1 for event, _ in self.events if event == name) >= count, seconds
            ), f"{name} was not heard {count} times: {self.events}"
        return self.named(name)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **fields: None


@dataclass
class Counted:
    reloads: list[str] = field(default_factory=list)
    published: int = 0

    def publish(self) -> None:
        self.published += 1

    def config_reloaded(self, *, result: str) -> None:
        self.reloads.append(result)


class FakeApp:
    def __init__(
        self, *, settings: Settings | None = None, clock: Clock | None = None, telemetry: Heard | None = None
    ) -> None:
        self.settings = settings or Settings(workers=WorkerSettings(git=2, drain_timeout=5.0, lease_seconds=60.0))
        self.clock = clock or SystemClock()
        self.state = MemoryState(self.clock)
        self.waker = EventWaker()
        self.telemetry = telemetry or Heard()
        self.metrics = Counted()
        self.on_sync: Callable[[Lease, threading.Event], Outcome] = lambda lease, stop: Outcome.UNCHANGED
        self.on_history: Callable[[threading.Event], int] = lambda stop: 0
        self.on_asked: Callable[[threading.Event], int] = lambda stop: 0
        self.maintenance: Lease | None = None
        self.on_maintain: Callable[[threading.Event], bool] = lambda stop: False
        self.on_declare: Callable[[], None] = lambda: None
        self.crashes: list[tuple[str, Exception]] = []
        self.sweeps = 0
        self.removed = 0
        self.recovered = False
        self.claims = 0
        self.calls: list[str] = []
        self.crowded: Callable[[], bool] = lambda: False

    def add(self, *names: str) -> None:
        for name in names:
            self.state.enrol(
                NewMirror(MirrorName(name), f"https://{name}", interval_seconds=3600.0, objective_seconds=7200.0)
            )

    def claim(self, worker: str) -> Lease | None:
        self.claims += 1
        return self.state.claim(worker, lease_seconds=self.settings.workers.lease_seconds)

    def sync(self, lease: Lease, *, stop: threading.Event, crowded: Callable[[], bool]) -> RunReport:
        self.crowded = crowded
        began = self.clock.now()
        outcome, code = Outcome.FAILED, Interrupted.code
        with contextlib.suppress(Interrupted):
            outcome, code = self.on_sync(lease, stop), ""
        report = RunReport(
            outcome=outcome, started_at=began, finished_at=self.clock.now(), next_due_at=self.clock.now() + 3600.0,
            code=code,
        )  # fmt: skip
        self.state.finish(lease, report)
        self.telemetry.event("synced", mirror=lease.mirror.name, outcome=outcome.value, code=code)
        return report

    def record_crash(self, lease: Lease, error: Exception) -> None:
        self.crashes.append((lease.mirror.name, error))
        self.telemetry.event("crash_recorded", mirror=lease.mirror.name)

    def fetch_history(self, worker: str, *, small: bool, stop: threading.Event) -> int:
        self.calls.append("history-small" if small else "history")
        return self.on_history(stop)

    def fetch_asked(self, *, stop: threading.Event) -> int:
        return self.on_asked(stop)

    def maintain_one(self, worker: str, *, keep: Keep) -> bool:
        self.calls.append("maintain")
        if self.maintenance is None:
            return False
        with keep(self.maintenance) as stop:
            return self.on_maintain(stop)

    def sweep(self, worker: str, *, keep: Keep, stop: threading.Event) -> None:
        self.sweeps += 1

    def remove_one(self, worker: str, *, keep: Keep) -> bool:
        self.calls.append("remove")
        return False

    def declare_mirrors(self) -> None:
        self.on_declare()

    def recover_all(self) -> None:
        self.recovered = True

    def close(self) -> None:
        self.waker.close()


def main(orders: dict[str, Any]) -> int:
    """Run a worker process that obeys ``orders``."""
    from mirror_sync.worker import run_worker

    def tell(name: str, fields: dict[str, Any]) -> None:
        os.write(1, (json.dumps([name, {key: str(value) for key, value in fields.items()}]) + "\n").encode())

    def sync(lease: Lease, stop: threading.Event) -> Outcome:
        tell("sync_began", {"mirror": lease.mirror.name})
        heeded = stop if orders.get("heeds_stop", True) else threading.Event()
        if heeded.wait(float(orders.get("sync_seconds", 0.0))):
            raise Interrupted
        return Outcome.PUBLISHED

    def load() -> Settings:
        if orders.get("reload") == "refused":
            raise ConfigError("the configuration is not valid", problems=("config.toml:3: no such key",))
        return replace(app.settings, written={**app.settings.written, "schedule.interval": "5m"})

    workers = WorkerSettings(git=int(orders.get("git", 2)), drain_timeout=float(orders.get("drain_timeout", 5.0)))
    app = FakeApp(settings=Settings(workers=workers), telemetry=Heard(tell))
    app.add(*(f"example.org/acme/r{number}" for number in range(int(orders.get("mirrors", 0)))))
    app.on_sync = sync
    if orders.get("database_away_after") is not None:
        away_at = app.clock.monotonic() + float(orders["database_away_after"])
        beat = app.state.beat

        def beat_or_fail(worker: str) -> None:
            if app.clock.monotonic() >= away_at:
                from mirror_sync.errors import StateUnavailable

                raise StateUnavailable
            beat(worker)

        app.state.beat = beat_or_fail  # type: ignore[method-assign]
    return run_worker(app, load=load, environment=dict(os.environ))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
