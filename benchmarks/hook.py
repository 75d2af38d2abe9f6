"""From a webhook to published, the daemon as processes, beside a bare ``git fetch``.

    python -m benchmarks.hook [--pushes 120] [--lfs] [--json FILE] [--check]

Each push adds one commit upstream (with ``--lfs`` also one LFS object of 64 KiB) and
posts GitHub's signed ``push`` delivery at once.  The clock runs from the first byte of
that POST until the published view that clients are led to holds the new tip.  The peer
is what a hook script would do: ``git fetch`` into a ``git clone --mirror`` (no LFS, no
checks, no fsync), after the same push, from the same server.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, conclude, options, percentile
from benchmarks.processes import children_cpu, cpu, family
from benchmarks.stage import process
from tests.support.daemon import Daemon
from tests.support.upstream import GitUpstream, isolated_git_environment

P50_SECONDS = 0.5
P99_SECONDS = 2.0
LOOK_SECONDS = 0.002
PATIENCE_SECONDS = 30.0
BRANCH = "refs/heads/main"


def payload(url: str, before: str, after: str) -> dict[str, object]:
    """Return what a push delivery says that matters to a receiver."""
    return {
        "ref": BRANCH, "before": before, "after": after, "created": False, "deleted": False, "forced": False,
        "repository": {"id": 1, "full_name": "acme/model", "clone_url": f"{url}.git", "html_url": url},
    }  # fmt: skip


def wait_published(view: Path, tip: str) -> None:
    """Return once the view that clients are led to holds ``tip``."""
    line = f"{tip} {BRANCH}\n"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while line not in (view / "packed-refs").read_text():
        if time.monotonic() > deadline:
            raise SystemExit(f"{tip} was not published within {PATIENCE_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)


def main() -> int:
    told = options(
        __doc__,
        (("--pushes",), {"type": int, "default": 120}),
        (("--lfs",), {"action": "store_true", "help": "each push brings an LFS object too"}),
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-") as made:
        work = Path(made)
        repo = GitUpstream(work / "upstream").create("acme/model")
        tip = repo.commit({"README": "first\n"}, lfs={"a.bin": b"first"} if told.lfs else None)
        environment = {**os.environ, **isolated_git_environment(work / "home")}
        peer = work / "peer.git"
        with process("tests.support.upstream", str(work / "upstream")) as origin, Daemon(work / "ours") as daemon:
            url = f"{origin}/acme/model"
            subprocess.run(["git", "clone", "-q", "--mirror", url, str(peer)], env=environment, check=True)
            daemon.start(url)
            name = daemon.name(url)
            daemon.published(name)
            view = daemon.directory / "git" / f"{name}.git" / "current"
            assert daemon.process is not None
            pids = family(daemon.process.pid)
            used = cpu(pids)
            taken, fetched, fetch_cpu, answered = [], [], [], []
            for number in range(told.pushes):
                before = tip
                lfs = {"a.bin": hashlib.sha256(b"%d" % number).digest() * 2048} if told.lfs else None
                tip = repo.commit({f"src/{number}.txt": f"{number}\n" * 20}, lfs=lfs)
                began = time.perf_counter()
                status = daemon.hook("push", payload(url, before, tip))
                answered.append(time.perf_counter() - began)
                if status not in (200, 202):
                    raise SystemExit(f"the delivery was answered {status}")
                wait_published(view, tip)
                taken.append(time.perf_counter() - began)
                began, before_cpu = time.perf_counter(), children_cpu()
                subprocess.run(["git", "fetch", "-q", "--prune"], cwd=peer, env=environment, check=True)
                fetched.append(time.perf_counter() - began)
                fetch_cpu.append(children_cpu() - before_cpu)
            each = (cpu(pids) - used) / told.pushes
    figures = [
        Figure("webhook to published, p50", percentile(taken, 0.5), "s", P50_SECONDS, None, "git fetch",
               percentile(fetched, 0.5)),
        Figure("webhook to published, p99", percentile(taken, 0.99), "s", P99_SECONDS, None, "git fetch",
               percentile(fetched, 0.99)),
        Figure("webhook to answered, p50", percentile(answered, 0.5), "s"),
        Figure("webhook to answered, p99", percentile(answered, 0.99), "s"),
        Figure("processor time per push, all our processes", each * 1e3, "ms", None, None, "git fetch",
               sum(fetch_cpu) / len(fetch_cpu) * 1e3),
    ]  # fmt: skip
    return conclude("hook", figures, told, pushes=told.pushes, lfs=told.lfs)


if __name__ == "__main__":
    sys.exit(main())
