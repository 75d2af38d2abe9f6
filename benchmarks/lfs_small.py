"""Many small LFS objects far away: ours beside ``git lfs fetch``.

    python -m benchmarks.lfs_small [--objects 10000] [--bytes 10000] [--round-trip 0.05] [--rounds 1]

Every connection's bytes take half a round trip each way, and a new connection waits for
one more.  Both begin with nothing; ours flushes what it promotes, git-lfs does not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from benchmarks.links import MOST_MEGABYTES, removed, said, served
from tests.support.link import Link, Weather
from tests.support.mirroring import carried
from tests.support.upstream import GitUpstream, isolated_git_environment

NAME = "bench/small"
LEAST_TIMES = 3.0


def make(directory: Path, objects: int, size: int) -> list[str]:
    """Make a repository with so many objects and return their ``OID:SIZE``."""
    repo = GitUpstream(directory).create(NAME)
    chance = random.Random(1)
    files = {f"d{number % 100:02}/{number}.bin": chance.randbytes(size) for number in range(objects)}
    repo.commit({}, lfs=files)
    os.sync()
    return [f"{oid}:{size}" for oid in repo.lfs.oids()]


def ours(link: Link, work: Path, listed: Path, most: int) -> tuple[float, float]:
    """Return seconds and peak memory of one transfer of ours."""
    store = work / "ours"
    command = [
        sys.executable, "-m", "benchmarks.lfs_carrier", str(most), f"{link.origin}/{NAME}", str(store), f"@{listed}",
    ]  # fmt: skip
    done = carried(lambda _: command, log=work / "ours.log", seconds=3600.0)
    removed(store)
    return float(json.loads(done.output.splitlines()[-1])["seconds"]), done.peak_megabytes


def theirs(link: Link, work: Path, count: int) -> float:
    """Return the seconds of one ``git lfs fetch``."""
    environment = {**isolated_git_environment(work / "home"), "GIT_LFS_SKIP_SMUDGE": "1"}
    clone = work / "theirs"
    url = f"{link.origin}/{NAME}"
    subprocess.run(["git", "clone", "-q", url, str(clone)], env=environment, check=True, capture_output=True)
    began = time.perf_counter()
    subprocess.run(["git", "lfs", "fetch"], cwd=clone, env=environment, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    found = sum(1 for path in (clone / ".git/lfs/objects").rglob("*") if path.is_file())
    if found != count:
        raise SystemExit(f"git lfs fetch brought {found} of {count}")
    removed(clone)
    return seconds


def main() -> int:
    told = options(
        __doc__,
        (("--objects",), {"type": int, "default": 10_000}),
        (("--bytes",), {"type": int, "default": 10_000}),
        (("--round-trip",), {"type": float, "default": 0.05, "metavar": "SECONDS"}),
        (("--connections",), {"type": int, "default": 32, "help": "that we may use at most; git-lfs uses its own 8"}),
        (("--rounds",), {"type": int, "default": 1}),
        (("--directory",), {"type": Path, "help": "where to work (default: a temporary directory)"}),
    ).parse_args()
    mine, lfs, peak = [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-", dir=told.directory) as scratch:
        work = Path(scratch)
        wanted = make(work / "upstream", told.objects, told.bytes)
        listed = work / "wanted"
        listed.write_text("\n".join(wanted))
        with (
            served(work / "upstream") as port,
            Link(port, Weather(round_trip=told.round_trip)) as link,
        ):
            for _ in range(told.rounds):
                seconds, memory = ours(link, work, listed, told.connections)
                mine.append(seconds)
                peak = max(peak, memory)
                said(f"ours: {seconds:.1f} s, at most {link.count().peak} connections")
                lfs.append(theirs(link, work, len(wanted)))
                said(f"git lfs fetch: {lfs[-1]:.1f} s")
    what = f"{told.objects:,} objects of {told.bytes:,} bytes, wall time"
    figures = [
        Figure(what, median(mine), "s", None, None, "git lfs fetch", median(lfs)),
        Figure("  times as fast as git lfs fetch", median(lfs) / median(mine), "x", None, LEAST_TIMES),
        Figure("  objects a second", told.objects / median(mine), "", None, None, "git lfs fetch", told.objects / median(lfs)),
        Figure("  memory of our process, peak", peak, "MB", MOST_MEGABYTES),
    ]  # fmt: skip
    return conclude(
        "lfs_small",
        figures,
        told,
        objects=told.objects,
        bytes=told.bytes,
        round_trip=told.round_trip,
        connections=told.connections,
    )


if __name__ == "__main__":
    sys.exit(main())
