from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mirror_sync.worker.notify import Notifier


def receiver(address: str) -> socket.socket:
    receiving = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiving.bind("\0" + address[1:] if address.startswith("@") else address)
    receiving.settimeout(5)
    return receiving


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_messages_reach_the_manager(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@mirror-sync-test/{os.getpid()}"
    with receiver(address) as manager:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        notifier.ready("all well")
        assert manager.recv(4096) == b"READY=1\nSTATUS=all well"
        notifier.reloading(monotonic=1.5)
        assert manager.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=1500000"
        notifier.alive()
        assert manager.recv(4096) == b"WATCHDOG=1"
        notifier.stopping("bye")
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=bye"


def test_nobody_listening_is_no_failure(tmp_path: Path) -> None:
    Notifier().ready("x")
    Notifier(str(tmp_path / "gone")).ready("x")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_watchdog_is_ours_or_nobodys(environment: dict[str, str], seconds: float) -> None:
    assert Notifier.from_environment(environment).watchdog_seconds == seconds
