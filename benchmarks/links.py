"""What the benchmarks of failing links share: an upstream in its own process, figures of several crossings."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure, median
from benchmarks.stage import git, process
from tests.support.compare import refs_of
from tests.support.link import Count, Link
from tests.support.mirroring import NotCarried, fsck
from tests.support.upstream import isolated_git_environment

MEBIBYTE = 1 << 20
MOST_MEGABYTES = 200.0
"""Of memory, for each Python process of ours."""
SELECTED = ("refs/heads/*", "refs/tags/*", "refs/notes/*")
"""What a mirror follows by default; a plain clone is given nothing else to bring."""


def copy(source: str, place: Path, *, bitmap: bool = False) -> None:
    """Make a bare repository at ``place`` of what a mirror follows of ``source``, a path or URL, served as a public host does."""
    git("init", "-q", "--bare", str(place))
    if Path(source).is_dir() and not bitmap:
        objects = git("-C", source, "rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
        (place / "objects" / "info" / "alternates").write_text(objects + "\n")
    settings = {"uploadpack.allowFilter": "true", "uploadpack.allowAnySHA1InWant": "true", "gc.auto": "0"}
    for key, value in settings.items():
        git("-C", str(place), "config", key, value)
    git("-C", str(place), "fetch", "-q", "--no-tags", source, *(f"+{ref}:{ref}" for ref in SELECTED))
    head = git("ls-remote", "--symref", source, "HEAD").decode().split()
    if head[:1] == ["ref:"]:
        git("-C", str(place), "symbolic-ref", "HEAD", head[1])
    git("-C", str(place), "pack-refs", "--all")
    if bitmap:
        git("-C", str(place), "repack", "-adbq")


@contextlib.contextmanager
def served(directory: Path) -> Iterator[int]:
    """Serve what is below ``directory`` from a process of its own and yield its port."""
    with process("tests.support.upstream", str(directory)) as origin:
        yield int(origin.rpartition(":")[2])


def plain_clone(url: str, into: Path) -> float | None:
    """Try ``git clone --mirror`` and return its seconds, or ``None`` when it fails."""
    environment = {**os.environ, **isolated_git_environment(into.parent / "home")}
    began = time.perf_counter()
    done = subprocess.run(
        ["git", "clone", "-q", "--mirror", url, str(into)], env=environment, capture_output=True, check=False
    )
    return time.perf_counter() - began if done.returncode == 0 else None


@dataclass(frozen=True, slots=True)
class Judge:
    """What upstream has, asked once, and whether a copy has the same."""

    refs: dict[str, str]
    said: list[str]
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, repository: Path, *prefixes: str) -> Judge:
        """Return what upstream has of the refs whose names begin so, without any of all."""
        return cls(refs_of(repository, *prefixes), fsck(repository), prefixes)

    def fault(self, copied: Path) -> str:
        """Return what is wrong with a copy, or an empty string."""
        if refs_of(copied, *self.prefixes) != self.refs:
            return "its refs are not upstream's"
        said = fsck(copied)
        return "" if said == self.said else f"git fsck says {said[:3]} of it and {self.said[:3]} of upstream"


@dataclass(slots=True)
class Series:
    """Crossings of one kind, one for each seed."""

    what: str
    ideal: int
    """Bytes that a good link carries for it."""
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    kills: int = 0
    peak: float = 0.0
    tried: int = 0
    plain_done: int = 0
    plain_tried: int = 0
    failures: list[str] = field(default_factory=list)

    def cross(self, seed: int, link: Link, attempt: Callable[[], tuple[float, int, float, str]]) -> None:
        """Count one crossing: ``attempt`` returns seconds, kills, megabytes of memory, and what is wrong with the result."""
        before = link.count()
        self.tried += 1
        try:
            seconds, kills, peak, fault = attempt()
        except NotCarried as error:
            self._failed(seed, str(error)[:3000])
            return
        after = link.count()
        self.kills += kills
        self.peak = max(self.peak, peak)
        if fault:
            self._failed(seed, fault)
            return
        self.seconds.append(seconds)
        self.ratios.append((after.down - before.down) / self.ideal)
        self.cuts.append(after.cuts - before.cuts)
        said(
            f"{self.what}, seed {seed}: {seconds:.1f} s, {self.ratios[-1]:.3f} of the bytes, {self.cuts[-1]} cuts, {kills} kills"
        )

    def _failed(self, seed: int, why: str) -> None:
        self.failures.append(f"seed {seed}: {why}")
        said(f"{self.what}, seed {seed}: FAILED: {why}")

    def figures(self, *, most: float | None = None, peer: str = "git clone --mirror") -> list[Figure]:
        """Return the figures; ``most`` is the floor for the bytes."""
        done = len(self.ratios)
        rows = [Figure(f"{self.what}: completed, of {self.tried}", done, "", None, self.tried)]
        if self.plain_tried:
            rows.append(Figure(f"  {peer} completed, of {self.plain_tried}", self.plain_done, "", 1))
        if done:
            rows += [
                Figure("  bytes over the link, worst, to a good link's", max(self.ratios), "x", most),
                Figure("  bytes over the link, median", median(self.ratios), "x"),
                Figure("  wall time, median", median(self.seconds), "s"),
                Figure("  cuts survived, median", median(self.cuts), ""),
            ]
        if self.kills:
            rows.append(Figure("  kills", self.kills, ""))
        if self.peak:
            rows.append(Figure("  memory of our process, peak", self.peak, "MB", MOST_MEGABYTES))
        return rows


def said(text: str) -> None:
    """Tell how far it is, with the load of the moment, where the figures do not stand."""
    print(f"[load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)


def mebibytes(text: str) -> tuple[int, int]:
    """Read ``4-32`` as bytes between so many MiB."""
    least, _, most = text.partition("-")
    return int(float(least) * MEBIBYTE), int(float(most or least) * MEBIBYTE)


def delta(before: Count, after: Count) -> int:
    """Return the bytes that came down between two counts."""
    return after.down - before.down


def removed(*places: Path) -> None:
    """Delete directories that are not needed any more."""
    subprocess.run(["rm", "-rf", *map(str, places)], check=True)
