"""A clone killed at any instant is never taken for a whole one, and the same command finishes it."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror_sync.cli import codes
from mirror_sync.clock import SystemClock
from mirror_sync.errors import Interrupted
from mirror_sync.ports import CloneOrder
from mirror_sync.repos import worktree
from mirror_sync.repos.worktree import CloneDirectory
from tests.support.cloning import by_git, call, picture
from tests.support.kill_at import killed_at, steps_of
from tests.support.tools import require
from tests.support.upstream import GitUpstream, Recorded, UpstreamRepo

SAMPLES = 16
LARGE = random.Random(5).randbytes(3 << 20)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[GitUpstream]:
    require("git-lfs")
    with GitUpstream(tmp_path / "up") as upstream:
        yield upstream


@pytest.fixture
def repo(up: GitUpstream) -> UpstreamRepo:
    repo = up.create("acme/model")
    repo.commit({"README": "hello\n", "src/file.txt": "text\n"})
    repo.commit({}, lfs={"a.bin": b"one" * 1000, "src/b.bin": b"two" * 1000})
    repo.tag("v1", message="one")
    repo.commit({"c": "3"}, branch="topic", start="main")
    return repo


def is_repository(directory: Path) -> bool:
    """Tell whether git takes ``directory`` for one."""
    if not directory.exists():
        return False
    done = subprocess.run(
        ["git", "rev-parse", "--git-dir"],
        cwd=directory,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def clone(url: str, directory: Path, *options: str) -> None:
    assert call("clone", url, directory, "-q", *options) == codes.DONE


def spread(count: int) -> list[int]:
    """Points from the first step to the last, the last ones one by one: there everything is put in its place."""
    return sorted({*range(max(1, count - 4), count + 1), *(1 + count * part // SAMPLES for part in range(SAMPLES))})


@pytest.mark.parametrize("options", [(), ("--bare",)], ids=["files", "bare"])
def test_killed_before_any_durable_step_it_is_finished_by_the_same_command(
    repo: UpstreamRepo, tmp_path: Path, options: tuple[str, ...]
) -> None:
    whole = tmp_path / "whole"
    steps = steps_of(lambda: clone(repo.url, whole, *options), tmp_path / "steps")
    by_git(repo.url, tmp_path / "theirs", *options, lfs=not options)
    wanted = picture(tmp_path / "theirs")
    assert picture(whole) == wanted
    count = sum(1 for name, *_ in steps if name != "pwrite")
    points, kills = spread(count), 0
    for point in points:
        directory = tmp_path / f"at-{point}"
        # a process of its own each time: with threads the steps come in another order now and then
        kills += killed_at(point, lambda directory=directory: clone(repo.url, directory, *options))  # type: ignore[misc]
        if is_repository(directory):
            assert picture(directory, but=("names",))["status" if not options else "fsck"] is not None
            assert _without_workshop(directory) == _without_names(wanted), f"half a clone looked whole at step {point}"
        clone_or_done(repo.url, directory, *options)
        assert picture(directory) == wanted, f"killed at step {point}"
    assert kills >= len(points) - 3


def clone_or_done(url: str, directory: Path, *options: str) -> None:
    """Run the command again; one that had come to its very end says that something is there."""
    inner = directory if "--bare" in options else directory / ".git"
    done = (inner / "HEAD").exists() and not (inner / "mirror-sync").exists()
    assert call("clone", url, directory, "-q", *options) == (codes.CONFLICT if done else codes.DONE)


def _without_names(seen: dict[str, object]) -> dict[str, object]:
    return {name: what for name, what in seen.items() if name not in ("names", "stray")}


def _without_workshop(directory: Path) -> dict[str, object]:
    return _without_names(picture(directory))


def test_killed_again_and_again_it_still_comes_to_its_end(repo: UpstreamRepo, tmp_path: Path) -> None:
    directory, point, kills = tmp_path / "ours", 3, 0
    while killed_at(point, lambda: clone(repo.url, directory)):
        assert not is_repository(directory) or _without_workshop(directory)["status"]
        kills += 1
        point += 5
    assert kills >= 5
    by_git(repo.url, tmp_path / "theirs")
    assert picture(directory) == picture(tmp_path / "theirs")


def test_once_everything_is_here_it_is_finished_without_upstream(
    up: GitUpstream,
    repo: UpstreamRepo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "ours"
    with monkeypatch.context() as breaking:
        breaking.setattr(CloneDirectory, "finish", _interrupted)
        assert call("clone", repo.url, directory) == codes.INTERRUPTED
    assert not is_repository(directory)
    by_git(repo.url, tmp_path / "theirs")
    up.stop()
    assert call("clone", repo.url, directory, "--branch", "topic") == codes.CONFLICT
    assert "other options" in capfd.readouterr().err
    (directory / "mine").write_text("mine")
    assert call("clone", repo.url, directory) == codes.CONFLICT
    assert (directory / "mine").read_text() == "mine"
    (directory / "mine").unlink()
    clone(repo.url, directory)
    assert picture(directory) == picture(tmp_path / "theirs")


def _interrupted(*_: object, **__: object) -> None:
    raise Interrupted


def test_what_upstream_moved_between_two_runs_is_taken_and_what_is_here_is_kept(
    up: GitUpstream, repo: UpstreamRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "ours"
    repo.commit({}, lfs={"large.bin": LARGE})
    with monkeypatch.context() as breaking:
        breaking.setattr(CloneDirectory, "settle", _interrupted)
        assert call("clone", repo.url, directory) == codes.INTERRUPTED
    assert not is_repository(directory)
    repo.force({"README": "rewritten\n"}, branch="topic")
    repo.commit({}, lfs={"new.bin": b"new" * 1000})
    repo.delete("refs/tags/v1")
    repo.tag("v2", message="two")
    up.forget()
    clone(repo.url, directory)
    assert len(up.seen("GET .*/lfs/")) == 1
    asked = [request for request in up.seen("POST .*/git-upload-pack") if b"command=fetch" in _plain(request)]
    assert b"have " in _plain(asked[0])
    by_git(repo.url, tmp_path / "theirs")
    assert picture(directory) == picture(tmp_path / "theirs")


def _plain(request: Recorded) -> bytes:
    packed = request.headers.get("content-encoding") == "gzip"
    return gzip.decompress(request.body) if packed else request.body


def test_two_at_a_time_are_refused(
    repo: UpstreamRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worktree, "ORPHAN_SECONDS", 0.0)
    directory = tmp_path / "ours"
    other = CloneDirectory(directory, CloneOrder(repo.url), environment=os.environ, clock=SystemClock())
    with other.held():
        assert call("clone", repo.url, directory) == codes.CONFLICT
    assert "at work" in capfd.readouterr().err
    clone(repo.url, directory)


def test_a_link_that_breaks_costs_one_run_nothing(up: GitUpstream, repo: UpstreamRepo, tmp_path: Path) -> None:
    noise = random.Random(7)
    for number in range(12):
        repo.commit({f"noise{number}": noise.randbytes(100_000)})
    repo.commit({}, lfs={"large.bin": LARGE})
    cuts = up.fault("POST .*/git-upload-pack", times=4, after=1, cut_after=300_000)
    parts = up.fault("GET .*lfs", times=3, cut_after=700_000)
    clone(repo.url, tmp_path / "ours")
    assert cuts.hits >= 2
    assert parts.hits >= 2
    by_git(repo.url, tmp_path / "theirs")
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")


def test_killed_at_chance_instants_the_process_goes_on_from_what_arrived(
    up: GitUpstream, repo: UpstreamRepo, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)
    repo.commit({}, lfs={"large.bin": LARGE})
    up.fault("GET .*lfs", times=None, drip=(64 << 10, 0.02))
    directory = tmp_path / "ours"
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "mirror_sync", "clone", repo.url, str(directory), "-q"], start_new_session=True
        )
        try:
            process.wait(timeout=chance.uniform(0.3, 2.0))
        except subprocess.TimeoutExpired:
            (os.killpg if chance.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        if process.returncode == 0:
            break
    up.heal()
    ends = time.monotonic() + 60
    while not (directory / "README").exists() and time.monotonic() < ends:
        call("clone", repo.url, directory, "-q")
    by_git(repo.url, tmp_path / "theirs")
    assert picture(directory) == picture(tmp_path / "theirs"), f"seed {seed}"
