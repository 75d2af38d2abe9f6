"""One script from a fresh checkout to a mirror that can be cloned, without a network."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import copy_checkout
from tests.support.daemon import Daemon
from tests.support.tools import require


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the environment of the tests instead of making another: what is tried here is the rest."""
    monkeypatch.setenv("MIRROR_SYNC_VENV", sys.prefix)


@pytest.fixture
def daemon(tmp_path: Path, checkout: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "mirror", command=["sh", str(checkout / "scripts" / "run")]) as made:
        yield made


def clone_lines(daemon: Daemon) -> list[str]:
    return re.findall(r"^git clone (http://\S+)$", daemon.output(), re.MULTILINE)


def upstream_path(daemon: Daemon) -> Path:
    return daemon.directory / "demo" / "git" / "demo" / "model.git"


def history(daemon: Daemon) -> list[str]:
    return daemon.git("--git-dir", str(upstream_path(daemon)), "rev-list", "refs/heads/main").stdout.split()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_demo_from_start_to_restart(daemon: Daemon, tmp_path: Path) -> None:
    require("git-lfs")
    daemon.start()
    daemon.tells(f"http://127.0.0.1:{daemon.port}/")
    daemon.wait_until(lambda: len(clone_lines(daemon)) == 2, "both clone lines")
    port = (daemon.directory / "demo" / "port").read_text()
    model, data = f"127.0.0.1:{port}/demo/model", f"127.0.0.1:{port}/demo/data"
    assert sorted(clone_lines(daemon)) == [daemon.url(data), daemon.url(model)]

    work = daemon.clone(model, tmp_path / "work")
    for path, size in {"weights.bin": 4 << 20, "tokenizer.bin": 1 << 20}.items():
        content = (work / path).read_bytes()
        assert len(content) == size
        assert (daemon.directory / "demo" / "lfs" / hashlib.sha256(content).hexdigest()).exists()

    first = daemon.refs(model)["refs/heads/main"]
    moved = daemon.wait_until(
        lambda: (tip := daemon.refs(model)["refs/heads/main"]) != first and tip, "a push to be served", seconds=60
    )
    assert moved in history(daemon)
    daemon.ended(model, trigger="webhook")

    family = daemon.family()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(timeout=60) in {0, 130}
    daemon.process = None
    assert [pid for pid in family if is_running(pid)] == []

    daemon.start()
    assert (daemon.directory / "demo" / "port").read_text() == port
    again = daemon.refs(model)["refs/heads/main"]  # at once: what was published is still there
    assert moved in daemon.git("--git-dir", str(upstream_path(daemon)), "rev-list", again).stdout.split()
    assert [item["name"] for item in daemon.json("/api/v1/mirrors")["items"]] == [data, model]


def test_two_on_one_directory_are_refused(daemon: Daemon, checkout: Path) -> None:
    daemon.start()
    again = subprocess.run(
        [*daemon.command, "--dir", str(daemon.directory), "--port", "1"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 6
    assert str(daemon.directory) in again.stderr


def test_what_a_machine_lacks_is_said_at_once(checkout: Path, tmp_path: Path) -> None:
    """No git, no Python, no right to install: one message with the line to run."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "id", "sed", "cat", "rm"):
        found = require(name)
        (tools / name).symlink_to(found)
    done = subprocess.run(
        [str(tools / "sh"), str(checkout / "scripts" / "run")],
        env={"PATH": str(tools), "HOME": str(tmp_path), "MIRROR_SYNC_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert "lacks git 2.39 or newer (here is: no git) and Python 3.11 or newer (here is: no python3)" in done.stderr
    assert "apt-get install -y --no-install-recommends git python3 python3-venv\n" in done.stderr
    assert not (tmp_path / "venv").exists()
