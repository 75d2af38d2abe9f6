"""Kill -9 at the durable calls of syncs over a link that breaks: nothing unfinished is served, and every rerun converges.

In a normal run a sample of the points, chosen by a seed that a failure prints
(``CRASH_SEED=n`` chooses the same again); ``make prove`` kills at every point.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.crash import Crasher, Ended
from tests.support.crash_world import DAY, Site, World
from tests.support.link import Weather

SEED = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1_000_000))
MEMORY = Path("/dev/shm")
CUTS = Weather(seed=12, cut_bytes=(50_000, 170_000), resets=0.3)
SHARDS = 4


@dataclass
class Stage:
    """Sites to copy, and what unharmed syncs of them were like."""

    world: World
    crasher: Crasher
    directory: Path
    bases: dict[str, Site]
    ended: dict[str, Ended]
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    numbers: Iterator[int] = field(default_factory=itertools.count)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    directory = Path(tempfile.mkdtemp(prefix="mirror-sync-crash-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    try:
        with World(directory / "world", weather=Weather()) as world, Crasher(directory / "log") as crasher:
            assert world.link is not None
            world.begin_large(18)
            empty = world.make(crasher, directory / "empty")
            filled = empty.copy(directory / "filled")
            assert crasher.run(filled.config, "sync").told["outcome"] == "published"
            world.rewrite_large(14)
            world.link.turn(CUTS)
            stage = Stage(world, crasher, directory, {"fill": empty, "update": filled}, {})
            for name, base in stage.bases.items():
                probe = base.copy(directory / f"probe-{name}")
                before = world.link.count().cuts
                stage.ended[name] = crasher.run(probe.config, "sync", later=DAY)
                assert world.link.count().cuts - before >= 3, "the link is too good to prove anything"
                carry_on(stage, probe, day=2)
            yield stage
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def carry_on(stage: Stage, site: Site, *, day: int) -> None:
    """Sync again and again until upstream is here; the link may end a run."""
    for number in range(5):
        told = stage.crasher.run(site.config, "sync", later=(day + number) * DAY).told
        site.check()
        if told["outcome"] in ("published", "unchanged"):
            break
    site.check_converged()


def trial(stage: Stage, base: str, *points: int) -> None:
    """Kill a sync at the first point, the sync after it at the second and so on; then let them through."""
    site = stage.bases[base].copy(stage.directory / f"trial-{next(stage.numbers)}")
    labels = stage.ended[base].labels
    try:
        for day, point in enumerate(points, start=1):
            orphans = stage.chance.random() < 0.3
            stage.crasher.run(site.config, "sync", kill_at=point, later=day * DAY, orphans=orphans)
            site.check()
            site.wait_until_free()
        carry_on(stage, site, day=len(points) + 1)
    except AssertionError as error:
        near = [labels[point - 1] if point <= len(labels) else "beyond the end" for point in points]
        error.add_note(f"{base}, killed at {points}, in another run {near}; CRASH_SEED={SEED}; {CUTS}")
        raise
    site.delete()


@pytest.mark.parametrize("base", ["fill", "update"])
def test_a_sync_over_a_breaking_link_killed_anywhere(stage: Stage, base: str) -> None:
    last = stage.ended[base].points
    edges = [1 + last * part // 5 for part in range(6)]
    for first, behind in itertools.pairwise(edges):
        trial(stage, base, stage.chance.randrange(first, max(first + 1, behind)))


def test_a_sync_over_a_breaking_link_killed_again_and_again(stage: Stage) -> None:
    last = stage.ended["fill"].points
    trial(stage, "fill", *(stage.chance.randrange(last // 8, last // 2) for _ in range(4)))


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("base", ["fill", "update"])
def test_a_sync_over_a_breaking_link_killed_at_every_point(stage: Stage, base: str, shard: int) -> None:
    for point in range(1 + shard, stage.ended[base].points + 1, SHARDS):
        trial(stage, base, point)
