"""A supervisor over small children, as a program: ``python -m tests.support.supervised '{...}'``.

``roles`` maps each role to what its child does: ``ready_after`` seconds (absent: never),
``dies_after`` seconds with ``status``, ``stubborn`` ignores SIGTERM, ``deaf`` leaves
signals as they are, ``pings`` sends watchdog pings.  Children write their events to the same standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Any


def tell(event: str, **fields: object) -> None:
    os.write(1, (json.dumps([event, {key: str(value) for key, value in fields.items()}]) + "\n").encode())


def be_child(role: str, orders: dict[str, Any]) -> int:
    from mirror_sync.worker.notify import Notifier

    ended: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        tell("signalled", role=role, signal=signal.Signals(number).name)
        if number != signal.SIGHUP and not orders.get("stubborn"):
            ended.append(number)

    for number in () if orders.get("deaf") else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    notifier = Notifier(os.environ["NOTIFY_SOCKET"])
    tell("began", role=role, pid=os.getpid(), group=os.getpgrp(), notify=os.environ["NOTIFY_SOCKET"])
    began = time.monotonic()
    ready = False
    while not ended:
        age = time.monotonic() - began
        if not ready and "ready_after" in orders and age >= orders["ready_after"]:
            ready = True
            notifier.ready("")
        if "dies_after" in orders and age >= orders["dies_after"]:
            return int(orders["status"])
        if orders.get("pings"):
            notifier.alive()
        time.sleep(0.05)
    return 0


def be_supervisor(orders: dict[str, Any]) -> int:
    from mirror_sync.clock import SystemClock
    from mirror_sync.telemetry import Scrubber, configure_logging
    from mirror_sync.worker.supervise import ChildCommand, supervise

    configure_logging(level="info", format="json", scrubber=Scrubber(clock=SystemClock()))
    commands = [
        ChildCommand(role, (sys.executable, "-m", "tests.support.supervised", json.dumps({"child": role, **what})))
        for role, what in orders["roles"].items()
    ]
    return supervise(
        commands,
        environment=dict(os.environ),
        drain_timeout=float(orders.get("drain_timeout", 30.0)),
        on_ready=lambda: tell("all_ready"),
        on_end=lambda: tell("end_begins"),
        hangup_ends=bool(orders.get("hangup_ends")),
    )


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sys.exit(be_child(given["child"], given) if "child" in given else be_supervisor(given))
