"""An unchanged poll, everything counted, beside ``git ls-remote``: processor time per mirror.

    python -m benchmarks.poll [--mirrors 50] [--rounds 4] [--refs 30] [--json FILE] [--check]

Ours is one claim and one whole sync of a mirror whose upstream did not change: listing,
comparison, state (SQLite, fsynced) and telemetry, in the process that does it.  The peer
is ``git ls-remote`` with its git-remote-http.  Both ask the same loopback server, in
turns; nothing but the list is asked of it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from benchmarks.processes import children_cpu, own_cpu
from benchmarks.stage import process, settings_at, small_repository
from mirror_sync.bootstrap import App, build, configure_logs
from mirror_sync.domain.runs import Lease, Outcome
from tests.support.upstream import GitUpstream, isolated_git_environment

MOST_MS = 5.0
SHARE = 0.5
"""Of ``git ls-remote``'s processor time."""


def ours(app: App, names: list[str], outcome: Outcome) -> tuple[float, float]:
    """Sync every mirror once and return processor and wall seconds of one."""
    for name in names:
        app.request_sync(name)  # type: ignore[arg-type]
    before, began, done = own_cpu(), time.perf_counter(), 0
    while (lease := app.claim("bench")) is not None:
        sync(app, lease, outcome)
        done += 1
    if done != len(names):
        raise SystemExit(f"{done} of {len(names)} mirrors were due")
    return (own_cpu() - before) / done, (time.perf_counter() - began) / done


def sync(app: App, lease: Lease, outcome: Outcome) -> None:
    """Sync one mirror; anything but the expected outcome ends the benchmark."""
    report = app.sync(lease, stop=threading.Event())
    if report.outcome is not outcome:
        raise SystemExit(f"{lease.mirror.name}: {report.outcome} {report.code} {report.message}")


def theirs(urls: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """List every upstream once with git and return processor and wall seconds of one."""
    before, began = children_cpu(), time.perf_counter()
    for url in urls:
        subprocess.run(["git", "ls-remote", url], env=environment, check=True, stdout=subprocess.DEVNULL)
    return (children_cpu() - before) / len(urls), (time.perf_counter() - began) / len(urls)


def main() -> int:
    told = options(
        __doc__,
        (("--mirrors",), {"type": int, "default": 50}),
        (("--rounds",), {"type": int, "default": 4}),
        (("--refs",), {"type": int, "default": 30}),
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-") as made:
        work = Path(made)
        repo = small_repository(GitUpstream(work / "upstream"), "acme/model", refs=told.refs)
        environment = {**os.environ, **isolated_git_environment(work / "home")}
        with process("benchmarks.remembering_upstream", str(repo.path)) as origin:
            settings = settings_at(work / "ours", origin)
            configure_logs(settings, level="warning")
            logging.getLogger().setLevel(logging.WARNING)
            urls = [f"{origin}/fleet/mirror-{number:05}" for number in range(told.mirrors)]
            with build(settings, role="worker") as app:
                names = [app.enrol(url)[0].name for url in urls]
                first = ours(app, list(names), Outcome.PUBLISHED)
                polls, lists = [], []
                for _ in range(told.rounds):
                    polls.append(ours(app, list(names), Outcome.UNCHANGED))
                    lists.append(theirs(urls, environment))
    cpu, listed = median([used for used, _ in polls]) * 1e3, median([used for used, _ in lists]) * 1e3
    wall, listed_wall = median([took for _, took in polls]) * 1e3, median([took for _, took in lists]) * 1e3
    figures = [
        Figure("unchanged poll, processor time per mirror", cpu, "ms", MOST_MS, None, "git ls-remote", listed),
        Figure("its share of git ls-remote's", cpu / listed, "", SHARE),
        Figure("unchanged poll, wall time, one at a time", wall, "ms", None, None, "git ls-remote", listed_wall),
        Figure("first sync of a small repository, processor time", first[0] * 1e3, "ms"),
        Figure("first sync of a small repository, wall time", first[1] * 1e3, "ms"),
    ]
    return conclude("poll", figures, told, mirrors=told.mirrors, rounds=told.rounds, refs=told.refs)


if __name__ == "__main__":
    sys.exit(main())
