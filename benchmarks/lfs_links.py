"""One large LFS object over links that hold back, cut and kill: ours beside git-lfs and aria2c.

    python -m benchmarks.lfs_links [--size 1024] [--seeds 20] [--parts cap,cuts,kills,open]

``cap``: each connection gets ``--connection-rate`` MiB/s; wall time of the object against
``git lfs fetch`` and ``aria2c -x8 -s8`` (left out and said so where it is not installed).
``cuts``: each connection is cut after ``--cut`` MiB; every seed must verify.  ``kills``:
ten ``kill -9``; what comes over the link beyond the object's size, to the parts that were
under way.  ``open``: straight from the server.  Ours hashes, journals and flushes; every
crossing is a process of its own, and its start counts only where it is killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from benchmarks.links import MEBIBYTE, MOST_MEGABYTES, Series, mebibytes, removed, said, served
from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer
from tests.support.link import Link, Weather
from tests.support.mirroring import Carried, carried
from tests.support.upstream import GitUpstream, isolated_git_environment

NAME = "bench/large"
CONNECTIONS = 8
LEAST_TIMES_CAPPED = 7.5
LEAST_TIMES_OPEN = 2.0
MOST_BYTES = 1.05
KILLS = 10
KILL_EVERY = (1.5, 3.0)
SECONDS = 3600.0
ARIA_SLACK = 0.97
"""As fast as aria2c within what two runs of the same program differ by."""
PARTS = ("cap", "cuts", "kills", "open")


def make(directory: Path, size: int) -> Pointer:
    """Make a repository with one LFS object of ``size`` bytes."""
    repo = GitUpstream(directory).create(NAME)
    block = random.Random(1).randbytes(MEBIBYTE)
    path, whole = directory / "draft", hashlib.sha256()
    with path.open("wb") as file:
        for index in range(size // MEBIBYTE):
            piece = index.to_bytes(8, "big") + block[8:]
            whole.update(piece)
            file.write(piece)
    oid = whole.hexdigest()
    path.rename(repo.lfs.directory / oid)
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
    repo.commit({"weights.bin": text, ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    os.sync()  # what was just written must not be flushed while something is measured
    return Pointer(LfsOid(oid), size)


class Bench:
    """One object upstream and the ways to bring it."""

    def __init__(self, work: Path, port: int, pointer: Pointer) -> None:
        self.work = work
        self.port = port
        self.pointer = pointer

    def ours(
        self, origin: str, *, seed: int = 0, kill_every: tuple[float, float] | None = None, kills: int | None = None
    ) -> Carried:
        """Bring it by our transfer; what arrived is verified again from the disk."""
        store = self.work / "ours"
        words = [str(CONNECTIONS), f"{origin}/{NAME}", str(store), f"{self.pointer.oid}:{self.pointer.size}"]
        done = carried(
            lambda _: [sys.executable, "-m", "benchmarks.lfs_carrier", *words],
            log=self.work / "ours.log", seconds=SECONDS, seed=seed, kill_every=kill_every, kills=kills,
        )  # fmt: skip
        oid = self.pointer.oid
        with (store / "objects" / oid[:2] / oid[2:4] / oid).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != oid:
                raise SystemExit("what arrived is not what its name says")
        removed(store)
        return done

    def git_lfs(self, origin: str) -> float:
        """Return the seconds of one ``git lfs fetch`` into an empty clone."""
        environment = {**isolated_git_environment(self.work / "home"), "GIT_LFS_SKIP_SMUDGE": "1"}
        clone = self.work / "theirs"
        url = f"{origin}/{NAME}"
        subprocess.run(["git", "clone", "-q", url, str(clone)], env=environment, check=True, capture_output=True)
        began = time.perf_counter()
        fetch = ["git", "-c", "lfs.concurrenttransfers=8", "lfs", "fetch"]
        subprocess.run(fetch, cwd=clone, env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        oid = self.pointer.oid
        if (clone / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid).stat().st_size != self.pointer.size:
            raise SystemExit("git lfs fetch brought something else")
        removed(clone)
        return seconds

    def aria2c(self, origin: str) -> float | None:
        """Return the seconds of aria2c with eight connections, hash checked; ``None`` when it is not installed."""
        if shutil.which("aria2c") is None:
            said("aria2c is not installed: apt-get install aria2")
            return None
        into = self.work / "aria"
        oid = self.pointer.oid
        began = time.perf_counter()
        subprocess.run(
            ["aria2c", "-q", "-x8", "-s8", "--no-conf", f"--dir={into}", "--out=it", f"--checksum=sha-256={oid}",
             f"{origin}/-/lfs/{NAME}/{oid}"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if (into / "it").stat().st_size != self.pointer.size:
            raise SystemExit("aria2c brought something else")
        removed(into)
        return seconds


def seconds_of(done: Carried) -> float:
    """Return the seconds that the transfer itself took."""
    return float(json.loads(done.output.splitlines()[-1])["seconds"])


def raced(bench: Bench, origin: str, rounds: int, *, aria: bool) -> tuple[list[float], float, float, float | None]:
    """Bring it in turns; return our seconds and peak memory, and the seconds of the peers (medians)."""
    mine, peak = [], 0.0
    lfs: list[float] = []
    arias: list[float] = []
    for _ in range(rounds):
        done = bench.ours(origin)
        mine.append(seconds_of(done))
        peak = max(peak, done.peak_megabytes)
        said(f"ours: {mine[-1]:.2f} s")
        lfs.append(bench.git_lfs(origin))
        said(f"git lfs fetch: {lfs[-1]:.2f} s")
        if aria and (took := bench.aria2c(origin)) is not None:
            arias.append(took)
            said(f"aria2c: {took:.2f} s")
    return mine, peak, median(lfs), median(arias) if arias else None


def capped(bench: Bench, told: argparse.Namespace) -> list[Figure]:
    with Link(bench.port, Weather(connection_rate=told.connection_rate * MEBIBYTE)) as link:
        mine, peak, lfs, aria = raced(bench, link.origin, told.rounds_capped, aria=True)
    ours = median(mine)
    figures = [
        Figure(
            f"{told.connection_rate:g} MiB/s for each connection, wall time",
            ours,
            "s",
            None,
            None,
            "git lfs fetch",
            lfs,
        ),
        Figure("  times as fast as git lfs fetch", lfs / ours, "x", None, LEAST_TIMES_CAPPED),
        Figure("  memory of our process, peak", peak, "MB", MOST_MEGABYTES),
    ]
    if aria is not None:
        figures += [
            Figure("  the same beside aria2c", ours, "s", None, None, "aria2c -x8 -s8", aria),
            Figure("  times as fast as aria2c -x8 -s8", aria / ours, "x", None, ARIA_SLACK),
        ]
    return figures


def cut(bench: Bench, told: argparse.Namespace) -> list[Figure]:
    series = Series("cuts", bench.pointer.size)
    for seed in range(1, told.seeds + 1):
        with Link(bench.port, Weather(seed=seed, cut_bytes=told.cut, resets=0.3)) as link:

            def attempt(link: Link = link, seed: int = seed) -> tuple[float, int, float, str]:
                done = bench.ours(link.origin, seed=seed)
                return seconds_of(done), 0, done.peak_megabytes, ""

            series.cross(seed, link, attempt)
        removed(bench.work / "ours")
    return series.figures(most=MOST_BYTES)


def killed(bench: Bench, told: argparse.Namespace) -> list[Figure]:
    weather = Weather(link_rate=bench.pointer.size / (KILLS * sum(KILL_EVERY) / 2))
    with Link(bench.port, weather) as link:
        done = bench.ours(link.origin, seed=1, kill_every=KILL_EVERY, kills=KILLS)
        count = link.count()
    extra = (count.down - bench.pointer.size) / max(1, done.kills) / MEBIBYTE
    return [
        Figure("kill -9, times", done.kills, "", None, KILLS),
        Figure("  bytes again for each kill", extra, "MiB", told.under_way),
        Figure("  bytes over the link to the size", count.down / bench.pointer.size, "x"),
        Figure("  memory of our process, peak", done.peak_megabytes, "MB", MOST_MEGABYTES),
    ]


def unhindered(bench: Bench, told: argparse.Namespace) -> list[Figure]:
    mine, peak, lfs, _ = raced(bench, f"http://127.0.0.1:{bench.port}", told.rounds, aria=False)
    ours = median(mine)
    return [
        Figure("nothing in the way, wall time", ours, "s", None, None, "git lfs fetch", lfs),
        Figure("  times as fast as git lfs fetch", lfs / ours, "x", None, LEAST_TIMES_OPEN),
        Figure("  rate", bench.pointer.size / MEBIBYTE / ours, "MiB/s"),
        Figure("  memory of our process, peak", peak, "MB", MOST_MEGABYTES),
    ]


def main() -> int:
    told = options(
        __doc__,
        (("--size",), {"type": int, "default": 1024, "metavar": "MIB"}),
        (("--seeds",), {"type": int, "default": 20}),
        (("--cut",), {"type": mebibytes, "default": "4-32", "metavar": "MIB-MIB"}),
        (("--connection-rate",), {"type": float, "default": 8.0, "metavar": "MIB/S"}),
        (("--rounds",), {"type": int, "default": 3, "help": "with nothing in the way"}),
        (("--rounds-capped",), {"type": int, "default": 1}),
        (("--under-way",), {"type": float, "default": 256.0, "metavar": "MIB", "help": "what the parts in flight may hold"}),
        (("--parts",), {"default": ",".join(PARTS)}),
        (("--directory",), {"type": Path, "help": "where to work (default: a temporary directory)"}),
    ).parse_args()  # fmt: skip
    kinds = dict(zip(PARTS, (capped, cut, killed, unhindered), strict=True))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-", dir=told.directory) as scratch:
        work = Path(scratch)
        pointer = make(work / "upstream", told.size * MEBIBYTE)
        with served(work / "upstream") as port:
            bench = Bench(work, port, pointer)
            for part in told.parts.split(","):
                figures += kinds[part](bench, told)
    return conclude(
        "lfs_links", figures, told, size_mib=told.size, seeds=told.seeds,
        cut_mib=[size / MEBIBYTE for size in told.cut], connection_rate_mib=told.connection_rate,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
