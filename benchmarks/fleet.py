"""Many mirrors on one daemon: first fill, a cycle in which nothing changed, and what idling takes.

    python -m benchmarks.fleet [--mirrors 1000] [--idle 60] [--keep DIR] [--json FILE] [--check]

The cycle makes every mirror due while no worker runs, then starts one and takes the time
from the first run's start to the last run's end, as the worker recorded them, and the
worker's processor time beyond what its start alone takes.  The peer is the same list
asked by ``git ls-remote``, eight at a time as the worker's own runs are.  Idle is
``serve`` with all processes once maintenance has caught up, nothing due, some pages read
before; memory is the sum over the processes of PSS, in which shared pages count once, and of RSS, in which
they count again for each.  ``--keep`` keeps the filled mirrors for another run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, conclude, options
from benchmarks.processes import children_cpu, command, cpu, family, memory
from benchmarks.stage import ROOT, process, settings_at, small_repository
from mirror_sync.bootstrap import App, build
from mirror_sync.domain.runs import Outcome
from mirror_sync.ports import MirrorFilter
from tests.support.daemon import free_port
from tests.support.upstream import GitUpstream, isolated_git_environment

IDLE_MEGABYTES = 250.0
AT_ONCE = 8
LOOK_SECONDS = 0.5
SETTLE_SECONDS = 10.0
BUSY_SHARE = 0.03
"""Above this share of a processor something is still being done: maintenance after the first fill, above all."""

PATIENCE_SECONDS = 3600.0


@contextlib.contextmanager
def serving(directory: Path, role: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``serve`` with one role, or all, and end it as an operator does."""
    with (directory / f"{role}.log").open("ab") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "mirror_sync", "-c", str(directory / "config.toml"), "serve", "--role", role],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait()


def mirrors(app: App) -> Iterator[object]:
    """Yield every mirror."""
    cursor = ""
    while True:
        page = app.state.mirrors(MirrorFilter(), cursor=cursor, limit=500)
        yield from page.items
        if not page.next_cursor:
            return
        cursor = page.next_cursor


def finished_since(app: App, moment: float) -> list[tuple[float, float, str]]:
    """Return start, end and outcome of each mirror's last run, of those that ended after ``moment``."""
    runs = (mirror.last_run for mirror in mirrors(app))  # type: ignore[attr-defined]
    return [
        (run.started_at, run.finished_at, run.outcome)
        for run in runs
        if run is not None and run.finished_at is not None and run.finished_at > moment
    ]


def run_all(app: App, directory: Path, count: int, expected: Outcome) -> tuple[float, float]:
    """Let a worker run every mirror once; return wall seconds of it and the worker's processor seconds so far."""
    moment = app.clock.now()
    with serving(directory, "worker") as worker:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(done := finished_since(app, moment)) < count:
            if worker.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"only {len(done)} of {count} mirrors ran")
            time.sleep(LOOK_SECONDS)
        used = cpu(family(worker.pid))
    wrong = [outcome for _, _, outcome in done if outcome is not expected]
    if wrong:
        raise SystemExit(f"{len(wrong)} runs did not end as {expected} but as {set(wrong)}")
    return max(end for _, end, _ in done) - min(start for start, _, _ in done), used


def start_cost(directory: Path) -> float:
    """Return the processor seconds that a worker takes to start when nothing is due and nothing needs maintenance."""
    with serving(directory, "worker") as worker:
        rest(worker.pid)
    with serving(directory, "worker") as worker:
        time.sleep(SETTLE_SECONDS)
        return cpu(family(worker.pid))


