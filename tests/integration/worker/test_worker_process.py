"""A whole worker process under signals, with a service manager that listens."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.support.lines import Telling
from tests.support.manager import Manager

MODULE = "tests.support.worker_app"


def worker(manager: Manager | None = None, **orders: Any) -> Telling:
    environment = {"NOTIFY_SOCKET": manager.address} if manager else {}
    if "watchdog_seconds" in orders:
        environment["WATCHDOG_USEC"] = str(int(orders.pop("watchdog_seconds") * 1e6))
    return Telling(MODULE, orders, environment=environment)


def test_an_idle_worker_tells_its_life_to_systemd() -> None:
    with Manager() as manager, worker(manager) as process:
        manager.wait_for("READY=1")
        process.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert process.ends() == 0


def test_draining_lets_a_running_sync_end_well() -> None:
    with worker(sync_seconds=2, mirrors=1, drain_timeout=30) as process:
        process.wait_for("sync_began")
        process.signal(signal.SIGTERM)
        process.wait_for("synced", outcome="published")
        process.wait_for("worker_stopped")
        assert process.ends() == 0


def test_after_the_drain_time_out_runs_are_stopped() -> None:
    with worker(sync_seconds=60, mirrors=3, git=2, drain_timeout=0.5) as process:
        process.wait_for("sync_began")
        process.wait_for("sync_began")
        process.signal(signal.SIGTERM)
        process.wait_for("synced", code="MS-R503")
        process.wait_for("synced", code="MS-R503")
        process.wait_for("worker_stopped")
        assert process.ends() == 0


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
)
def test_an_impatient_operator_is_obeyed(signals: list[signal.Signals]) -> None:
    with worker(sync_seconds=60, mirrors=1, drain_timeout=60) as process:
        process.wait_for("sync_began")
        process.signal(signals[0])
        process.wait_for("worker_draining")
        for further in signals[1:]:
            process.signal(further)
        process.wait_for("synced", code="MS-R503", seconds=10)
        assert process.ends(seconds=10) == 0


def test_what_does_not_end_is_left() -> None:
    with worker(sync_seconds=600, mirrors=1, heeds_stop=False, drain_timeout=60) as process:
        process.wait_for("sync_began")
        process.signal(signal.SIGTERM)
        process.wait_for("worker_draining")
        for _ in range(2):
            time.sleep(0.5)  # signals of one kind merge while none was taken
            process.signal(signal.SIGTERM)
        process.wait_for("worker_cut_off", seconds=10)
        assert process.ends(seconds=10) == 1


def test_hangup_reloads() -> None:
    with Manager() as manager, worker(manager) as process:
        manager.wait_for("READY=1")
        process.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
        assert process.wait_for("configuration_reloaded")["applied"] == "['schedule.interval']"
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_a_refused_configuration_leaves_the_old_in_force() -> None:
    with Manager() as manager, worker(manager, reload="refused") as process:
        manager.wait_for("READY=1")
        process.signal(signal.SIGHUP)
        assert "STATUS=configuration refused; the old one is in force" in manager.wait_for("READY=1")
        assert "config.toml:3: no such key" in process.wait_for("configuration_refused")["problems"]
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_the_watchdog_hears_while_the_database_takes_writes_and_no_longer() -> None:
    with Manager() as manager, worker(manager, watchdog_seconds=2, database_away_after=4) as process:
        manager.wait_for("READY=1")
        for _ in range(2):
            manager.wait_for("WATCHDOG=1", seconds=2)
        process.wait_for("job_failed", job="beat")
        while manager.hears("WATCHDOG=1", seconds=2):
            pass
        assert process.process.poll() is None  # systemd's part to end it
        assert not manager.hears("WATCHDOG=1", seconds=2)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
