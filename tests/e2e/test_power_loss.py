"""The order of syncs over a whole sync with LFS: a power cut at any instant leaves what was promised.

One trace of every system call of the worker and its git children: a first fill, an update
in rounds, the LFS objects of history, maintenance and a sweep, on SQLite.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.crash import Crasher
from tests.support.crash_world import DAY, Site, World
from tests.support.fsync_order import Disk, Violation, judge, strace
from tests.support.tools import require

SEED = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1_000_000))

GRAPH_REASON = "git does without this index when it is torn or gone, and the next maintenance writes it anew"
ALLOWED = (
    ("unsynced-source", re.compile(r"/store/objects/info/commit-graphs/commit-graph-chain$"), GRAPH_REASON),
    ("removed-early", re.compile(r"^\S*/store/objects/info/commit-graphs/graph-[0-9a-f]+\.graph "), GRAPH_REASON),
    (
        "removed-early",
        re.compile(r"\.keep while \S*/store/packed-refs was"),
        "the roots before these, durable since before the flip, protect the pack too: they name more",
    ),
)
"""Rule, what may break it, and why that harms nobody; the last test proves the reason."""

CARELESS = {
    "database": ("commit", r"/state/state\.db"),
    r"/lfs/incomplete/[0-9a-f]{64}$": ("unsynced-source", r"/lfs/objects/"),
    r"/lfs/objects/../..$": ("before-record", r"/lfs/objects/"),
    r"/store/objects/pack$": ("before-flip", r"/store/objects/pack/"),
    r"/store/tmp_[a-z]+-roots$": ("unsynced-source", r"/store/packed-refs"),
    r"/views/\.new-[0-9]+/HEAD$": ("unsynced-source", r"/views/"),
    r"/views$": ("before-flip", r"/views/"),
    r"\.git$": ("before-record", r"/current"),
}
"""What is not synced, and how the judge must tell of it."""


@dataclass
class Traced:
    world: World
    crasher: Crasher
    trace: Path
    directory: Path

    def judged(self, site: Site) -> Disk:
        self.crasher.close()
        return judge(self.trace, site.directory)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    tried = subprocess.run([require("strace"), "-f", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"impossible here: no process may be traced: {tried.stderr[:200]}")
    trace = tmp_path / "trace"
    with World(tmp_path / "world") as world:
        world.begin()
        crasher = Crasher(tmp_path / "log", prefix=strace(trace))
        try:
            yield Traced(world, crasher, trace, tmp_path)
        finally:
            crasher.close()


def excused(violation: Violation) -> bool:
    return any(violation.rule == rule and path.search(violation.what) for rule, path, _ in ALLOWED)


def test_nothing_relies_on_what_a_power_cut_could_take(traced: Traced) -> None:
    world, crasher = traced.world, traced.crasher
    site = world.make(crasher, traced.directory / "site", marks=True)
    assert crasher.run(site.config, "sync", marks=True).told["outcome"] == "published"
    world.move_on()
    assert crasher.run(site.config, "sync", marks=True, later=DAY).told["outcome"] == "published"
    assert crasher.run(site.config, "history", marks=True, later=DAY).told["done"]
    assert crasher.run(site.config, "maintain", marks=True, later=DAY).told["done"]
    for number in range(3):
        world.repo.commit({"text": str(number)}, branch="docs")
        world.note()
        assert crasher.run(site.config, "sync", marks=True, later=(2 + number) * DAY).told["outcome"] == "published"
    small = crasher.run(site.config, "maintain", marks=True, later=5 * DAY)
    assert any("--geometric" in label for label in small.labels), "packs were joined, not all made anew"
    crasher.run(site.config, "sweep", marks=True, later=200 * DAY)
    publishes = len(site.told()) - 1
    site.check_converged()
    disk = traced.judged(site)
    assert disk.flips == publishes >= 4, "every publish was followed"
    assert sum(name.startswith(f"{site.objects}/") for name in disk.nodes) >= 8, "LFS objects were followed"
    wrong = [violation for violation in disk.found if not excused(violation)]
    assert not wrong, "\n".join(map(str, wrong[:20]))
    for rule, path, _ in ALLOWED:
        assert any(one.rule == rule and path.search(one.what) for one in disk.found), f"nothing needs to excuse {path}"


def test_what_a_killed_worker_left_is_made_durable_before_it_is_relied_on(traced: Traced) -> None:
    """kill -9 between a new name and its sync, then the next run, then a power cut."""
    world, crasher = traced.world, traced.crasher
    filled = world.make(crasher, traced.directory / "filled")
    crasher.run(filled.config, "sync")
    world.move_on()
    probe = filled.copy(traced.directory / "probe")
    labels = crasher.run(probe.config, "sync", later=DAY).labels
    named = [
        number
        for number, label in enumerate(labels, start=1)
        if label.startswith(("after replace", "after rename", "after link", "after commit"))
        and re.search(r"/lfs/objects/|/store/|/views/|/current$|commit$", label)
    ]
    chance = random.Random(SEED)
    sites: dict[int, Site] = {}
    for point in sorted(chance.sample(named, min(6, len(named)))):
        site = filled.copy(traced.directory / f"killed-{point}")
        crasher.run(site.config, "sync", later=DAY, kill_at=point, marks=True)
        site.wait_until_free()
        crasher.run(site.config, "sync", later=2 * DAY, marks=True)
        site.check_converged()
        sites[point] = site
    for point, site in sites.items():
        wrong = [violation for violation in traced.judged(site).found if not excused(violation)]
        assert not wrong, f"killed {labels[point - 1]}; CRASH_SEED={SEED}\n" + "\n".join(map(str, wrong[:20]))


def test_the_judge_tells_of_every_sync_that_is_left_out(traced: Traced) -> None:
    """Faults planted one by one, each in a first fill of its own."""
    sites: dict[str, Site] = {}
    for number, careless in enumerate(CARELESS):
        site = traced.world.make(traced.crasher, traced.directory / f"site-{number}", marks=True)
        sites[careless] = site
        told = traced.crasher.run(site.config, "sync", marks=True, careless=careless).told
        assert told["outcome"] == "published"
    for careless, site in sites.items():
        found = traced.judged(site).found
        rule, path = CARELESS[careless]
        assert any(one.rule == rule and re.search(path, one.what) for one in found), (careless, found[:5])


def test_the_judge_tells_when_git_does_not_sync(traced: Traced) -> None:
    site = traced.world.make(traced.crasher, traced.directory / "site", marks=True)
    traced.crasher.run(site.config, "sync", marks=True)
    traced.crasher.run(site.config, "maintain", marks=True, later=DAY, careless="git")
    found = traced.judged(site).found
    assert any("commit-graphs/graph-" in one.what and one.rule == "unsynced-source" for one in found), found


def test_clients_are_served_without_the_commit_graph(tmp_path: Path) -> None:
    with World(tmp_path / "world") as world, Crasher(tmp_path / "log") as crasher:
        world.begin()
        base = world.make(crasher, tmp_path / "site")
        crasher.run(base.config, "sync")
        crasher.run(base.config, "maintain", later=DAY)
        for harm, text in {"gone": None, "empty": "", "torn": "0123456789abcdef", "lies": "0" * 40 + "\n"}.items():
            site = base.copy(tmp_path / harm)
            graphs = site.root / "store" / "objects" / "info" / "commit-graphs"
            if text is None:
                (graph,) = graphs.glob("*.graph")
                graph.unlink()
            else:
                (graphs / "commit-graph-chain").unlink()
                (graphs / "commit-graph-chain").write_text(text)
            site.check_converged()
            cloning = ["git", "clone", "-q", "--no-local", "--mirror", str(site.view()), str(tmp_path / f"{harm}.git")]
            ran = subprocess.run(cloning, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
            crasher.run(site.config, "sync", later=2 * DAY)
            crasher.run(site.config, "sweep", later=200 * DAY)
            site.check_converged()