def ask_all(urls: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """List every upstream with git, as many at a time as the worker has places; wall and processor seconds."""
    began, used = time.perf_counter(), children_cpu()
    subprocess.run(
        ["xargs", "-n", "1", "-P", str(AT_ONCE), "git", "ls-remote"],
        input="\n".join(urls).encode(), env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - began, children_cpu() - used


def idle(directory: Path, port: int, seconds: float) -> tuple[dict[str, float], float, dict[str, dict[str, float]]]:
    """Return memory of all processes, their processor seconds per second, and memory by process."""
    page = f"http://127.0.0.1:{port}"
    with serving(directory, "all") as daemon:
        wait_ready(page)
        for path in ("/", "/metrics", "/api/v1/mirrors"):
            fetch(page + path)
        rest(daemon.pid)
        used = share(daemon.pid, seconds)
        pids = family(daemon.pid)
        return memory(pids), used, {f"process {pid} ({role(pid)})": memory([pid]) for pid in pids}


def rest(pid: int) -> None:
    """Wait until a process and all below it have next to nothing to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while share(pid, SETTLE_SECONDS) > BUSY_SHARE and time.monotonic() < deadline:
        pass


def share(pid: int, seconds: float) -> float:
    """Return the processor seconds per second of a process and all below it, over so many seconds."""
    pids = family(pid)
    used, began = cpu(pids), time.monotonic()
    time.sleep(seconds)
    return (cpu(pids) - used) / (time.monotonic() - began)


def role(pid: int) -> str:
    """Return the role on a process's command line."""
    return command(pid).rpartition("--role ")[2]


def wait_ready(page: str) -> None:
    """Return when the web answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return fetch(f"{page}/healthz")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def fetch(url: str) -> None:
    """Read one page."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        answer.read()


def fill(app: App, urls: list[str]) -> None:
    """Enrol what is not enrolled yet."""
    for url in urls:
        app.enrol(url)


def measure(told: argparse.Namespace, work: Path) -> list[Figure]:
    """Fill, cycle, idle."""
    count = told.mirrors
    environment = {**os.environ, **isolated_git_environment(work / "home")}
    upstream = GitUpstream(work / "upstream")
    known = (upstream.repositories / "acme" / "model.git").is_dir()
    path = upstream.repositories / "acme" / "model.git" if known else small_repository(upstream, "acme/model").path
    port = free_port()
    figures: list[Figure] = []
    with process("benchmarks.remembering_upstream", str(path), str(told.port)) as origin:
        directory = work / "ours"
        settings = settings_at(directory, origin, port=port, interval="24h", objective="48h")
        urls = [f"{origin}/fleet/mirror-{number:06}" for number in range(count)]
        with build(settings, role="cli") as app:
            names = {mirror.name for mirror in mirrors(app)}  # type: ignore[attr-defined]
            if not names:
                fill(app, urls)
                wall, used = run_all(app, directory, count, Outcome.PUBLISHED)
                figures += [
                    Figure(f"first fill of {count:,} small mirrors, wall time", wall, "s"),
                    Figure(
                        "  the worker's processor time, git's children included, per mirror", used / count * 1e3, "ms"
                    ),
                ]
            start = start_cost(directory)
            for mirror in list(mirrors(app)):
                app.request_sync(mirror.name)  # type: ignore[attr-defined]
            wall, used = run_all(app, directory, count, Outcome.UNCHANGED)
            peer_wall, peer_used = ask_all(urls, environment)
        figures += [
            Figure(f"cycle over {count:,} unchanged mirrors, wall time", wall, "s", None, None,
                   f"git ls-remote, {AT_ONCE} at a time", peer_wall),
            Figure("  its processor time", used - start, "s", None, None, "git ls-remote", peer_used),
        ]  # fmt: skip
        total, busy, each = idle(directory, port, told.idle)
    figures += [
        Figure(f"all processes idle with {count:,} mirrors, PSS", total["pss"], "MB", IDLE_MEGABYTES),
        Figure("  RSS, shared pages counted again for each process", total["rss"], "MB"),
        *(Figure(f"  {name}, PSS", used["pss"], "MB") for name, used in each.items()),
        Figure("  processor time of all processes", busy * 100, "% of one CPU"),
    ]
    return figures


def main() -> int:
    told = options(
        __doc__,
        (("--mirrors",), {"type": int, "default": 1000}),
        (("--idle",), {"type": float, "default": 60.0, "metavar": "SECONDS"}),
        (("--port",), {"type": int, "default": 0, "help": "the upstream's port; the same again with --keep"}),
        (("--keep",), {"type": Path, "metavar": "DIR", "help": "work here, and use what is here"}),
    ).parse_args()
    if told.keep and not told.port:
        raise SystemExit("--keep needs --port: mirrors are named after their upstream")
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-") as made:
        work = told.keep or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        figures = measure(told, work)
    return conclude("fleet", figures, told, mirrors=told.mirrors)


if __name__ == "__main__":
    sys.exit(main())
