"""How long it takes to find LFS pointers, beside ``git lfs ls-files --all``.

    python -m benchmarks.lfs_scan [--commits 50000] [--rounds 3] [--repository DIR] [--json FILE] [--check]

Makes a seeded history (50,000 commits, 200,000 text files' versions, 5,000 pointers) in
one pack, as a fetch leaves it, and times on it: the pointers of the newest 50 commits,
everything without and with a bitmap, and git-lfs, which has no way to ask for what is
new.  Rounds are run in turns; times are wall clock and include starting git's processes.  ``--repository`` keeps
the history in DIR, or uses the one that is there.  ``--check`` exits 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from mirror_sync.domain.names import GitOid
from mirror_sync.repos.git import Git
from mirror_sync.repos.scan import scan_pointers
from tests.support.history import NEWEST, build_history, pointers_in

INCREMENTAL_MS = 50.0
"""Floor: the pointers of 50 new commits."""

FULL_RATIO = 10.0
"""Floor: how many times as fast as git-lfs everything is found."""


INCREMENTAL = f"newest {NEWEST} commits"
FULL = "everything"
BITMAP = "everything, bitmap"
GIT_LFS = "git lfs ls-files --all"
RUNS_A_ROUND = 7


def prepare(repository: Path, commits: int) -> None:
    if not (repository / "HEAD").exists():
        build_history(repository, commits)
        subprocess.run(["git", "-C", str(repository), "repack", "-adfq", "--no-write-bitmap-index"], check=True)


def with_bitmap(repository: Path, copy: Path) -> Path:
    shutil.copytree(repository, copy, symlinks=True)
    subprocess.run(["git", "-C", str(copy), "repack", "-adbq"], check=True)
    return copy


def tip(repository: Path, name: str) -> GitOid:
    answer = subprocess.run(["git", "-C", str(repository), "rev-parse", name], check=True, capture_output=True)
    return GitOid(answer.stdout.decode().strip())


def ours(repository: Path, *, scanned: str = "") -> Callable[[], int]:
    """Return the scan to time; the tips are known beforehand, as in a sync."""
    git, new = Git(repository), tip(repository, "main")
    excluded = [tip(repository, scanned)] if scanned else []
    return lambda: len({found.pointer.oid for found in scan_pointers(git, [new], scanned=excluded)})


def git_lfs(repository: Path) -> int:
    listing = subprocess.run(
        ["git", "lfs", "ls-files", "--all", "--long"], cwd=repository, check=True, capture_output=True
    ).stdout
    return len({line.split()[0] for line in listing.splitlines()})


@dataclass
class Taken:
    """What the runs of one way took."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    pointers: int = 0

    def run(self, work: Callable[[], int]) -> None:
        began, before = time.perf_counter(), cpu_seconds()
        self.pointers = work()
        self.wall.append(time.perf_counter() - began)
        self.cpu.append(cpu_seconds() - before)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> int:
    told = options(
        __doc__,
        (("--commits",), {"type": int, "default": 50_000}),
        (("--rounds",), {"type": int, "default": 3}),
        (("--repository",), {"type": Path}),
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="lfs-scan-") as made:
        repository = told.repository or Path(made) / "history.git"
        prepare(repository, told.commits)
        bitmapped = with_bitmap(repository, Path(made) / "bitmap.git")
        ways = {
            INCREMENTAL: ours(repository, scanned="earlier"),
            FULL: ours(repository),
            BITMAP: ours(bitmapped),
            GIT_LFS: lambda: git_lfs(repository),
        }
        results = {name: Taken() for name in ways}
        ways[INCREMENTAL]()  # the first one imports
        for _ in range(told.rounds):
            for name, work in ways.items():
                for _ in range(RUNS_A_ROUND if name == INCREMENTAL else 1):
                    results[name].run(work)
    return report(results, told)


def report(results: dict[str, Taken], told: argparse.Namespace) -> int:
    """Print the figures; what was found must be right."""
    expected = pointers_in(told.commits)
    wrong = [name for name, taken in results.items() if name != INCREMENTAL and taken.pointers != expected]
    if wrong:
        raise SystemExit(f"{', '.join(wrong)} did not find {expected} pointers")
    wall = {name: median(taken.wall) for name, taken in results.items()}
    cpu = {name: median(taken.cpu) for name, taken in results.items()}
    figures = [
        Figure(f"pointers of the {INCREMENTAL}, wall time", wall[INCREMENTAL] * 1e3, "ms", INCREMENTAL_MS, None,
               GIT_LFS, wall[GIT_LFS] * 1e3),
        Figure("  processor time, git's included", cpu[INCREMENTAL] * 1e3, "ms", None, None, GIT_LFS,
               cpu[GIT_LFS] * 1e3),
        Figure(f"{FULL}, wall time", wall[FULL], "s", None, None, GIT_LFS, wall[GIT_LFS]),
        Figure("  times as fast as git lfs ls-files --all", wall[GIT_LFS] / wall[FULL], "x", None, FULL_RATIO),
        Figure("  processor time, git's included", cpu[FULL], "s", None, None, GIT_LFS, cpu[GIT_LFS]),
        Figure(f"{BITMAP}, wall time", wall[BITMAP], "s", None, None, GIT_LFS, wall[GIT_LFS]),
    ]  # fmt: skip
    return conclude("lfs_scan", figures, told, commits=told.commits, rounds=told.rounds)


if __name__ == "__main__":
    sys.exit(main())
