"""One 1 GiB LFS object on loopback: our transfer against ``git lfs fetch``, from the same server, side by side.

Usage: python -m benchmarks.lfs_fetch [--size MIB] [--rounds N] [--directory DIR] [--json FILE] [--check]

Ours is what the worker does: batch request, download, SHA-256, journal, fsync, promote.
git-lfs does no fsync.  Both start from an empty store in every round, in turns; the figure
is the median, the ratio git-lfs seconds / our seconds (above 1: ours is quicker).
``--check`` exits 1 when the ratio is below the floor.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store import FileObjectStore
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.threads import ThreadParallel
from tests.support.upstream import GitUpstream, isolated_git_environment
from tests.support.upstream_client import client

FLOOR = 2.0
NAME = "bench/large"
ROOT = Path(__file__).resolve().parents[1]


def make(directory: Path, size: int) -> Pointer:
    """Make a repository with one LFS object of ``size`` bytes."""
    upstream = GitUpstream(directory)
    repo = upstream.create(NAME)
    block = random.Random(1).randbytes(1 << 20)
    data = b"".join(index.to_bytes(8, "big") + block[8:] for index in range(size >> 20))
    repo.commit({}, lfs={"weights.bin": data})
    oid, length = repo.lfs.put(data)
    return Pointer(LfsOid(oid), length)


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve it from a process of its own and yield the origin."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.upstream", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def ours(origin: str, pointer: Pointer, work: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of one transfer into an empty store."""
    clock = SystemClock()
    objects = FileObjectStore(work / "ours", reserve_bytes=0, clock=clock)
    before = cpu(resource.RUSAGE_SELF)
    began = time.perf_counter()
    with client(f"{origin}/{NAME}") as upstream:
        report = transfer(
            [pointer],
            mirror=MirrorName(NAME),
            sources=[upstream],
            report=lambda _: None,
            objects=objects,
            parallel=ThreadParallel(),
            clock=clock,
            telemetry=ListedTelemetry(),
            limits=TransferLimits(),
            stop=threading.Event(),
        )
    wall = time.perf_counter() - began
    if report.arrived != {pointer.oid}:
        raise SystemExit(f"our transfer failed: {report}")
    used = cpu(resource.RUSAGE_SELF) - before
    shutil.rmtree(work / "ours")
    return wall, used


def theirs(origin: str, pointer: Pointer, work: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of one ``git lfs fetch`` into an empty clone."""
    environment = {**isolated_git_environment(work / "home"), "GIT_LFS_SKIP_SMUDGE": "1"}
    clone = work / "theirs"
    subprocess.run(
        ["git", "clone", "-q", f"{origin}/{NAME}", str(clone)], env=environment, check=True, capture_output=True
    )
    before = cpu(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(["git", "lfs", "fetch"], cwd=clone, env=environment, check=True, capture_output=True)
    wall = time.perf_counter() - began
    used = cpu(resource.RUSAGE_CHILDREN) - before
    found = clone / ".git" / "lfs" / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
    if found.stat().st_size != pointer.size:
        raise SystemExit("git lfs fetch brought something else")
    shutil.rmtree(clone)
    return wall, used


def main() -> int:
    arguments = options(
        __doc__,
        (("--size",), {"type": int, "default": 1024, "metavar": "MIB"}),
        (("--rounds",), {"type": int, "default": 5}),
        (("--directory",), {"type": Path, "help": "where to work (default: a temporary directory)"}),
    ).parse_args()
    size = arguments.size << 20
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-", dir=arguments.directory) as scratch:
        work = Path(scratch)
        pointer = make(work / "upstream", size)
        os.sync()  # what was just written must not be flushed during the first round
        runs: dict[str, list[tuple[float, float]]] = {"mirror_sync": [], "git lfs fetch": []}
        with served(work / "upstream") as origin:
            for _ in range(arguments.rounds):
                runs["mirror_sync"].append(ours(origin, pointer, work))
                runs["git lfs fetch"].append(theirs(origin, pointer, work))
    mine, peer = ([median(column) for column in zip(*runs[name], strict=True)] for name in runs)
    mebibytes = arguments.size
    figures = [
        Figure(f"one LFS object of {mebibytes} MiB, wall time", mine[0], "s", None, None, "git lfs fetch", peer[0]),
        Figure("  times as fast as git lfs fetch", peer[0] / mine[0], "x", None, FLOOR),
        Figure("  rate", mebibytes / mine[0], "MiB/s", None, None, "git lfs fetch", mebibytes / peer[0]),
        Figure("  processor time", mine[1], "s", None, None, "git lfs fetch", peer[1]),
    ]
    return conclude("lfs_fetch", figures, arguments, size_mib=mebibytes, rounds=arguments.rounds)


if __name__ == "__main__":
    sys.exit(main())
