from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from mirror_sync.domain.runs import Lease, Outcome, Trigger
from mirror_sync.errors import Interrupted, StateUnavailable
from mirror_sync.worker import loop
from mirror_sync.worker.loop import Worker
from mirror_sync.worker.notify import Notifier
from tests.support.worker_app import FakeApp

NAMES = [f"example.org/acme/r{number}" for number in range(7)]


@pytest.fixture
def app() -> FakeApp:
    return FakeApp()


@pytest.fixture
def worker(app: FakeApp) -> Iterator[Worker]:
    worker = Worker(app, name="w", notifier=Notifier(), on_change=lambda: None)
    worker.start()
    yield worker
    worker.drain()
    worker.stop_runs()
    worker.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait at most ten seconds for what other threads do."""
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("it never came true")


class Gate:
    """Syncs that wait at a gate, counted."""

    def __init__(self, app: FakeApp) -> None:
        self.open = threading.Event()
        self.inside = 0
        self.most = 0
        self.changed = threading.Condition()
        app.on_sync = self.sync

    def sync(self, lease: Lease, stop: threading.Event) -> Outcome:
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
        try:
            while not self.open.wait(0.01):
                if stop.is_set():
                    raise Interrupted
        finally:
            with self.changed:
                self.inside -= 1
        return Outcome.PUBLISHED

    def wait_inside(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.inside >= count, 10)


def test_every_due_mirror_is_synced_within_the_bound(app: FakeApp, worker: Worker) -> None:
    gate = Gate(app)
    app.add(*NAMES)
    app.waker.poke()
    gate.wait_inside(2)
    gate.open.set()
    synced = app.telemetry.wait_for("synced", count=len(NAMES))
    assert sorted(fields["mirror"] for fields in synced) == NAMES
    assert gate.most == app.settings.workers.git == 2


def test_a_poke_does_not_wait_for_the_next_look(app: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY_SECONDS", 3600.0)
    worker = Worker(app, name="w", notifier=Notifier(), on_change=lambda: None)
    worker.start()
    try:
        app.add(NAMES[0])
        app.waker.poke()
        app.telemetry.wait_for("synced")
        app.state.mark_due(app.state.mirror(NAMES[0]).id, Trigger.WEBHOOK)  # type: ignore[arg-type]
        app.waker.poke()
        app.telemetry.wait_for("synced", count=2)
    finally:
        worker.drain()
        app.waker.poke()
        worker.close()


def test_without_a_poke_the_next_look_finds_it(app: FakeApp, worker: Worker) -> None:
    app.add(NAMES[0])
    app.telemetry.wait_for("synced")


def test_draining_claims_nothing_and_lets_runs_end(app: FakeApp, worker: Worker) -> None:
    gate = Gate(app)
    app.add(*NAMES)
    app.waker.poke()
    gate.wait_inside(2)
    worker.drain()
    assert not worker.is_idle()
    assert len(worker.busy_with()) == 2
    gate.open.set()
    app.telemetry.wait_for("synced", count=2)
    claims = app.claims
    worker.dispatch()
    assert app.claims == claims
    assert len(app.telemetry.named("synced")) == 2


def test_stopped_runs_end_where_they_can_go_on(app: FakeApp, worker: Worker) -> None:
    gate = Gate(app)
    app.add(*NAMES)
    app.waker.poke()
    gate.wait_inside(2)
    worker.drain()
    worker.stop_runs()
    assert {fields["code"] for fields in app.telemetry.wait_for("synced", count=2)} == {"MS-R503"}


def test_a_fault_of_our_own_is_recorded_and_the_worker_goes_on(app: FakeApp, worker: Worker) -> None:
    def sync(lease: Lease, stop: threading.Event) -> Outcome:
        if lease.mirror.name == NAMES[0]:
            raise ZeroDivisionError
        return Outcome.UNCHANGED

    app.on_sync = sync
    app.add(*NAMES)
    app.waker.poke()
    app.telemetry.wait_for("synced", count=len(NAMES) - 1)
    app.telemetry.wait_for("crash_recorded")
    assert [(name, type(error)) for name, error in app.crashes] == [(NAMES[0], ZeroDivisionError)]


def test_a_database_that_comes_back_is_used_again(
    app: FakeApp, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = app.claim

    def away(worker: str) -> Lease | None:
        raise StateUnavailable

    monkeypatch.setattr(app, "claim", away)
    app.add(NAMES[0])
    app.telemetry.wait_for("job_failed")
    monkeypatch.setattr(app, "claim", claim)
    app.telemetry.wait_for("synced")
    app.telemetry.wait_for("job_recovered")


def test_a_waker_that_fails_does_not_spin(app: FakeApp, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def broken(seconds: float) -> bool:
        waits.append(seconds)
        raise OSError("socket is gone")

    monkeypatch.setattr(app.waker, "wait", broken)
    app.add(NAMES[0])
    app.telemetry.wait_for("job_broke")
    app.telemetry.wait_for("synced")
    assert len(waits) < 10


def test_housekeeping_goes_on_until_nothing_is_left(app: FakeApp, worker: Worker) -> None:
    left = [3]
    done = threading.Event()

    def history(stop: threading.Event) -> int:
        if left[0] == 0:
            done.set()
            return 0
        left[0] -= 1
        return 5

    app.on_history = history
    app.add(NAMES[0])
    app.on_sync = lambda lease, stop: Outcome.PUBLISHED  # a publish asks for the history at once
    app.waker.poke()
    assert done.wait(10)
    until(lambda: {"maintain", "remove"} <= set(app.calls))


def test_draining_stops_housekeeping(app: FakeApp) -> None:
    stopped = threading.Event()

    def maintain(stop: threading.Event) -> bool:
        if stop.wait(10):
            stopped.set()
        return True

    app.on_maintain = maintain
    app.add(NAMES[0])
    mirror = app.state.mirror(NAMES[0])
    app.maintenance = app.state.claim_mirror(mirror.id, "w", lease_seconds=60.0, purpose="maintenance")
    idle = threading.Event()
    worker = Worker(app, name="w", notifier=Notifier(), on_change=idle.set)
    worker.start()
    until(lambda: "maintain" in app.calls)
    worker.drain()
    assert stopped.wait(10)
    worker.close()
    assert worker.is_idle()
    assert app.calls.count("maintain") == 1


def test_a_maintenance_that_lost_its_lease_is_told_to_stop(app: FakeApp) -> None:
    stopped = threading.Event()

    def maintain(stop: threading.Event) -> bool:
        if stop.wait(20):
            stopped.set()
        return False

    app.on_maintain = maintain
    app.add(NAMES[0])
    mirror = app.state.mirror(NAMES[0])
    app.settings = replace(app.settings, workers=replace(app.settings.workers, lease_seconds=0.6))
    lease = app.state.claim_mirror(mirror.id, "w", lease_seconds=60.0, purpose="maintenance")
    assert lease is not None
    app.maintenance = replace(lease, token=lease.token - 1)
    worker = Worker(app, name="w", notifier=Notifier(), on_change=lambda: None)
    worker.start()
    try:
        assert stopped.wait(15)
    finally:
        worker.drain()
        worker.close()


def test_a_clock_that_jumps_back_stalls_nothing(app: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(app, name="w", notifier=Notifier(), on_change=lambda: None)
    worker.start()
    try:
        now = app.clock.now
        monkeypatch.setattr(app.clock, "now", lambda: now() - 86400.0)
        app.waker.poke()
        (told,) = app.telemetry.wait_for("clock_jumped")
        assert told["seconds"] == pytest.approx(-86400.0, abs=5)
    finally:
        worker.drain()
        worker.close()


def test_the_worker_beats_before_it_claims(app: FakeApp, worker: Worker) -> None:
    assert list(app.state.workers()) == ["w"]


def test_a_run_is_told_when_others_wait_for_its_place(app: FakeApp, worker: Worker) -> None:
    gate = Gate(app)
    app.add(*NAMES[:2])
    app.waker.poke()
    gate.wait_inside(2)
    assert not app.crowded()
    app.add(NAMES[2])
    assert app.crowded()
    due = app.state.anything_due

    def away() -> bool:
        raise StateUnavailable

    app.state.anything_due = away  # type: ignore[method-assign]
    assert not app.crowded()
    app.state.anything_due = due  # type: ignore[method-assign]
    worker.drain()
    assert not app.crowded(), "nobody gets the place of a run that leaves now"
    gate.open.set()
    until(worker.is_idle)


def test_a_free_place_is_not_crowded_whatever_is_due(app: FakeApp, worker: Worker) -> None:
    worker.drain()
    app.add(NAMES[0])
    assert app.state.anything_due()
    assert not worker.is_crowded()


def test_one_lane_takes_small_objects_alone(app: FakeApp, worker: Worker) -> None:
    until(lambda: {"history-small", "history"} <= set(app.calls))


def test_what_a_held_run_left_is_taken_up_at_once(app: FakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HISTORY_EVERY_SECONDS", 3600.0)
    app.on_sync = lambda lease, stop: Outcome.HELD
    worker = Worker(app, name="w", notifier=Notifier(), on_change=lambda: None)
    worker.start()
    try:
        until(lambda: {"history-small", "history"} <= set(app.calls))
        before = len(app.calls)
        app.add(NAMES[0])
        app.waker.poke()
        app.telemetry.wait_for("synced")
        until(lambda: {"history-small", "history"} <= set(app.calls[before:]))
    finally:
        worker.drain()
        worker.close()
