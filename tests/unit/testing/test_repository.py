from __future__ import annotations

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.testing.repository import MemoryRepository, ScriptedObjects
from tests.contract.git_repository_contract import GitRepositoryContract


class MemoryScene:
    def __init__(self) -> None:
        self.objects = ScriptedObjects()
        self.repository = MemoryRepository(self.objects)

    def again(self) -> MemoryRepository:
        return MemoryRepository(self.objects, self.repository.disk)

    def commit(self, text: str, *, parents: tuple[str, ...] = ()) -> GitOid:
        return self.objects.commit(text, parents=[GitOid(parent) for parent in parents])

    def tag(self, text: str, target: str) -> GitOid:
        return self.objects.tag(text, GitOid(target))

    def bad_commit(self, text: str, *, parents: tuple[str, ...] = ()) -> tuple[GitOid, str]:
        oid = self.objects.commit(text, parents=[GitOid(parent) for parent in parents], fault="hasDotgit")
        return oid, "hasDotgit"

    def pack(self, wants, *, haves=()) -> bytes:
        return self.objects.pack(wants, haves=haves)


class TestMemoryRepository(GitRepositoryContract):
    @pytest.fixture
    def scene(self) -> MemoryScene:
        return MemoryScene()
