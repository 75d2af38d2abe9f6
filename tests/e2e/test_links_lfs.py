"""LFS objects over links that cut, stall, flip bits and hold each connection back, and servers that lie."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.failing import Crossing, crossing
from tests.support.lies import Liar
from tests.support.link import Weather
from tests.support.upstream import GitUpstream, UpstreamRepo

CUTS = (100_000, 800_000)
LARGE = 12_000_000
TOTAL = LARGE + 20 * 50_000


@pytest.fixture
def up(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "up") as server:
        yield server


@pytest.fixture
def repo(up: GitUpstream) -> UpstreamRepo:
    chance = random.Random(1)
    repo = up.create("acme/weights")
    objects = {f"small/{number}.bin": chance.randbytes(50_000) for number in range(20)}
    repo.commit({"README": "weights"}, lfs={"large.bin": chance.randbytes(LARGE), **objects})
    return repo


def assert_arrived(over: Crossing) -> None:
    """Every object is here, is what its name says, and nothing is left of the way there."""
    over.assert_same()
    store = over.directory / "lfs"
    for oid in over.repo.lfs.oids():
        path = store / "objects" / oid[:2] / oid[2:4] / oid
        assert hashlib.sha256(path.read_bytes()).hexdigest() == oid
    assert list((store / "incomplete").glob("*")) == []


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.prove) for seed in range(2, 21))])
def test_cuts(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path, seed: int) -> None:
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=seed, cut_bytes=CUTS, resets=0.3)) as over:
        over.mirror()
        assert_arrived(over)
        count = over.link.count()
        assert count.cuts >= 15
        assert count.down <= 1.25 * TOTAL


def test_killed_every_second(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    weather = Weather(seed=3, cut_bytes=(400_000, 4_000_000), link_rate=4_000_000)
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        done = over.mirror(kill_every=(1.2, 1.8), kills=5)
        assert_arrived(over)
        assert done.kills >= 2
        # What came since the last flush, a second ago at most, comes again.
        assert over.link.count().down <= 1.1 * TOTAL + done.kills * 4_000_000


def test_bits_flip_for_ever(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    weather = Weather(seed=4, flip_every=500_000, flip_after=2000)
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        over.mirror()
        assert_arrived(over)
        count = over.link.count()
        assert count.flips >= 30
        # Which bytes are wrong is known once all have come a second time.
        assert count.down <= 2.3 * TOTAL


def test_connections_fall_silent(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    weather = Weather(seed=5, cut_bytes=(1_000_000, 4_000_000), stalls=0.5)
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        over.mirror("--stall", "1s")
        assert_arrived(over)
        assert over.link.count().stalls > 0


def test_a_server_that_lies(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=6, cut_bytes=(400_000, 4_000_000))) as over:
        liar = up.liar = Liar(6, pattern="/-/lfs/", share=0.25)
        over.mirror()
        assert_arrived(over)
        assert len(liar.told) >= 3


def test_one_object_over_several_connections(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=7, connection_rate=1_000_000)) as over:
        over.mirror()
        assert_arrived(over)
        assert over.link.count().peak >= 4
        large = max(over.repo.lfs.oids(), key=lambda oid: (over.repo.lfs.directory / oid).stat().st_size)
        assert len({request.headers.get("range") for request in up.seen(large)}) >= 4
