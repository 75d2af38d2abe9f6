from __future__ import annotations

from typing import Any

import pytest

from mirror_sync.domain.runs import Lease
from mirror_sync.errors import LeaseLost, StateUnavailable
from mirror_sync.testing.clock import HandClock
from mirror_sync.worker import leases
from mirror_sync.worker.leases import Leases
from tests.support.worker_app import FakeApp


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEAVING_SECONDS", 0.0)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def app(clock: HandClock) -> FakeApp:
    app = FakeApp(clock=clock)
    app.add("example.org/acme/a", "example.org/acme/b")
    return app


def claim(app: FakeApp) -> Lease:
    lease = app.claim("w")
    assert lease is not None
    return lease


def test_a_renewed_lease_outlives_its_first_end(app: FakeApp, clock: HandClock) -> None:
    held = Leases(lambda: None)
    running = held.begin(app, claim(app))
    for _ in range(5):
        clock.advance(40)
        held.renew()
    assert not running.stop.is_set()
    app.state.confirm(running.lease)


def test_a_lost_lease_stops_its_sync_and_is_told_once(app: FakeApp, clock: HandClock) -> None:
    held = Leases(lambda: None)
    lost, kept = held.begin(app, claim(app)), held.begin(app, claim(app))
    clock.advance(50)
    app.state.renew(kept.lease, lease_seconds=600)
    clock.advance(11)
    assert claim(app).mirror.id == lost.lease.mirror.id  # another worker's now
    held.renew()
    held.renew()
    assert lost.stop.is_set()
    assert not kept.stop.is_set()
    assert [fields["mirror"] for fields in app.telemetry.named("lease_lost")] == [lost.lease.mirror.name]


def test_a_database_away_stops_a_sync_only_when_its_lease_ran_out(
    app: FakeApp, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Leases(lambda: None)
    running = held.begin(app, claim(app))

    def away(*args: Any, **more: Any) -> None:
        raise StateUnavailable

    monkeypatch.setattr(app.state, "renew", away)
    clock.advance(59)
    with pytest.raises(StateUnavailable):
        held.renew()
    assert not running.stop.is_set()
    clock.advance(2)
    with pytest.raises(StateUnavailable):
        held.renew()
    assert running.stop.is_set()


def test_one_failure_does_not_keep_the_others_from_renewal(
    app: FakeApp, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Leases(lambda: None)
    first, second = held.begin(app, claim(app)), held.begin(app, claim(app))
    renew = app.state.renew

    def flaky(lease: Lease, *, lease_seconds: float) -> None:
        if lease.mirror.id == first.lease.mirror.id:
            raise StateUnavailable
        renew(lease, lease_seconds=lease_seconds)

    monkeypatch.setattr(app.state, "renew", flaky)
    clock.advance(40)
    with pytest.raises(StateUnavailable):
        held.renew()
    clock.advance(40)
    app.state.confirm(second.lease)
    with pytest.raises(LeaseLost):
        app.state.confirm(first.lease)


def test_ending_tells_and_empties(app: FakeApp) -> None:
    ended: list[int] = []
    held = Leases(lambda: ended.append(len(held)))
    running = held.begin(app, claim(app))
    assert held.names() == [running.lease.mirror.name]
    assert len(held) == 1
    held.stop_all()
    assert running.stop.is_set()
    held.end(running)
    assert ended == [0]
    assert held.names() == []
