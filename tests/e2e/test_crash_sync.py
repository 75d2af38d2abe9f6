"""Kill -9 at the durable calls of whole jobs with LFS, on SQLite: no promise is broken and every rerun converges.

In a normal run a sample of the points, chosen by a seed that a failure prints
(``CRASH_SEED=n`` chooses the same again); ``make prove`` kills at every point.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.crash import Crasher, Ended
from tests.support.crash_world import DAY, NOTHING, Site, Snapshot, World

SEED = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1_000_000))
SHARDS = 4
MEMORY = Path("/dev/shm")


@dataclass
class Stage:
    """Sites to copy, the jobs that were run on them unharmed, and what those published."""

    world: World
    crasher: Crasher
    directory: Path
    empty: Site
    filled: Site
    updated: Site
    fill: Ended
    update: Ended
    fill_states: list[Snapshot]
    update_states: list[Snapshot]
    old_tips: dict[str, str]
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def copy(self, base: Site) -> Site:
        return base.copy(self.directory / f"trial-{next(self.numbers)}")

    def sample(self, ended: Ended, count: int) -> list[int]:
        """Return points spread over the whole job, one from each stretch of it."""
        edges = [1 + ended.points * part // count for part in range(count + 1)]
        return [self.chance.randrange(first, max(first + 1, last)) for first, last in itertools.pairwise(edges)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    # kill -9 keeps what was written whatever the file system, so memory will do and is quick
    directory = Path(tempfile.mkdtemp(prefix="mirror-sync-crash-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    try:
        with World(directory / "world") as world, Crasher(directory / "log") as crasher:
            world.begin()
            empty = world.make(crasher, directory / "empty")
            filled = empty.copy(directory / "filled")
            assert crasher.run(filled.config, "sync").told["outcome"] == "published"
            filled.check_converged()
            before = world.now().refs
            world.move_on()
            updated, fresh = filled.copy(directory / "updated"), empty.copy(directory / "fresh")
            update = crasher.run(updated.config, "sync", later=DAY)
            fill = crasher.run(fresh.config, "sync", later=DAY)
            for site in (updated, fresh):
                site.check_converged()
            old_tips = {f"refs/heads/{name}": before[f"refs/heads/{name}"] for name in ("dev", "gone", "a")}
            updated.check_kept(old_tips)
            assert len(updated.told()) - len(filled.told()) >= 2, "the update is published in rounds"
            yield Stage(
                world, crasher, directory, empty, filled, updated, fill, update,
                fresh.told(), [filled.seen(), *updated.told()[len(filled.told()) :]], old_tips,
            )  # fmt: skip
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def die(stage: Stage, site: Site, job: str, point: int, *, day: int, legal: Sequence[Snapshot] | None) -> Ended:
    """Kill a job at a point and look at once, as a client would."""
    orphans = stage.chance.random() < 0.3
    ended = stage.crasher.run(site.config, job, kill_at=point, later=day * DAY, orphans=orphans)
    seen = site.check()
    assert legal is None or seen in legal, f"{seen} is none of the states that a run may publish"
    site.wait_until_free()
    return ended


def converge(stage: Stage, site: Site, *, day: int, ended: Ended) -> None:
    again = stage.crasher.run(site.config, "sync", later=day * DAY)
    assert again.told["outcome"] in ("published", "unchanged"), (again.told, ended.labels[-3:])
    site.check_converged()


def told(where: str, points: Sequence[int], labels: Sequence[str]) -> str:
    steps = ", then ".join(f"{point} ({labels[point - 1] if 0 < point <= len(labels) else '?'})" for point in points)
    return f"{where}, killed at {steps}; CRASH_SEED={SEED}"


def trial(stage: Stage, base: str, *points: int) -> None:
    """Kill a sync at the first point, the sync after it at the second and so on; then let one through."""
    update = base == "update"
    site = stage.copy(stage.filled if update else stage.empty)
    states = stage.update_states if update else stage.fill_states
    ended = stage.update if update else stage.fill
    try:
        for number, point in enumerate(points):
            die(stage, site, "sync", point, day=number + 1, legal=None if number else states)
        converge(stage, site, day=len(points) + 1, ended=ended)
        if update:
            site.check_kept(stage.old_tips)
    except AssertionError as error:
        error.add_note(told(base, points, ended.labels))
        raise
    site.delete()


@pytest.mark.parametrize("base", ["fill", "update"])
def test_a_sync_killed_anywhere(stage: Stage, base: str) -> None:
    ended = stage.update if base == "update" else stage.fill
    for point in stage.sample(ended, 16 if base == "update" else 9):
        trial(stage, base, point)


def test_a_sync_killed_when_only_tidying_was_left(stage: Stage) -> None:
    """Upstream's list says that nothing changed since; what the dead run left is tidied up all the same."""
    tidying = [number for number, label in enumerate(stage.update.labels, start=1) if "tmp_discarded" in label]
    assert len(tidying) >= 3
    for point in (tidying[0], tidying[1], tidying[-1]):
        trial(stage, "update", point)


