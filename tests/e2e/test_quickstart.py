"""quickstart and serve as processes: what they print, what they keep, how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.upstream import GitUpstream


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "upstream") as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "mirror") as made:
        yield made


def environment_of(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(entry.decode().split("=", 1) for entry in raw if b"=" in entry)


def test_a_second_start_goes_on_with_more(
    upstream: GitUpstream, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = upstream.create("acme/one"), upstream.create("acme/two")
    for repo in (one, two):
        repo.commit({"README": "x"})
    for name, value in {
        "GITHUB_TOKEN": "canary-token",
        "GIT_TRACE": "1",
        "LD_PRELOAD": "",
        "SSH_AUTH_SOCK": "/x",
    }.items():
        monkeypatch.setenv(name, value)
    daemon.start(one.url)
    daemon.published(daemon.name(one.url))
    children = [pid for pid in daemon.family() if daemon.process and pid != daemon.process.pid]
    assert len(children) >= 2
    for pid in children:
        found = environment_of(pid)
        assert not found.keys() & {"GITHUB_TOKEN", "SSH_AUTH_SOCK", "LD_PRELOAD"}
        assert found.get("GIT_TRACE") is None
    assert "canary-token" not in daemon.output()
    told = daemon.output()
    assert f"http://127.0.0.1:{daemon.port}/" in told
    assert str(daemon.directory / "config.toml") in told
    assert str(daemon.directory / "webhook-secret") in told
    commands = next(line for line in told.splitlines() if line.startswith("  commands "))
    shown = subprocess.run(commands.split(None, 1)[1], shell=True, capture_output=True, text=True, check=True).stdout
    assert "mirrors  1" in shown
    config = (daemon.directory / "config.toml").read_bytes()
    secret = (daemon.directory / "webhook-secret").read_bytes()
    assert daemon.terminate() == 0
    daemon.start(two.url)
    daemon.published(daemon.name(two.url))
    daemon.wait_until(
        lambda: f"git clone {daemon.origin}/{daemon.name(two.url)}\n" in daemon.output(), "the clone line"
    )
    assert {item["name"] for item in daemon.json("/api/v1/mirrors")["items"]} == {
        daemon.name(one.url),
        daemon.name(two.url),
    }
    assert (daemon.directory / "config.toml").read_bytes() == config
    assert (daemon.directory / "webhook-secret").read_bytes() == secret
    rival = subprocess.run(
        [*daemon.command, "--dir", str(daemon.directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert rival.returncode == 6
    assert "another mirror-sync runs" in rival.stderr


def test_ctrl_c_ends_everything(upstream: GitUpstream, daemon: Daemon) -> None:
    repo = upstream.create("acme/one")
    repo.commit({"README": "x"})
    daemon.start(repo.url)
    family = daemon.family()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(timeout=60) == 0
    daemon.process = None
    assert [line.split()[0] for line in daemon.output().splitlines()[-2:]] == ["stopping;", "stopped"]
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def test_a_stop_waits_for_no_silent_upstream(
    upstream: GitUpstream, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR_SYNC__GIT__STALL_TIMEOUT", "1h")
    monkeypatch.setenv("MIRROR_SYNC__WORKERS__DRAIN_TIMEOUT", "1s")
    repo = upstream.create("acme/model")
    repo.commit({"README": "one\n"})
    fault = upstream.fault("POST .*git-upload-pack", times=None, hang=3600.0)
    daemon.start(repo.url)
    daemon.wait_until(lambda: fault.hits, "the answer is held back")
    assert daemon.terminate() == 0, "else the worker was cut off"
    left = json.loads(daemon.cli("show", daemon.name(repo.url), "--json").stdout)
    assert (left["last_run"]["code"], left["failures"]) == ("MS-R503", 0)


def test_a_failure_is_told_once_with_what_can_be_typed(upstream: GitUpstream, daemon: Daemon) -> None:
    url = f"{upstream.origin}/acme/nosuch"
    daemon.start(url)
    daemon.wait_until(lambda: "error[MS-U404]" in daemon.output(), "the failure is told")
    assert daemon.terminate() == 0
    told = daemon.output()
    assert told.count("error[MS-U404]") == 1
    assert "run_finished" not in told
    assert "activity=backing-off" not in told
    assert f"--dir {daemon.directory} sync {daemon.name(url)} --wait" in told


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mirror_sync",
                "quickstart",
                "https://127.0.0.1:1/a/b",
                "--dir",
                str(tmp_path / "d"),
                "--port",
                str(taken.getsockname()[1]),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 6
    assert "error[MS-C005]" in done.stderr
    assert "--port" in done.stderr


def test_a_bad_url_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mirror_sync", "quickstart", "git@github.com:acme/model", "--dir", str(tmp_path / "d")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert not (tmp_path / "d").exists()


def test_roles_run_alone_on_one_configuration(upstream: GitUpstream, daemon: Daemon) -> None:
    repo = upstream.create("acme/one")
    repo.commit({"README": "x"})
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    assert daemon.terminate() == 0
    own = [sys.executable, "-m", "mirror_sync", "--dir", str(daemon.directory), "serve", "--role"]
    environ = os.environ | {"MIRROR_SYNC__SERVER__LISTEN": f"127.0.0.1:{daemon.port}"}
    with (
        daemon.log.open("ab") as log,
        subprocess.Popen([*own, "web"], env=environ, stderr=log) as web,
        subprocess.Popen([*own, "worker"], env=environ, stderr=log) as worker,
    ):
        try:
            daemon.wait_until(lambda: daemon.get("/healthz")[0] == 200, "the web answers")
            repo.commit({"README": "y"})
            assert daemon.sync(name) == 0
            assert daemon.refs(name) == {ref: oid for ref, oid in repo.refs().items() if ref != "HEAD"}
            document = json.loads(daemon.cli("status", "--json").stdout)
            assert document["workers_alive"] >= 1
            worker.terminate()
            assert worker.wait(timeout=60) == 0
            assert daemon.get("/healthz")[0] == 200
        finally:
            web.terminate()
            worker.terminate()
    assert web.returncode == 0
