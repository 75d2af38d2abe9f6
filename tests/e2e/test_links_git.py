"""First fills and updates of Git over links that cut, stall, lie and flip bits, killed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.binary_history import SMALL, Shape, build_binary_history
from tests.support.failing import adopt, crossing, plain_bytes, plain_clone_fails
from tests.support.history import build_history
from tests.support.lies import Liar
from tests.support.link import Weather
from tests.support.upstream import GitUpstream, UpstreamRepo

CUTS = (100_000, 800_000)
"""A hundredth of what a large repository is tried with, for one of a thirtieth of its size."""


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("histories")


@pytest.fixture(scope="module")
def binary(histories: Path) -> Path:
    build_binary_history(histories / "binary.git", SMALL)
    return histories / "binary.git"


@pytest.fixture
def up(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "up") as server:
        yield server


@pytest.fixture
def repo(up: GitUpstream, binary: Path) -> UpstreamRepo:
    return adopt(up, "acme/binary", binary)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.prove) for seed in range(2, 21))])
def test_incompressible_files_over_cuts(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path, seed: int) -> None:
    plain = plain_bytes(up, repo, tmp_path / "plain")
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=seed, cut_bytes=CUTS, resets=0.3)) as over:
        plain_clone_fails(over.url, tmp_path / "clone")
        before = over.link.count()
        over.mirror("--no-lfs", "--runs", "1")
        over.assert_same()
        count = over.link.count()
        assert count.cuts - before.cuts >= 10
        assert count.down - before.down <= 1.75 * plain


def test_text_over_cuts(up: GitUpstream, histories: Path, tmp_path: Path) -> None:
    build_history(histories / "text.git", 1500)
    repo = adopt(up, "acme/text", histories / "text.git")
    plain = plain_bytes(up, repo, tmp_path / "plain")
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=3, cut_bytes=(300_000, 1_500_000), resets=0.3)) as over:
        plain_clone_fails(over.url, tmp_path / "clone")
        before = over.link.count()
        over.mirror("--no-lfs", "--runs", "1")
        over.assert_same()
        count = over.link.count()
        assert count.cuts > before.cuts
        assert count.down - before.down <= 1.5 * plain


def test_killed_every_second(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    weather = Weather(seed=4, cut_bytes=CUTS, resets=0.3, link_rate=4_000_000)
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        done = over.mirror("--no-lfs", kill_every=(0.9, 1.6), kills=5)
        over.assert_same()
        assert done.kills >= 2


def test_bits_flip(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=5, flip_every=1_500_000, flip_after=600)) as over:
        over.mirror("--no-lfs")
        over.assert_same()
        assert over.link.count().flips > 0


def test_connections_fall_silent(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    weather = Weather(seed=6, cut_bytes=(1_000_000, 4_000_000), stalls=0.7, round_trip=0.02)
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        over.mirror("--no-lfs", "--stall", "1s")
        over.assert_same()
        assert over.link.count().stalls > 0


def test_a_server_that_lies_now_and_then(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=7, cut_bytes=(1_000_000, 4_000_000))) as over:
        kinds = ("page", "nothing", "busy", "limited", "short", "long", "wrong", "dropped")
        liar = up.liar = Liar(7, pattern="git-upload-pack", share=0.3, kinds=kinds)
        over.mirror("--no-lfs")
        over.assert_same()
        assert liar.told


@pytest.mark.parametrize("lacks", ["filters", "any_object"])
def test_an_upstream_that_can_do_less(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path, lacks: str) -> None:
    setattr(repo, lacks, False)
    weather = Weather(seed=8, cut_bytes=(400_000, 2_500_000) if lacks == "filters" else (2_500_000, 4_000_000))
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        over.mirror("--no-lfs")
        over.assert_same()
        assert over.link.count().cuts > 0


def test_sha256_objects(up: GitUpstream, histories: Path, tmp_path: Path) -> None:
    build_binary_history(histories / "sha256.git", SMALL, object_format="sha256")
    repo = adopt(up, "acme/sha256", histories / "sha256.git")
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=9, cut_bytes=CUTS)) as over:
        over.mirror("--no-lfs")
        over.assert_same()
        assert over.link.count().cuts > 0


def test_a_large_forced_update(up: GitUpstream, binary: Path, tmp_path: Path) -> None:
    repo = up.create("acme/forced")
    repo.commit({"README": "a small beginning"})
    with crossing(up, repo, tmp_path / "mirror", Weather(seed=10)) as over:
        over.mirror("--no-lfs")
        before = over.link.count()
        over.link.turn(Weather(seed=10, cut_bytes=CUTS, link_rate=4_000_000))
        repo.git("fetch", "-q", str(binary), "+refs/*:refs/*")
        done = over.mirror("--no-lfs", kill_every=(1.2, 2.0), kills=3)
        over.assert_same()
        assert done.kills > 0
        assert over.link.count().cuts - before.cuts >= 10


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kill_every", [None, (2.0, 5.0)], ids=["cuts", "cuts-and-kills"])
def test_four_hundred_megabytes(
    up: GitUpstream, histories: Path, tmp_path: Path, kill_every: tuple[float, float] | None
) -> None:
    source = histories / "large.git"
    if not source.exists():
        build_binary_history(source, Shape())
    repo = adopt(up, "acme/large", source)
    plain = plain_bytes(up, repo, tmp_path / "plain")
    weather = Weather(seed=11, cut_bytes=(4 << 20, 32 << 20), resets=0.3)
    with crossing(up, repo, tmp_path / "mirror", weather) as over:
        plain_clone_fails(over.url, tmp_path / "clone")
        before = over.link.count()
        done = over.mirror("--no-lfs", kill_every=kill_every, seconds=1500.0)
        over.assert_same()
        assert done.peak_megabytes < 200
        if kill_every is None:
            assert over.link.count().down - before.down <= 1.15 * plain
        else:
            assert done.kills > 0