def test_a_sync_killed_again_while_it_recovers(stage: Stage) -> None:
    for base, ended in (("update", stage.update), ("fill", stage.fill)):
        for point in stage.sample(ended, 4):
            trial(stage, base, point, stage.chance.randrange(1, 60), stage.chance.randrange(1, ended.points))


def test_making_the_database_killed_anywhere(stage: Stage) -> None:
    def bare() -> Site:
        site = stage.copy(stage.empty)
        for name in ("state", "git", "lfs"):
            shutil.rmtree(site.directory / name)
        return site

    site = bare()
    whole = stage.crasher.run(site.config, "setup", urls=(stage.world.url,))
    for point in stage.sample(whole, 8):
        site = bare()
        try:
            stage.crasher.run(site.config, "setup", urls=(stage.world.url,), kill_at=point)
            stage.crasher.run(site.config, "setup", urls=(stage.world.url,))
            converge(stage, site, day=1, ended=whole)
        except AssertionError as error:
            error.add_note(told("setup", [point], whole.labels))
            raise
        site.delete()


CHORES = {"maintain": 6, "history": 4, "sweep": 5}


def chore_site(stage: Stage, job: str) -> tuple[Site, int]:
    """Return a site on which a job has something to do, and the day of doing it."""
    site = stage.copy(stage.updated)
    if job == "sweep":
        # 200 days on the kept tips have expired, and with them objects that only they needed
        stage.crasher.run(site.config, "history", later=2 * DAY)
    return site, 200 if job == "sweep" else 3


def chore(stage: Stage, job: str, points: Sequence[int] | None, *, samples: int = 0) -> None:
    probe, day = chore_site(stage, job)
    whole = stage.crasher.run(probe.config, job, later=day * DAY)
    left = sorted(path.name for path in probe.objects.rglob("*") if path.is_file())
    roots = probe.roots()
    probe.check()
    for point in points if points is not None else stage.sample(whole, samples):
        site, day = chore_site(stage, job)
        try:
            die(stage, site, job, point, day=day, legal=[stage.updated.seen()])
            stage.crasher.run(site.config, job, later=(day + 1) * DAY)
            assert sorted(path.name for path in site.objects.rglob("*") if path.is_file()) == left
            assert site.roots() == roots
            assert site.leftovers() == []
            converge(stage, site, day=day + 2, ended=whole)
        except AssertionError as error:
            error.add_note(told(job, [point], whole.labels))
            raise
        site.delete()


@pytest.mark.parametrize("job", CHORES)
def test_a_chore_killed_anywhere(stage: Stage, job: str) -> None:
    chore(stage, job, None, samples=CHORES[job])


def test_nothing_is_done_by_halves_when_nothing_is_there(stage: Stage) -> None:
    """The looker itself: a state nobody published, a lost object and wrong bytes are all found."""
    site = stage.copy(stage.updated)
    view = site.view()
    assert view is not None
    refs = view / "packed-refs"
    text = refs.read_text()
    refs.write_text(text.replace("refs/heads/main", "refs/heads/mine"))
    with pytest.raises(AssertionError, match="nobody published"):
        site.check()
    refs.write_text(text)
    site.check()
    needed = next(iter(stage.world.needs[stage.world.now().refs["refs/heads/main"]]))
    path = site.objects / needed[:2] / needed[2:4] / needed
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(AssertionError, match="without its LFS object"):
        site.check()
    path.write_bytes(data[:-1])
    with pytest.raises(AssertionError, match="wrong bytes"):
        site.check()
    assert NOTHING in stage.fill_states


# ---------------------------------------------------------------- every point


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("base", ["fill", "update"])
def test_a_sync_killed_at_every_point(stage: Stage, base: str, shard: int) -> None:
    ended = stage.update if base == "update" else stage.fill
    for point in range(1 + shard, ended.points + 1, SHARDS):
        trial(stage, base, point)


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_many_syncs_killed_three_times_over(stage: Stage) -> None:
    for base, ended in (("update", stage.update), ("fill", stage.fill)):
        for point in stage.sample(ended, 60):
            trial(stage, base, point, stage.chance.randrange(1, 80), stage.chance.randrange(1, ended.points))


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("job", CHORES)
def test_a_chore_killed_at_every_point(stage: Stage, job: str) -> None:
    probe, day = chore_site(stage, job)
    whole = stage.crasher.run(probe.config, job, later=day * DAY)
    chore(stage, job, range(1, whole.points + 1))
