from __future__ import annotations

import os

import pytest

from mirror_sync.domain.names import GitOid, MirrorName
from mirror_sync.repos import Repositories, Repository
from mirror_sync.testing.clock import HandClock
from tests.contract.git_repository_contract import GitRepositoryContract
from tests.support.raw_history import History

NAME = MirrorName("git.example.org/acme/model")


class DiskScene:
    def __init__(self, tmp_path) -> None:
        self.git_dir = tmp_path / "git"
        self.clock = HandClock()
        self.history = History(tmp_path / "upstream")
        self.repository = self.again()

    def again(self) -> Repository:
        return Repositories(self.git_dir, clock=self.clock, reserve_bytes=0).open(NAME)

    def commit(self, text: str, *, parents: tuple[str, ...] = ()) -> GitOid:
        return GitOid(self.history.commit(text, parents=parents))

    def tag(self, text: str, target: str) -> GitOid:
        kind = self.history.git("cat-file", "-t", target).decode().strip()
        return GitOid(self.history.tag(text.replace(" ", "-"), target, kind))

    def bad_commit(self, text: str, *, parents: tuple[str, ...] = ()) -> tuple[GitOid, str]:
        blob = self.history.blob(text.encode())
        inner = self.history.tree([("100644", b"config", blob)])
        tree = self.history.tree([("40000", b".git", inner)])
        return GitOid(self.history.commit(text, parents=parents, tree=tree)), "hasDotgit"

    def pack(self, wants, *, haves=()) -> bytes:
        return self.history.pack(wants, haves=haves)


class TestRepository(GitRepositoryContract):
    @pytest.fixture
    def scene(self, tmp_path) -> DiskScene:
        return DiskScene(tmp_path)

    def let_views_go(self, scene) -> None:
        views = scene.repository.layout.views
        for path in views.iterdir():
            os.utime(path, (1, 1))
