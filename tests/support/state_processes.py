"""Programs that tests start, stop and kill while they use the state.

Each is run as ``python -m tests.support.state_processes NAME URL ...`` and talks by lines.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import MirrorName, RefName
from mirror_sync.domain.refs import Change
from mirror_sync.domain.runs import Delivery, NewMirror, Outcome, PublishIntent, RefJournalEntry, RunReport
from mirror_sync.errors import LeaseLost
from mirror_sync.state import SqlState, upgrade

CHECKOUT = Path(__file__).resolve().parents[2]


class Program:
    """One of the functions below in a process of its own."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, name, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def hear(self) -> str:
        return self.process.stdout.readline().strip()

    def tell(self, line: str = "") -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def new_mirror(n: int) -> NewMirror:
    name = MirrorName(f"example.org/process/{n}")
    return NewMirror(name, f"https://{name}", 3600.0, 7200.0)


def open_state(url: str) -> SqlState:
    return SqlState(url, clock=SystemClock())


def say(*words: object) -> None:
    print(*words, flush=True)


def claim(url: str, worker: str) -> None:
    """Say ready, wait for a line, claim all there is, and say the numbers."""
    state = open_state(url)
    state.check()
    say("ready")
    sys.stdin.readline()
    taken = []
    while (lease := state.claim(worker, lease_seconds=600.0)) is not None:
        taken.append(lease.mirror.id)
    say(*taken)


def deliver(url: str, count: str) -> None:
    """Say each delivery's id once it was accepted, for ever when count is 0."""
    state = open_state(url)
    n = 0
    while not int(count) or n < int(count):
        n += 1
        clone_url = f"https://{new_mirror(1).name}.git"
        told = Delivery("github", f"id-{n}", "push", time.time(), "7", clone_url, (RefName("refs/heads/main"),))
        say(told.delivery_id if state.accept_delivery(told) else "known")


def own(url: str, lease_seconds: str) -> None:
    """Claim, say so, wait for a line, then try all that an owner may do and say what was refused."""
    state = open_state(url)
    lease = state.claim("sleeper", lease_seconds=float(lease_seconds))
    say("claimed", lease.mirror.id, lease.token)
    sys.stdin.readline()
    now = time.time()
    entry = RefJournalEntry(RefName("refs/heads/main"), None, None, Change.DELETE)
    intent = PublishIntent(9, "late", now, (entry,), RefName("refs/heads/main"), 1, complete=True)
    report = RunReport(Outcome.PUBLISHED, now, now, now + 60, observed_at=now, digest="late", complete=True)
    refused = 0
    for change in (
        lambda: state.renew(lease, lease_seconds=60.0),
        lambda: state.confirm(lease),
        lambda: state.intend(lease, intent, kept=[]),
        lambda: state.finish(lease, report),
    ):
        try:
            change()
        except LeaseLost:
            refused += 1
    say("refused", refused)


def migrate(url: str) -> None:
    """Upgrade, and say so."""
    say(upgrade(url))


if __name__ == "__main__":
    {"claim": claim, "deliver": deliver, "own": own, "migrate": migrate}[sys.argv[1]](*sys.argv[2:])
