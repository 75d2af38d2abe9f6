"""A small pack that unpacks to far more memory than git may take: the run says so, and nobody else notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror_sync.bootstrap import App, build, configure_logs, upgrade_database
from mirror_sync.config import load
from mirror_sync.domain.runs import Outcome, RunReport
from tests.support.bomb import MIB, plant
from tests.support.compare import objects_of, refs_of, upstream_refs
from tests.support.mirroring import configuration, view_of
from tests.support.upstream import GitUpstream, UpstreamRepo

BOMB = 128 * MIB
LIMIT = 96 * MIB


class Scene:
    """An upstream of one repository, published once, and a worker whose git may take little memory."""

    def __init__(self, directory: Path, up: GitUpstream) -> None:
        self.directory = directory
        self.repo = up.create("acme/model")
        self.first = self.repo.commit({"README": "one", "other": "x" * 1000})
        assert self.sync().outcome is Outcome.PUBLISHED

    def app(self, limit: int) -> App:
        settings = load(configuration(self.directory, self.repo.url), environ={})
        settings = replace(settings, git=replace(settings.git, max_memory_bytes=limit))
        configure_logs(settings, level="error")
        upgrade_database(settings)
        return build(settings, role="worker")

    def sync(self, *, limit: int = LIMIT, repo: UpstreamRepo | None = None) -> RunReport:
        with self.app(limit) as app:
            app.recover_all()
            mirror, _ = app.enrol((repo or self.repo).url)
            app.request_sync(mirror.name)
            lease = app.claim("here")
            assert lease is not None
            return app.sync(lease, stop=threading.Event())

    def served(self, repo: UpstreamRepo | None = None) -> dict[str, str]:
        return refs_of(view_of(self.directory, (repo or self.repo).url))

    def blow(self) -> RunReport:
        """Plant the bomb upstream and sync into it."""
        plant(self.repo, BOMB)
        report = self.sync()
        assert (report.outcome, report.code) == (Outcome.FAILED, "MS-G507"), (report.code, report.message)
        assert "malloc failed" in report.message
        assert self.served() == {"refs/heads/main": self.first}
        assert objects_of(view_of(self.directory, self.repo.url))
        return report


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with GitUpstream(tmp_path / "up") as up:
        yield Scene(tmp_path / "mirror", up)


def test_a_bomb_ends_the_run_at_once_and_leaves_what_is_served(scene: Scene) -> None:
    up = scene.repo.upstream
    up.forget()
    scene.blow()
    asked = [request for request in up.seen("POST .*git-upload-pack") if b"command=fetch" in request.body]
    assert len(asked) == 1, "a want of memory is not tried again as damage"
    calm = up.create("acme/calm")
    calm.commit({"README": "calm"})
    assert scene.sync(repo=calm).outcome is Outcome.PUBLISHED, "other mirrors go on"


def test_with_the_limit_raised_it_goes_on_from_what_came(scene: Scene) -> None:
    scene.blow()
    report = scene.sync(limit=4 * BOMB)
    assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
    assert scene.served() == upstream_refs(scene.repo)
    assert objects_of(view_of(scene.directory, scene.repo.url)) == objects_of(scene.repo.path)


def test_an_honest_upstream_is_mirrored_again(scene: Scene) -> None:
    scene.blow()
    for _ in range(2):
        assert scene.sync().code == "MS-G507", "what came is salvaged without the bomb, which is met again"
        assert scene.served() == {"refs/heads/main": scene.first}
    scene.repo.update("refs/heads/main", scene.first)
    tip = scene.repo.commit({"README": "two"})
    report = scene.sync()
    assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
    assert scene.served() == {"refs/heads/main": tip}
