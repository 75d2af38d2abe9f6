"""Who may read, as processes: the daemon with its commands, clients with a token, a reload."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import WITH_LFS, Daemon
from tests.support.upstream import GitUpstream


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "upstream") as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "mirror") as made:
        yield made


def test_a_mirror_for_some_and_networks_that_a_reload_shuts_out(
    upstream: GitUpstream, daemon: Daemon, tmp_path: Path
) -> None:
    repo = upstream.create("acme/model")
    weights = os.urandom(100_000)
    repo.commit({"README.md": "for some\n"}, lfs={"weights.bin": weights})
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    assert daemon.cli("set", name, "--visibility", "token").returncode == 0
    token = daemon.cli("token", "create", "--mirror", name, "-q").stdout.strip()
    path = f"/{name}.git/info/refs?service=git-upload-pack"
    assert daemon.get(path)[0] == 401

    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ntest \"$1\" = get && printf 'username=me\\npassword=%s\\n' {token}\n")
    helper.chmod(0o700)
    clone = daemon.clone(name, tmp_path / "clone", "-c", f"credential.helper={helper}")
    assert (clone / "weights.bin").read_bytes() == weights
    assert daemon.git("clone", "-q", *WITH_LFS, daemon.url(name), str(tmp_path / "none"), check=False).returncode != 0

    # quickstart takes a hang-up for its end; a service reads its configuration again
    assert daemon.terminate() == 0
    with daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "mirror_sync", "serve", "--dir", str(daemon.directory)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    daemon.wait_until(lambda: daemon.get("/healthz")[0] == 200, "the web answers")
    basic = {"Authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}
    assert daemon.get(path, basic)[0] == 200
    configuration = daemon.directory / "config.toml"
    configuration.write_text(configuration.read_text() + '\n[access]\ndeny = ["127.0.0.0/8"]\n')
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: daemon.get(path, basic)[0] == 403, "the network is shut out")
    assert daemon.get("/healthz")[0] == 200

    assert daemon.cli("token", "revoke", "1").returncode == 0
    for place in [daemon.log, *daemon.directory.glob("state.db*")]:
        assert token.encode() not in place.read_bytes(), place
