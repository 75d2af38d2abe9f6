"""Publishing many refs, durable and in one step, beside ``git update-ref --stdin``.

    python -m benchmarks.publish [--refs 2000 100000] [--rounds 7] [--json FILE] [--check]

Ours is one publish as a sync does it: roots written wide, the new view built, the flip,
roots trimmed; every file and directory fsynced, readers never see a mixture.  Measured
with a handful of refs moved, with all of them moved at once, and with all of them new.
The peer moves the same refs in a packed bare repository by one transaction, which
readers see in pieces.  Objects are in the store before: bringing them is another step.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from benchmarks.processes import own_cpu
from benchmarks.stage import git
from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.ports import PublishRequest
from mirror_sync.repos import Repositories

LIMIT_MS = {2_000: 20.0, 100_000: 150.0}
FEW = 10
COMMITS = 200
HEAD = RefName("refs/heads/main")
NAME = MirrorName("bench.example/acme/refs")

Tips = dict[RefName, GitOid]


def history(directory: Path) -> list[GitOid]:
    """Make a bare repository of a line of commits and return their ids, oldest first."""
    git("init", "-q", "--bare", str(directory))
    lines = [
        f"commit refs/heads/main\ncommitter A <a@b> {1_700_000_000 + number} +0000\ndata 2\nc\n"
        for number in range(COMMITS)
    ]
    git("fast-import", "--quiet", cwd=directory, data="".join(lines).encode())
    return [GitOid(line) for line in git("rev-list", "--reverse", "main", cwd=directory).decode().split()]


def tips(count: int, commits: list[GitOid], *, shift: int = 0, moved: int = 0) -> Tips:
    """Return ``count`` refs over the commits; ``moved`` of them point at another one than without ``shift``."""
    found = {HEAD: commits[shift % COMMITS]}
    for number in range(count - 1):
        turn = shift if number < moved else 0
        found[RefName(f"refs/tags/build-{number:07}")] = commits[(number + turn) % COMMITS]
    return found


class Ours:
    """A store that has every object, published again and again."""

    def __init__(self, directory: Path, upstream: Path, commits: list[GitOid]) -> None:
        self._repository = Repositories(directory, clock=SystemClock(), reserve_bytes=0).open(NAME)
        pack = git("pack-objects", "--revs", "--stdout", "-q", cwd=upstream, data=f"{commits[-1]}\n".encode())
        with self._repository.lock():
            self._repository.create(ObjectFormat.SHA1)
            assert self._repository.filling().take([pack], max_bytes=1 << 40).complete
            self._repository.promote([commits[-1]])

    def publish(self, wanted: Tips) -> tuple[float, float]:
        """Publish and return the wall and processor seconds of that step."""
        repository = self._repository
        with repository.lock():
            before = repository.published()
            request = PublishRequest(
                view=repository.next_view(), expected_view=before.number, snapshot=RefSnapshot(wanted, HEAD), kept=()
            )
            began, used = time.perf_counter(), own_cpu()
            repository.publish(request, confirm=lambda: None)
            return time.perf_counter() - began, own_cpu() - used


class Theirs:
    """A bare repository with the same refs, packed."""

    def __init__(self, directory: Path, upstream: Path) -> None:
        shutil.copytree(upstream, directory)
        self._directory = directory

    def publish(self, wanted: Tips, changed: Tips) -> tuple[float, float]:
        """Move the changed refs in one transaction, pack them again unmeasured, and return what it took."""
        orders = "".join(f"update {name} {oid}\n" for name, oid in changed.items()).encode()
        began, used = time.perf_counter(), own_cpu()
        git("update-ref", "--stdin", cwd=self._directory, data=orders)
        took = time.perf_counter() - began, own_cpu() - used
        git("pack-refs", "--all", cwd=self._directory)
        found = subprocess.run(["git", "for-each-ref"], cwd=self._directory, check=True, capture_output=True).stdout
        if found.count(b"\n") != len(wanted):
            raise SystemExit("git update-ref left other refs")
        return took


def measure(work: Path, upstream: Path, commits: list[GitOid], count: int, rounds: int) -> list[Figure]:
    """Return the figures for one number of refs."""
    first = tips(count, commits)
    created = [Ours(work / f"new-{count}-{number}", upstream, commits).publish(first) for number in range(3)]
    mine, peer = Ours(work / f"ours-{count}", upstream, commits), Theirs(work / f"theirs-{count}", upstream)
    mine.publish(first)
    peer_created = peer.publish(first, first)
    limit = LIMIT_MS.get(count)
    figures = []
    for moved in (FEW, count):
        taken, peer_taken = [], []
        before = first
        for turn in range(1, rounds + 1):
            wanted = tips(count, commits, shift=turn, moved=moved)
            changed = {name: oid for name, oid in wanted.items() if before.get(name) != oid}
            before = wanted
            taken.append(mine.publish(wanted))
            if moved == FEW or turn == 1:  # a transaction over all refs takes a minute
                peer_taken.append(peer.publish(wanted, changed))
        mine.publish(first)
        what = f"{count:,} refs, {'all' if moved == count else moved} of them moved"
        figures += rows(what, taken, peer_taken, limit)
        first_again = {name: oid for name, oid in first.items() if before.get(name) != oid}
        if moved == FEW:
            peer.publish(first, first_again)
    return [*figures, *rows(f"{count:,} refs, all new", created, [peer_created], limit)]


def rows(
    what: str, taken: list[tuple[float, float]], peer: list[tuple[float, float]], limit: float | None
) -> list[Figure]:
    """Return wall and processor time of one kind of publish."""
    wall, used = (median(column) * 1e3 for column in zip(*taken, strict=True))
    peer_wall, peer_used = (median(column) * 1e3 for column in zip(*peer, strict=True))
    return [
        Figure(what, wall, "ms", limit, None, "git update-ref", peer_wall),
        Figure("  its processor time", used, "ms", None, None, "git update-ref", peer_used),
    ]


def main() -> int:
    told = options(
        __doc__,
        (("--refs",), {"type": int, "nargs": "+", "default": list(LIMIT_MS)}),
        (("--rounds",), {"type": int, "default": 7}),
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-") as made:
        work = Path(made)
        commits = history(work / "upstream.git")
        figures = [
            figure
            for count in told.refs
            for figure in measure(work, work / "upstream.git", commits, count, told.rounds)
        ]
    return conclude("publish", figures, told, rounds=told.rounds)


if __name__ == "__main__":
    sys.exit(main())
