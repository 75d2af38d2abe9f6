"""First mirrors of Git over links that cut every connection: do they complete, and what do they cost?

    python -m benchmarks.git_links [--seeds 20] [--text PATH|URL ...] [--parts cuts,small,latency,kills]

Every seed crosses by the worker's own code, in a process of its own, over a link that
cuts each connection after a random number of bytes (``--cut``, MiB), once for a repository
of incompressible files and once for each text history given with ``--text`` (bare, real,
100 MB or more; a URL is fetched once).  "Bytes" are those that the link carried down to
us, to those of a plain ``git clone --mirror`` over the same link without cuts; the same
plain clone is tried over each cutting link.  A crossing counts when refs and the words of
``git fsck --full`` are upstream's.

Parts: ``cuts`` as above; ``small``: cuts at ``--small-cut`` MiB, text alone; ``latency``:
the whole link capped to ``--rate`` MiB/s with ``--round-trip`` seconds, wall time with cuts
to that without; ``kills``: ``kill -9`` every few seconds, twenty times, on a link with four times that rate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options
from benchmarks.links import MEBIBYTE, Judge, Series, copy, delta, mebibytes, plain_clone, removed, said, served
from tests.support.binary_history import Shape, cached_binary_history
from tests.support.link import Link, Weather
from tests.support.mirroring import carried, mirror_command, view_of

MOST_BYTES = 1.15
MOST_BYTES_BITMAP = 1.35
"""Where upstream serves a text history by bitmap: what it sends leans on less."""
MOST_BYTES_SMALL_CUTS = 1.35
MOST_WALL = 1.25
KILL_EVERY = (2.0, 5.0)
KILLS = 20
SECONDS = 3600.0
PARTS = ("cuts", "small", "latency", "kills")
CLONED = ("refs/heads/", "refs/tags/")
"""What ``git clone --bare`` brings, and so ours."""


class Bench:
    """One upstream, one work directory, and the ways to cross."""

    def __init__(self, work: Path, port: int, *, by: str) -> None:
        self.work = work
        self.port = port
        self.by = by
        self.judges: dict[str, Judge] = {}
        self.ideals: dict[str, int] = {}

    def ideal(self, name: str) -> int:
        """Return the bytes of a plain clone over a good link."""
        if name not in self.ideals:
            with Link(self.port) as link:
                seconds = plain_clone(f"{link.origin}/{name}", self.work / "ideal")
                if seconds is None:
                    raise SystemExit(f"a plain clone of {name} fails without any fault")
                self.ideals[name] = link.count().down
                said(f"{name}: a plain clone is {self.ideals[name] / 1e6:.0f} MB and takes {seconds:.1f} s")
            removed(self.work / "ideal")
            self.judges[name] = Judge.of(
                self.work / "up" / "repositories" / f"{name}.git", *(CLONED if self.by == "clone" else ())
            )
        return self.ideals[name]

    def series(
        self,
        what: str,
        name: str,
        weather: Weather,
        seeds: int,
        *,
        plain: bool = False,
        kill_every: tuple[float, float] | None = None,
    ) -> Series:
        """Cross once for each seed."""
        series = Series(what, self.ideal(name))
        for seed in range(1, seeds + 1):
            with Link(self.port, replace(weather, seed=seed)) as link:
                url = f"{link.origin}/{name}"
                if plain:
                    before = link.count()
                    series.plain_tried += 1
                    series.plain_done += plain_clone(url, self.work / "plain") is not None
                    said(f"git clone --mirror, seed {seed}: gave up after {delta(before, link.count()) / 1e6:.0f} MB")
                    removed(self.work / "plain")
                series.cross(seed, link, lambda url=url, seed=seed: self._cross(name, url, seed, kill_every))
            removed(self.work / "copy")
        return series

    def _cross(
        self, name: str, url: str, seed: int, kill_every: tuple[float, float] | None
    ) -> tuple[float, int, float, str]:
        directory = self.work / "copy"
        clone = [sys.executable, "-m", "mirror_sync", "clone", "--quiet", "--bare", url, str(directory)]
        done = carried(
            mirror_command(directory, url, "--no-lfs") if self.by == "mirror" else lambda _: clone,
            log=self.work / "copy.log", seconds=SECONDS, kill_every=kill_every, kills=KILLS, seed=seed,
        )  # fmt: skip
        made = view_of(directory, url) if self.by == "mirror" else directory
        return done.seconds, done.kills, done.peak_megabytes, self.judges[name].fault(made)


def main(by: str = "mirror") -> int:
    told = options(
        __doc__,
        (("--seeds",), {"type": int, "default": 20}),
        (("--few",), {"type": int, "default": 3, "help": "seeds for the parts that take longer"}),
        (("--cut",), {"type": mebibytes, "default": "4-32", "metavar": "MIB-MIB"}),
        (("--small-cut",), {"type": mebibytes, "default": "1-4", "metavar": "MIB-MIB"}),
        (("--megabytes",), {"type": int, "default": 400, "help": "of incompressible files; 0: none"}),
        (("--text",), {"action": "append", "default": [], "metavar": "PATH|URL"}),
        (("--bitmap",), {"action": "store_true", "help": "serve the text histories by bitmap"}),
        (("--rate",), {"type": float, "default": 8.0, "metavar": "MIB/S"}),
        (("--round-trip",), {"type": float, "default": 0.1, "metavar": "SECONDS"}),
        (("--parts",), {"default": ",".join(PARTS)}),
        (("--directory",), {"type": Path, "help": "where to work (default: a temporary directory)"}),
        (("--cache",), {"type": Path, "help": "where made repositories are kept for the next time"}),
    ).parse_args()
    parts = told.parts.split(",")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="mirror-sync-bench-", dir=told.directory) as scratch:
        work = Path(scratch)
        names = {}
        if told.megabytes:
            shape = Shape(megabytes=told.megabytes, commits=told.megabytes * 15 // 2)
            source = cached_binary_history(told.cache or work / "made", shape)
            names["binary"] = f"binary {told.megabytes} MB"
            (work / "up" / "repositories").mkdir(parents=True)
            copy(str(source), work / "up" / "repositories" / "binary.git")
        for number, source in enumerate(told.text):
            place = work / "up" / "repositories" / f"text{number}.git"
            place.parent.mkdir(parents=True, exist_ok=True)
            said(f"bringing {source}")
            copy(source, place, bitmap=told.bitmap)
            stem = Path(source)
            names[f"text{number}"] = "text " + (stem.parent.name if stem.name in {"repo", "repo.git"} else stem.name)
        with served(work / "up") as port:
            bench = Bench(work, port, by=by)
            for name, called in names.items():
                figures += crossings(bench, name, called, told, parts)
    return conclude(
        "git_links" if by == "mirror" else "clone_links", figures, told, seeds=told.seeds, few=told.few, cut_mib=[size / MEBIBYTE for size in told.cut],
        small_cut_mib=[size / MEBIBYTE for size in told.small_cut], rate_mib=told.rate, round_trip=told.round_trip,
        kill_every=KILL_EVERY, bitmap=told.bitmap,
    )  # fmt: skip


def crossings(bench: Bench, name: str, called: str, told: argparse.Namespace, parts: list[str]) -> list[Figure]:
    """Return the figures of one repository."""
    figures: list[Figure] = []
    text = name != "binary"
    most = MOST_BYTES_BITMAP if text and told.bitmap else MOST_BYTES
    cut, few = Weather(cut_bytes=told.cut, resets=0.3), told.few
    slow = Weather(link_rate=told.rate * MEBIBYTE, round_trip=told.round_trip)
    if "cuts" in parts:
        figures += bench.series(f"{called}, cuts", name, cut, told.seeds, plain=True).figures(most=most)
    if "small" in parts and text:
        small = replace(cut, cut_bytes=told.small_cut)
        figures += bench.series(f"{called}, small cuts", name, small, few).figures(most=MOST_BYTES_SMALL_CUTS)
    if "latency" in parts:
        uncut = bench.series(f"{called}, capped and far", name, slow, 1)
        both = replace(slow, cut_bytes=cut.cut_bytes, resets=cut.resets)
        with_cuts = bench.series(f"{called}, capped and far, cuts", name, both, few)
        figures += [*uncut.figures(), *with_cuts.figures(most=most)]
        if uncut.seconds and with_cuts.seconds:
            ratio = median(with_cuts.seconds) / median(uncut.seconds)
            figures.append(Figure("  wall time to that of the uncut link, median", ratio, "x", MOST_WALL))
    if "kills" in parts:
        capped = replace(cut, link_rate=4 * told.rate * MEBIBYTE)
        figures += bench.series(f"{called}, cuts, kill -9", name, capped, few, kill_every=KILL_EVERY).figures()
    return figures


if __name__ == "__main__":
    sys.exit(main())
