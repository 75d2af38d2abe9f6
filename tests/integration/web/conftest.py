from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror_sync.web import create_app
from tests.support.upstream import GitUpstream, UpstreamRepo
from tests.support.web_world import MirrorSpec, World, make_world

NAME = "git.example/acme/model"
HOSTILE = "refs/heads/<script>alert(1)</script>"
GIT_UNDER_WAY: dict[str, Any] = {
    "kind": "git", "way": "ladder", "done": 1000, "total": 4000, "received": 412_000_000, "rate": 2_500_000.0,
    "connections": 1, "cuts": 3, "sources": ["git.example", "<b>near</b>.example"],
}  # fmt: skip
LFS_UNDER_WAY: dict[str, Any] = {
    "kind": "lfs", "way": "parts", "done": 61_000_000_000, "total": 198_000_000_000, "received": 62_000_000_000,
    "rate": 84_000_000.0, "connections": 8, "cuts": 2, "items": 37, "items_total": 120,
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamRepo]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        first = repo.commit({"README.md": "hello\n"}, lfs={"weights.bin": b"W" * 5000})
        repo.commit({"b.txt": "two\n"})
        repo.update(HOSTILE, first)
        repo.tag("v1", message="one")
        yield repo


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, source: UpstreamRepo) -> Iterator[World]:
    """One world for all tests of a module; a test that changes it does so by ``monkeypatch``."""
    root = tmp_path_factory.mktemp("mirror")
    spec = MirrorSpec(
        repository=str(source.path),
        objects=["W" * 5000, ""],
        queued=["still on its way"],
        known_missing=["lost for good"],
        holds=[("refs/heads/<img src=x onerror=alert(1)>", "MS-H004", 'needs "><script>alert(2)</script>')],
        kept=[("refs/heads/old\u202e", "2" * 40)],
        notes=["<b>badTimezone</b>: 3 objects\x1b[31m"],
    )
    mirrors = {
        NAME: spec,
        "git.example/acme/other": MirrorSpec(objects=["foreign bytes"]),
        "git.example/acme/new": MirrorSpec(queued=["x1", "x2"]),
        "git.example/acme/moving": MirrorSpec(progress=GIT_UNDER_WAY),
        "git.example/acme/filling": MirrorSpec(
            repository=str(source.path), objects=["here"], queued=["q1"], left_out=["L" * 4000], progress=LFS_UNDER_WAY
        ),
        "git.example/acme/silent": MirrorSpec(progress=GIT_UNDER_WAY | {"age": 60.0}),
        "git.example/acme/broken": MirrorSpec(failure=("MS-U503", "cannot <i>connect</i>")),
        "git.example/acme/asleep": MirrorSpec(repository=str(source.path), paused="<u>holiday</u>"),
        "git.example/acme/going": MirrorSpec(repository=str(source.path), removing=True),
    }
    with make_world(root, mirrors) as world:
        yield world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world).test_client()
