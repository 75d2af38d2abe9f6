"""Processor time of the state's part of an unchanged poll (claim and finish), and of an idle tick.

Run: python -m benchmarks.state [--postgres] [MIRRORS ...]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Delivery, NewMirror, Outcome, RunReport
from mirror_sync.ports import MirrorFilter
from mirror_sync.state import SqlState, upgrade

POLLS = 500


def measure(name: str, work: Callable[[], None], *, times: int) -> None:
    for _ in range(10):
        work()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    print(f"  {name:<42}{processor / times * 1e3:8.3f} ms CPU{wall / times * 1e3:9.3f} ms")


def fill(state: SqlState, count: int) -> None:
    """Enrol mirrors that have all been polled once and are not due for an hour."""
    now = time.time()
    for n in range(count):
        name = MirrorName(f"bench.example/owner-{n // 20}/repository-{n}")
        state.enrol(NewMirror(name, f"https://{name}.git", 3600.0, 7200.0))
    while (lease := state.claim("fill", lease_seconds=600)) is not None:
        state.finish(lease, report(now + 3600))


def report(next_due_at: float) -> RunReport:
    now = time.time()
    return RunReport(
        Outcome.UNCHANGED, now - 0.01, now, next_due_at, observed_at=now - 0.01, digest="d" * 64, complete=True
    )


def run(state: SqlState, count: int) -> None:
    fill(state, count)
    ids = [mirror.id for mirror in state.mirrors(MirrorFilter(), limit=POLLS).items]
    turn = iter(range(10**9))

    def poll() -> None:
        lease = state.claim("bench", lease_seconds=600)
        assert lease is not None
        state.finish(lease, report(time.time()))

    def deliver() -> None:
        n = next(turn)
        state.accept_delivery(
            Delivery(
                "github", f"{time.time()}-{n}", "push", time.time(), str(n % count),
                f"https://bench.example/owner-{n % count // 20}/repository-{n % count}.git",
            )
        )  # fmt: skip

    measure("idle tick (nothing due)", lambda: state.claim("idle", lease_seconds=600), times=POLLS)
    for mirror_id in ids[:20]:
        lease = state.claim_mirror(mirror_id, "bench", lease_seconds=600, purpose="sync")
        if lease is not None:
            state.finish(lease, report(time.time()))
    measure("unchanged poll: claim and finish", poll, times=POLLS)
    measure("webhook delivery, each its own mirror", deliver, times=POLLS)
    measure(
        "claim of an LFS batch, nothing wanted", lambda: state.claim_lfs("b", limit=100, lease_seconds=60), times=POLLS
    )
    measure("page of 100 mirrors", lambda: state.mirrors(MirrorFilter(), limit=100), times=50)
    measure("totals", state.totals, times=50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", action="store_true", help="also on a Postgres of its own")
    parser.add_argument("mirrors", nargs="*", type=int, default=[1000, 10_000])
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="mirror-sync-bench-"))
    try:
        for count in chosen.mirrors:
            path = str(directory / f"{count}.db")
            upgrade(path)
            state = SqlState(path, clock=SystemClock())
            print(f"SQLite, {count} mirrors")
            run(state, count)
            state.close()
            if chosen.postgres:
                from tests.support.postgres import new_database

                database = new_database()
                upgrade(database.url, password=database.password)
                state = SqlState(database.url, clock=SystemClock(), password=database.password)
                print(f"Postgres, {count} mirrors (CPU of the client)")
                run(state, count)
                state.close()
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
