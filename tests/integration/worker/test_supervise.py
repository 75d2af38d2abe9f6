"""Two children of one process: started, restarted, signalled and outlived together."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import pytest

from tests.support.lines import Telling
from tests.support.manager import Manager

READY = {"ready_after": 0.0}


def supervisor(
    manager: Manager | None = None, *, web: dict[str, Any], worker: dict[str, Any], **orders: Any
) -> Telling:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000"} if manager else {}
    return Telling(
        "tests.support.supervised", {"roles": {"web": web, "worker": worker}, **orders}, environment=environment
    )


def children(process: Telling) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    while len(found) < 2:
        fields = process.wait_for("began")
        found[fields["role"]] = fields
    return found


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_gone(*pids: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        time.sleep(0.05)


def test_ready_when_both_are_and_ended_together() -> None:
    with Manager() as manager, supervisor(manager, web=READY, worker={"ready_after": 1.0}) as process:
        began = children(process)
        assert began["web"]["group"] == began["web"]["pid"]
        assert not manager.hears("READY=1", seconds=0.5)
        manager.wait_for("READY=1")
        process.wait_for("all_ready")
        process.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        process.wait_for("signalled", signal="SIGTERM")
        process.wait_for("signalled", signal="SIGTERM")
        assert process.ends() == 0
        wait_gone(*(int(fields["pid"]) for fields in began.values()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    with supervisor(web=READY, worker=READY) as process:
        process.wait_for("all_ready")
        process.signal(number)
        assert {process.wait_for("signalled", signal=number.name)["role"] for _ in range(2)} == {"web", "worker"}
        if number == signal.SIGHUP:
            assert process.process.poll() is None
            process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_an_interrupt_before_all_is_ready_ends_well() -> None:
    with supervisor(web=READY, worker={}) as process:
        process.wait_for("began", role="worker")
        process.signal(signal.SIGINT)
        process.wait_for("end_begins")
        process.wait_for("signalled", role="worker", signal="SIGTERM")
        assert process.ends() == 0


def test_an_interrupt_of_a_child_that_does_not_hear_yet_ends_well() -> None:
    with supervisor(web=READY, worker={"deaf": True}) as process:
        process.wait_for("began", role="worker")
        process.signal(signal.SIGINT)
        assert process.ends() == 0


def test_a_terminal_that_closes_ends_everything() -> None:
    with supervisor(web=READY, worker=READY, hangup_ends=True) as process:
        process.wait_for("all_ready")
        process.signal(signal.SIGHUP)
        process.wait_for("signalled", signal="SIGTERM")
        assert process.ends() == 0


def test_a_child_that_dies_is_started_again() -> None:
    with Manager() as manager, supervisor(manager, web=READY, worker=READY) as process:
        began = children(process)
        manager.wait_for("READY=1")
        os.kill(int(began["worker"]["pid"]), signal.SIGKILL)
        again = process.wait_for("began", role="worker")
        assert again["pid"] != began["worker"]["pid"]
        manager.wait_for("READY=1")
        assert not is_gone(int(began["web"]["pid"]))
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_a_child_that_never_became_ready_ends_everything() -> None:
    with supervisor(web={"dies_after": 0.5, "status": 8}, worker=READY) as process:
        began = children(process)
        process.wait_for("signalled", role="worker", signal="SIGTERM")
        assert process.ends() == 8
        wait_gone(int(began["worker"]["pid"]))


def test_children_do_not_outlive_a_killed_parent() -> None:
    with supervisor(web=READY, worker=READY) as process:
        began = children(process)
        process.wait_for("all_ready")
        process.process.kill()
        wait_gone(*(int(fields["pid"]) for fields in began.values()))


def test_stubborn_children_are_killed_at_the_third_asking() -> None:
    with supervisor(web={**READY, "stubborn": True}, worker=READY) as process:
        began = children(process)
        process.wait_for("all_ready")
        for _ in range(3):
            process.signal(signal.SIGTERM)
            time.sleep(0.3)
        assert process.ends(seconds=10) == 128 + signal.SIGKILL
        wait_gone(*(int(fields["pid"]) for fields in began.values()))


def test_pings_pass_only_while_both_live() -> None:
    with (
        Manager() as manager,
        supervisor(manager, web={"ready_after": 1.5}, worker={**READY, "pings": True}) as process,
    ):
        children(process)
        assert not manager.hears("WATCHDOG=1", seconds=0.7)
        manager.wait_for("WATCHDOG=1")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_strangers_cannot_report_for_a_child() -> None:
    with Manager() as manager, supervisor(manager, web={"ready_after": 3600.0}, worker=READY) as process:
        address = children(process)["web"]["notify"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            for _ in range(5):
                out.sendto(b"READY=1", "\0" + address[1:])
        assert not manager.hears("READY=1", seconds=1.0)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
