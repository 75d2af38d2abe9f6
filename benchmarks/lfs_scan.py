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
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mirror_sync.domain.names import GitOid
from mirror_sync.repos.git import Git
from mirror_sync.repos.scan import scan_pointers
from tests.support.history import NEWEST, build_history, pointers_in

INCREMENTAL_SECONDS = 0.050
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repository", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lfs-scan-") as made:
        repository = options.repository or Path(made) / "history.git"
        prepare(repository, options.commits)
        bitmapped = with_bitmap(repository, Path(made) / "bitmap.git")
        ways = {
            INCREMENTAL: ours(repository, scanned="earlier"),
            FULL: ours(repository),
            BITMAP: ours(bitmapped),
            GIT_LFS: lambda: git_lfs(repository),
        }
        results = {name: Taken() for name in ways}
        ways[INCREMENTAL]()  # the first one imports
        for _ in range(options.rounds):
            for name, work in ways.items():
                for _ in range(RUNS_A_ROUND if name == INCREMENTAL else 1):
                    results[name].run(work)
    return report(results, options)


def report(results: dict[str, Taken], options: argparse.Namespace) -> int:
    medians = {name: statistics.median(taken.wall) for name, taken in results.items()}
    ratios = {name: medians[GIT_LFS] / median for name, median in medians.items()}
    print(f"{'':24} {'median':>10} {'best':>10} {'CPU':>10} {'pointers':>9} {'times as fast':>14}")
    for name, taken in results.items():
        print(
            f"{name:24} {medians[name]:9.3f}s {min(taken.wall):9.3f}s {statistics.median(taken.cpu):9.3f}s "
            f"{taken.pointers:9} {ratios[name]:14.1f}"
        )
    expected = pointers_in(options.commits)
    missed = []
    if any(taken.pointers != expected for name, taken in results.items() if name != INCREMENTAL):
        missed.append(f"not everyone found {expected} pointers")
    if medians[INCREMENTAL] > INCREMENTAL_SECONDS:
        missed.append(f"the {INCREMENTAL} took more than {INCREMENTAL_SECONDS * 1000:.0f} ms")
    if ratios[FULL] < FULL_RATIO:
        missed.append(f"everything was found less than {FULL_RATIO:.0f} times as fast as by git-lfs")
    figures = {
        "commits": options.commits,
        "floors_missed": missed,
        "results": {
            name: {
                "median_seconds": round(medians[name], 4),
                "best_seconds": round(min(taken.wall), 4),
                "cpu_seconds": round(statistics.median(taken.cpu), 4),
                "pointers": taken.pointers,
                "times_as_fast": round(ratios[name], 1),
            }
            for name, taken in results.items()
        },
    }
    print(json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    for reason in missed:
        print(reason, file=sys.stderr)
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
