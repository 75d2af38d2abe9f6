"""The disk fills in the middle of a fetch over a link that cuts: said so, nothing served changes, and it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror_sync.bootstrap import build, configure_logs, upgrade_database
from mirror_sync.config import load
from mirror_sync.domain.runs import Outcome, RunReport
from tests.support.binary_history import Shape, build_binary_history
from tests.support.compare import objects_of, refs_of, upstream_refs
from tests.support.failing import Crossing, crossing, plain_bytes
from tests.support.link import Weather
from tests.support.mirroring import configuration
from tests.support.small_disk import MIB, filled_up, free_bytes, small_disk
from tests.support.upstream import GitUpstream

HISTORY = Shape(megabytes=8, commits=200, branches=3, tags=5, largest=128 << 10)
CUTS = (100_000, 800_000)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("history") / "binary.git"
    build_binary_history(made, HISTORY)
    return made


class Scene:
    """A mirror that is published, its upstream about to bring much more over a link that cuts."""

    def __init__(self, over: Crossing, history: Path, *, reserve: int) -> None:
        self.over = over
        self.reserve = reserve
        self.git_dir = over.directory / "git"
        over.repo.commit({"README": "one"})
        assert self.sync().outcome is Outcome.PUBLISHED
        self.before = refs_of(over.view)
        over.repo.git("fetch", "-q", str(history), "refs/heads/*:refs/heads/more/*", "refs/tags/*:refs/tags/*")
        self.size = plain_bytes(over.up, over.repo, over.directory.with_name("plain"))

    def sync(self) -> RunReport:
        settings = load(configuration(self.over.directory, self.over.url, lfs=False), environ={})
        settings = replace(settings, storage=replace(settings.storage, reserve_bytes=self.reserve))
        configure_logs(settings, level="error")
        upgrade_database(settings)
        with build(settings, role="worker") as app:
            app.recover_all()
            mirror, _ = app.enrol(self.over.url)
            app.request_sync(mirror.name)
            lease = app.claim("here")
            assert lease is not None
            return app.sync(lease, stop=threading.Event())

    def down(self) -> int:
        """Return the bytes that came over the link so far."""
        return self.over.link.count().down

    def kept(self) -> int:
        """Return the bytes of packs that wait in the stage, whole or in part."""
        return sum(path.stat().st_size for path in self.git_dir.rglob("*.pack*") if "stage" in path.parts)

    def fail(self) -> None:
        """Sync on the full disk: it is told, and what is served stays."""
        report = self.sync()
        assert (report.outcome, report.code) == (Outcome.FAILED, "MS-S507"), (report.code, report.message)
        assert refs_of(self.over.view) == self.before
        assert objects_of(self.over.view)

    def assert_converged(self) -> None:
        assert refs_of(self.over.view) == upstream_refs(self.over.repo)
        assert objects_of(self.over.view) == objects_of(self.over.repo.path)
        assert not list(self.git_dir.rglob("fill"))


@pytest.fixture(params=[0, MIB], ids=["no reserve", "a reserve"])
def scene(request: pytest.FixtureRequest, tmp_path: Path, history: Path) -> Iterator[Scene]:
    weather = Weather(seed=11, cut_bytes=CUTS, resets=0.3)
    with GitUpstream(tmp_path / "up") as up:
        repo = up.create("acme/more")
        with crossing(up, repo, tmp_path / "mirror", weather) as over:
            made = Scene(over, history, reserve=request.param)
            with small_disk(made.git_dir):
                yield made


def test_it_is_told_and_with_space_it_goes_on_from_what_came(scene: Scene) -> None:
    with filled_up(scene.git_dir, free=8 * MIB + scene.reserve):
        scene.fail()
        kept = scene.kept()
        assert kept > scene.size / 4
        scene.fail()
        assert scene.kept() >= kept, "what came stays"
    before = scene.down()
    report = scene.sync()
    assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
    scene.assert_converged()
    assert scene.down() - before < scene.size, "less than a link without cuts carries when all of it comes"


def test_what_a_full_disk_breaks_off_leaves_no_half_made_file(scene: Scene) -> None:
    """Indexing what came needs as much room again: where that is not there, none of it stays taken."""
    scene.over.link.turn(Weather(seed=1))
    with filled_up(scene.git_dir, free=6 * MIB + scene.reserve):
        for _ in range(2):
            scene.fail()
            assert [path.name for path in scene.git_dir.rglob("tmp_*")] == []
            assert free_bytes(scene.git_dir) > scene.reserve + 2 * MIB


def test_a_fetch_that_fits_once_and_not_twice_is_done(scene: Scene) -> None:
    """What came in many packs is gathered where there is room for it, and else stays as it came."""
    free = scene.reserve + scene.size
    with filled_up(scene.git_dir, free=free + 6 * MIB):
        report = scene.sync()
        assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
        scene.assert_converged()
