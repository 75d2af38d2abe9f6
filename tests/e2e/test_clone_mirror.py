"""The command against a mirror of ours, as one who clones from it would use it."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from mirror_sync.upstream import Access
from tests.support.cloning import by_git, picture
from tests.support.daemon import Daemon
from tests.support.tools import require
from tests.support.upstream import GitUpstream


def test_a_clone_from_a_mirror_killed_on_the_way_is_the_one_that_git_makes(tmp_path: Path) -> None:
    require("git-lfs")
    noise = random.Random(3)
    with GitUpstream(tmp_path / "up") as up, Daemon(tmp_path / "mirror") as daemon:
        repo = up.create("acme/model")
        for number in range(5):
            repo.commit({f"part{number}": noise.randbytes(200_000)})
        repo.commit({"README": "hello\n"}, lfs={"weights.bin": noise.randbytes(5_000_000)})
        repo.tag("v1", message="one")
        daemon.start(repo.url)
        name = daemon.name(repo.url)
        assert daemon.sync(name) == 0
        up.stop()
        url, ours = daemon.url(name), tmp_path / "ours"
        command = [sys.executable, "-m", "mirror_sync", "clone", url, str(ours)]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert first.stderr is not None
        for line in first.stderr:
            if b"bringing" in line:
                break
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"cloned into {ours}\n"
        by_git(url, tmp_path / "theirs")
        assert picture(ours) == picture(tmp_path / "theirs")


def test_a_mirror_of_a_mirror_is_cloned_like_what_it_mirrors(tmp_path: Path) -> None:
    require("git-lfs")
    weights = random.Random(5).randbytes(300_000)
    with (
        GitUpstream(tmp_path / "up") as up,
        Daemon(tmp_path / "near") as near,
        Daemon(tmp_path / "far") as far,
    ):
        repo = up.create("acme/model")
        repo.commit({"README": "hello\n"}, lfs={"weights.bin": weights})
        near.start(repo.url)
        far.start(near.url(near.name(repo.url)))
        name = near.url(near.name(repo.url)).removeprefix("http://")
        assert name.count(":") == 2, "a host with a port, and in its path another one"
        assert far.published(name)["upstream"] == f"http://{name}"
        assert far.refs(name) == repo.refs()
        near.terminate()
        up.stop()
        page, _, _ = far.get(f"/mirrors/{name}")
        assert page == 200
        assert (far.clone(name, tmp_path / "by-git") / "weights.bin").read_bytes() == weights
        command = [sys.executable, "-m", "mirror_sync", "clone", far.url(name), str(tmp_path / "ours")]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        by_git(far.url(name), tmp_path / "theirs")
        assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")


def test_interrupted_by_hand_it_says_so_and_goes_on_the_next_time(tmp_path: Path) -> None:
    require("git-lfs")
    with GitUpstream(tmp_path / "up") as up:
        repo = up.create("acme/model")
        repo.commit({"README": "hello\n"}, lfs={"weights.bin": random.Random(4).randbytes(4_000_000)})
        up.fault("GET .*/lfs/", times=None, drip=(16 << 10, 0.05))
        command = [sys.executable, "-m", "mirror_sync", "clone", repo.url, str(tmp_path / "ours")]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert first.stderr is not None
        for line in first.stderr:
            if b"LFS objects" in line:
                break
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
        assert first.returncode == 130
        assert b"run the same command again" in said
        assert b"Traceback" not in said
        up.heal()
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        by_git(repo.url, tmp_path / "theirs")
        assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")


def test_interrupted_by_hand_it_waits_for_no_silent_host(tmp_path: Path) -> None:
    require("git-lfs")
    with GitUpstream(tmp_path / "up") as up:
        repo = up.create("acme/model")
        repo.commit({"README": "hello\n"}, lfs={"weights.bin": b"weights"})
        fault = up.fault("POST .*objects/batch", times=None, hang=3600.0)
        command = [sys.executable, "-m", "mirror_sync", "clone", repo.url, str(tmp_path / "ours")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not fault.hits and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=Access().stall_timeout * 0.75)
        assert process.returncode == 130, said
        assert b"run the same command again" in said


def test_at_a_terminal_it_asks_who_one_is_and_shows_how_far_it_is(tmp_path: Path) -> None:
    require("git-lfs")
    with GitUpstream(tmp_path / "up") as up:
        repo = up.create("acme/model")
        repo.commit({"README": "hello\n"}, lfs={"weights.bin": random.Random(4).randbytes(2_000_000)})
        repo.token = "sesame-open"
        up.fault("GET .*/lfs/", times=None, drip=(100_000, 0.2))
        ours = tmp_path / "ours"
        keyboard, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "mirror_sync", "clone", repo.url, str(ours)],
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(terminal)
        said = _read_until(keyboard, b"User name")
        os.write(keyboard, b"me\n")
        said += _read_until(keyboard, b"Password")
        os.write(keyboard, b"sesame-open\n")
        said += _read_until(keyboard, b"")
        assert process.wait(timeout=60) == 0
        os.close(keyboard)
        assert b"sesame-open" not in said
        assert b"acme/model  lfs 0/1" in said
        assert (ours / "weights.bin").stat().st_size == 2_000_000


def _read_until(terminal: int, text: bytes) -> bytes:
    """Read until ``text`` was said, without one until the other side has gone."""
    said = b""
    while not text or text not in said:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # what a terminal says when nobody holds its other end
            data = b""
        if not data:
            assert not text, said
            break
        said += data
    return said
