"""What benchmarks set up: a bare upstream repository, its server's process, a configuration of ours."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.bootstrap import upgrade_database
from mirror_sync.config import Settings, TrustedHost, default_config_text, load, write_secret
from tests.support.upstream import GitUpstream, UpstreamRepo

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """Run a server of ours in a process of its own and yield the first line it prints, its origin."""
    server = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def small_repository(upstream: GitUpstream, name: str, *, refs: int = 3) -> UpstreamRepo:
    """Make a repository of a few commits with ``refs`` refs, one of them an annotated tag."""
    repo = upstream.create(name)
    for number in range(3):
        repo.commit({"README": f"number {number}\n", f"src/{number}.txt": "text\n" * 20})
    repo.tag("v1", message="first")
    head = repo.refs()["refs/heads/main"]
    if refs > 2:
        repo.update_many({f"refs/tags/build-{number:06}": head for number in range(refs - 2)})
    return repo


def settings_at(
    directory: Path, origin: str, *, port: int = 8080, interval: str = "5m", objective: str = "15m"
) -> Settings:
    """Write a configuration whose upstream host is ``origin``, make its database, and return the settings."""
    directory.mkdir(parents=True, exist_ok=True)
    host = TrustedHost(origin.partition("//")[2], allow_http=True, allow_private=True)
    write_secret(directory / "webhook-secret", "0" * 64)
    text = default_config_text(listen=f"127.0.0.1:{port}", hosts=[host], interval=interval, objective=objective)
    (directory / "config.toml").write_text(text)
    settings = load(directory=directory)
    upgrade_database(settings)
    return settings


def git(*arguments: str, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    """Run git and return its output."""
    return subprocess.run(["git", *arguments], cwd=cwd, input=data, check=True, capture_output=True).stdout
