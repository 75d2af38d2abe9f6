"""wget, curl and aria2 against the product's own server, whole and from half a file on, and sha256sum over what came."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.link import Link, Weather
from tests.support.upstream import GitUpstream, UpstreamRepo
from tests.support.web_world import MirrorSpec, Served

NAME = "git.example/acme/model"
WEIGHTS = "".join(f"{number:08d}" for number in range(600_000))
BLOB = random.Random(3).randbytes(4_800_000)
HALF = 2_000_003
FILES = {"weights.bin": WEIGHTS.encode(), "data/blob": BLOB}
FRESH = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamRepo]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        repo.commit({"data/blob": BLOB, "README.md": "hello\n"}, lfs={"weights.bin": WEIGHTS.encode()})
        yield repo


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, source: UpstreamRepo) -> Iterator[Served]:
    spec = MirrorSpec(repository=str(source.path), objects=[WEIGHTS])
    with Served(tmp_path_factory.mktemp("served"), {NAME: spec}) as served:
        yield served


TOOLS = {
    "wget": ["wget", "-q", "-c", "--tries=3", "-O"],
    "curl": ["curl", "-sS", "--fail", "-C", "-", "-o"],
    "aria2c": [
        "aria2c",
        "-q",
        "-c",
        "-x4",
        "-s4",
        "-k1M",
        "--allow-overwrite=true",
        "--auto-file-renaming=false",
        "-o",
    ],
}


def command(tool: str, url: str, target: Path) -> list[str]:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    return [*TOOLS[tool], target.name, url]


@pytest.mark.parametrize("path", list(FILES))
@pytest.mark.parametrize("tool", list(TOOLS))
def test_a_download_goes_on_from_half_a_file(served: Served, tmp_path: Path, tool: str, path: str) -> None:
    content = FILES[path]
    target = tmp_path / "file"
    target.write_bytes(content[:HALF])
    with Link(served.port, Weather()) as link:
        subprocess.run(
            command(tool, f"{link.origin}/{NAME}/resolve/main/{path}", target), cwd=tmp_path, env=FRESH, check=True
        )
        assert target.read_bytes() == content
        if tool != "aria2c":  # which asks for the whole first, and leaves that when it sees that parts are given
            assert link.count().down < len(content) - HALF + 100_000


@pytest.mark.parametrize("path", list(FILES))
def test_four_connections_bring_one_file(served: Served, tmp_path: Path, path: str) -> None:
    target = tmp_path / "file"
    with Link(served.port, Weather(connection_rate=2_000_000.0)) as link:
        subprocess.run(
            command("aria2c", f"{link.origin}/{NAME}/resolve/main/{path}", target), cwd=tmp_path, env=FRESH, check=True
        )
        assert link.count().peak >= 4
    assert target.read_bytes() == FILES[path]


def test_what_wget_brings_agrees_with_the_list(served: Served, source: UpstreamRepo, tmp_path: Path) -> None:
    """The steps of docs/downloads.md."""
    base = f"{served.url}/{NAME}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{base}/resolve/main/README.md", method="HEAD")) as answer:
        commit = answer.headers["X-Repo-Commit"]
    assert commit == source.git("rev-parse", "main").strip()
    with opener.open(f"{base}/checksums/{commit}") as answer:
        (tmp_path / "SHA256SUMS").write_bytes(answer.read())
    urls = "".join(f"{base}/resolve/{commit}/{path}\n" for path in FILES)
    if shutil.which("wget") is None:
        pytest.skip("wget is not installed")
    subprocess.run(
        ["wget", "-q", "-c", "-x", "-nH", "--cut-dirs=5", "-i", "-"],
        input=urls.encode(), cwd=tmp_path, env=FRESH, check=True,
    )  # fmt: skip
    checking = ["sha256sum", "--ignore-missing", "--strict", "-c", "SHA256SUMS"]
    checked = subprocess.run(checking, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (checked.returncode, sorted(checked.stdout.splitlines())) == (0, ["data/blob: OK", "weights.bin: OK"])
    assert hashlib.sha256((tmp_path / "weights.bin").read_bytes()).hexdigest() in (tmp_path / "SHA256SUMS").read_text()


def test_a_cut_download_leaves_no_git_behind(served: Served) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)  # so that buffers do not hold all of it
        client.connect(("127.0.0.1", served.port))
        client.sendall(f"GET /{NAME}/resolve/main/data/blob HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        assert client.recv(4).startswith(b"HTTP")
        assert served.git_children()
    deadline = time.monotonic() + 60
    while served.git_children():
        assert time.monotonic() < deadline
        time.sleep(0.05)
