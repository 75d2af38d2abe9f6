"""Processor time of the state's part of an unchanged poll (claim and finish), and of an idle tick.

    python -m benchmarks.state [--postgres] [MIRRORS ...] [--json FILE]

The peer column holds the wall time of the same calls, fsync included.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import Figure, conclude, options
from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Delivery, NewMirror, Outcome, RunReport
from mirror_sync.ports import MirrorFilter
from mirror_sync.state import SqlState, upgrade

POLLS = 500


def measure(name: str, work: Callable[[], object], *, times: int) -> Figure:
    """Return the processor time of one call."""
    for _ in range(10):
        work()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return Figure(name, processor / times * 1e3, "ms", None, None, "wall time", wall / times * 1e3)


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


def run(state: SqlState, count: int, where: str) -> Iterator[Figure]:
    """Yield the figures for one database."""
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

    yield measure(f"{where}: idle tick (nothing due)", lambda: state.claim("idle", lease_seconds=600), times=POLLS)
    for mirror_id in ids[:20]:
        lease = state.claim_mirror(mirror_id, "bench", lease_seconds=600, purpose="sync")
        if lease is not None:
            state.finish(lease, report(time.time()))
    yield measure(f"{where}: unchanged poll: claim and finish", poll, times=POLLS)
    yield measure(f"{where}: webhook delivery, each its own mirror", deliver, times=POLLS)
    yield measure(
        f"{where}: claim of an LFS batch, nothing wanted",
        lambda: state.claim_lfs("b", limit=100, lease_seconds=60),
        times=POLLS,
    )
    yield measure(f"{where}: page of 100 mirrors", lambda: state.mirrors(MirrorFilter(), limit=100), times=50)
    yield measure(f"{where}: totals", state.totals, times=50)


def main() -> int:
    told = options(
        __doc__,
        (("--postgres",), {"action": "store_true", "help": "also on a Postgres of its own"}),
        (("mirrors",), {"nargs": "*", "type": int, "default": [1000, 10_000]}),
    ).parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-") as made:
        for count in told.mirrors:
            path = str(Path(made) / f"{count}.db")
            upgrade(path)
            state = SqlState(path, clock=SystemClock())
            figures += run(state, count, f"SQLite, {count:,} mirrors")
            state.close()
            if told.postgres:
                from tests.support.postgres import new_database

                database = new_database()
                upgrade(database.url, password=database.password)
                state = SqlState(database.url, clock=SystemClock(), password=database.password)
                figures += run(state, count, f"Postgres, {count:,} mirrors, the client's")
                state.close()
    return conclude("state", figures, told, polls=POLLS)


if __name__ == "__main__":
    sys.exit(main())
