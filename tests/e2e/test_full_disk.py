"""A disk that is full or fails at any point of a whole sync with LFS: clients see no change, and it goes on by itself."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.crash import Crasher
from tests.support.crash_world import DAY, Site, Snapshot, World
from tests.support.small_disk import filled_up, small_disk

SEED = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1_000_000))
KIB = 1 << 10


@dataclass
class Scene:
    world: World
    crasher: Crasher
    directory: Path
    filled: Site
    states: list[Snapshot]
    syncs: int


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("disk")
    with World(directory / "world") as world, Crasher(directory / "log") as crasher:
        world.begin()
        filled = world.make(crasher, directory / "filled")
        crasher.run(filled.config, "sync")
        world.move_on()
        probe = filled.copy(directory / "probe")
        whole = crasher.run(probe.config, "sync", later=DAY)
        probe.check_converged()
        states = [filled.seen(), *probe.told()[len(filled.told()) :]]
        syncs = sum(label.startswith("before fsync") for label in whole.labels)
        yield Scene(world, crasher, directory, filled, states, syncs)


ROOM = {
    "git": (0, 12 * KIB, 24 * KIB, 40 * KIB, 64 * KIB, 80 * KIB, 1 << 22),
    "lfs": (0, 60 * KIB, 200 * KIB, 6 << 20, 13 << 20, 1 << 25),
    "state": (0, 8 * KIB, 40 * KIB, 64 * KIB, 100 * KIB, 140 * KIB, 1 << 22),
}
CODES = {"git": {"MS-S507"}, "lfs": {"MS-S507"}, "state": {"MS-D003"}}


@pytest.mark.parametrize("area", ROOM)
def test_a_full_disk(scene: Scene, area: str) -> None:
    """The disk fills at different points; with the largest room the sync gets through."""
    ended: list[str] = []
    for free in ROOM[area]:
        site = scene.filled.copy(scene.directory / f"{area}-{free}")
        with small_disk(site.directory / area):
            with filled_up(site.directory / area, free=free):
                told = scene.crasher.run(site.config, "sync", later=DAY).told
                ended.append(told["code"])
                assert told["outcome"] in ("failed", "held", "unrecorded", "published"), told
                assert told["outcome"] == "published" or told["code"] in CODES[area], told
                assert area != "git" or site.seen() in scene.states, (area, free)
                if area != "state":  # there is no room to read it, either
                    site.check()
                    row = site.row("SELECT last_outcome, last_code FROM mirrors")
                    assert row == (told["outcome"], told["code"]), "the reason is shown"
                    left = [name for name in site.leftovers() if "tmp_pack" in name or "tmp_idx" in name]
                    assert left == [], "a failed sync frees what it took"
            told = scene.crasher.run(site.config, "sync", later=2 * DAY).told
            assert told["outcome"] in ("published", "unchanged"), (area, free, told)
            site.check_converged()
    assert ended[0] in CODES[area]
    assert len([code for code in ended if code]) >= 3, ended
    assert ended[-1] == ""


def failing(scene: Scene, points: list[int]) -> None:
    for point in points:
        site = scene.filled.copy(scene.directory / f"eio-{point}")
        ended = scene.crasher.run(site.config, "sync", later=DAY, fail_at=point)
        told = ended.told
        try:
            assert told["outcome"] == "failed", told
            assert told["code"] in ("MS-S500", "MS-G500"), told
            assert "Input/output error" in told["message"], told
            site.check()
            told = scene.crasher.run(site.config, "sync", later=2 * DAY).told
            assert told["outcome"] in ("published", "unchanged"), told
            site.check_converged()
        except AssertionError as error:
            syncs = [label for label in ended.labels if label.startswith("before fsync")]
            error.add_note(f"sync {point} failed: {syncs[point - 1 : point]}; CRASH_SEED={SEED}")
            raise
        shutil.rmtree(site.directory)


def test_a_sync_that_the_disk_refuses(scene: Scene) -> None:
    """EIO at a durable step: never taken for done, told as what it is, and tried anew."""
    chance = random.Random(SEED)
    failing(scene, sorted(chance.sample(range(1, scene.syncs + 1), 6)))


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_every_sync_that_the_disk_refuses(scene: Scene) -> None:
    failing(scene, list(range(1, scene.syncs + 1)))
