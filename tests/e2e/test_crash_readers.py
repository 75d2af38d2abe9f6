"""Clients in a loop while syncs and repacks are killed again and again: never a mixture, never a gap, never back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash import ROOT, Crasher
from tests.support.crash_world import NOTHING, Site, Snapshot, World
from tests.support.daemon import free_port

SEED = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1_000_000))
BRANCHES = 8
PAST_THE_LEASE = 100.0


@contextmanager
def web(site: Site, port: int) -> Iterator[str]:
    """The real web role over the site's storage."""
    log = site.directory / "web.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mirror_sync", "-c", str(site.config), "serve", "--role", "web"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    origin = f"http://127.0.0.1:{port}"
    try:
        ends = time.monotonic() + 60
        while subprocess.run(
            ["git", "ls-remote", f"{origin}/{site.world.name}"], capture_output=True, check=False
        ).returncode:
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < ends, log.read_text(errors="replace")
        yield origin
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def reading(url: str, directory: Path) -> Iterator[list[dict[str, Any]]]:
    """A reader process; what it told is in the list once the block is left."""
    directory.mkdir()
    told: list[dict[str, Any]] = []
    lines = directory / "told.jsonl"
    with lines.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.reader", url, str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=file,
        )
    try:
        yield told
    finally:
        assert process.stdin is not None
        process.stdin.close()
        status = process.wait(180)
    assert status == 0
    told += [json.loads(line) for line in lines.read_text().splitlines()]


@dataclass
class Churn:
    """An upstream whose branches always move together, each time with new LFS objects."""

    world: World
    chance: random.Random
    number: int = 0

    def move(self) -> None:
        repo = self.world.repo
        self.number += 1
        lfs = {name: self.chance.randbytes(self.chance.choice((50, 5_000, 300_000))) for name in ("w.bin", "x.bin")}
        files: dict[str, bytes | str | None] = {"n": str(self.number), "README": self.chance.randbytes(2_000).hex()}
        tip = repo.commit(files, lfs=lfs, root=self.number % 3 == 0)
        repo.update_many({f"refs/heads/b{number}": tip for number in range(BRANCHES)})
        repo.set_head(f"refs/heads/{'main' if self.number % 2 else 'b0'}")
        self.world.note()


def churn_under_kills(site: Site, churn: Churn, crasher: Crasher, *, seconds: float) -> int:
    """Let upstream move and the mirror follow, killed on its way, and return how many were killed."""
    chance = churn.chance
    ends = time.monotonic() + seconds
    later, killed, points = 0.0, 0, 300
    while time.monotonic() < ends:
        churn.move()
        for _ in range(chance.randrange(3)):
            later += PAST_THE_LEASE
            ended = crasher.run(
                site.config, "sync", kill_at=chance.randrange(1, points), later=later, orphans=chance.random() < 0.3
            )
            killed += ended.killed
            site.wait_until_free()
        later += PAST_THE_LEASE
        ended = crasher.run(site.config, "sync", later=later)
        assert ended.told["outcome"] in ("published", "unchanged"), ended.told
        points = max(200, ended.points)
        if churn.number % 4 == 0:
            later += 8 * 86_400.0 if churn.number < 20 else 7 * 3600.0
            ended = crasher.run(
                site.config, "maintain", kill_at=chance.choice((0, chance.randrange(1, 60))), later=later
            )
            killed += ended.killed
            site.wait_until_free()
    site.check()
    return killed


def judge(told: list[dict[str, Any]], published: list[Snapshot]) -> None:
    """Fail unless each look shows one published state, and none an older one than the look before."""
    at = 0
    for look in told:
        assert "fault" not in look, look["fault"]
        seen = Snapshot(look["refs"], look["head"] + "\n")
        later = [index for index in range(at, len(published)) if published[index] == seen]
        assert later, f"{'older' if seen in published else 'a mixture'}: {seen}"
        at = later[0]


def run(tmp_path: Path, *, seconds: float) -> None:
    with World(tmp_path / "world", seed=SEED) as world, Crasher(tmp_path / "log") as crasher:
        churn = Churn(world, random.Random(SEED))
        churn.move()
        port = free_port()
        extra = f'[server]\nlisten = "127.0.0.1:{port}"\n[schedule]\ninterval = "1m"\nobjective = "2m"\n'
        site = world.make(crasher, tmp_path / "site", extra=extra)
        crasher.run(site.config, "sync")
        with web(site, port) as origin, reading(f"{origin}/{world.name}", tmp_path / "reader") as told:
            killed = churn_under_kills(site, churn, crasher, seconds=seconds)
        clones = sum("clone" in look for look in told)
        states = {json.dumps(look.get("refs"), sort_keys=True) for look in told}
        print(f"{len(told)} looks, {clones} of them clones, {len(states)} states; {churn.number} moves, {killed} kills")
        judge(told, site.told())
        assert killed >= seconds / 8, f"{killed} kills in {seconds} s say little"
        assert clones >= 2, "too few clones to say much"
        assert len(states) >= 2, "nothing moved before the reader"


def test_readers_never_see_a_crash(tmp_path: Path) -> None:
    try:
        run(tmp_path, seconds=15)
    except AssertionError as error:
        error.add_note(f"CRASH_SEED={SEED}")
        raise


@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_readers_never_see_a_crash_for_long(tmp_path: Path) -> None:
    try:
        run(tmp_path, seconds=240)
    except AssertionError as error:
        error.add_note(f"CRASH_SEED={SEED}")
        raise


def test_the_judge_of_readers_tells() -> None:
    one, two = (
        Snapshot({"refs/heads/a": "1"}, "ref: refs/heads/a\n"),
        Snapshot({"refs/heads/a": "2"}, "ref: refs/heads/a\n"),
    )
    first, second = ({"refs": dict(state.refs), "head": state.head.strip()} for state in (one, two))
    judge([first, first, second], [NOTHING, one, two])
    for told, why in (
        ([second, first], "older"),
        ([{**first, "head": "ref: refs/heads/b"}], "mixture"),
        ([{"fault": "gap"}], "gap"),
    ):
        with pytest.raises(AssertionError, match=why):
            judge(told, [NOTHING, one, two])
