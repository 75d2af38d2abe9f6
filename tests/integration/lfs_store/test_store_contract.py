from __future__ import annotations

import os

import pytest

from mirror_sync.lfs_store import FileObjectStore
from tests.contract.objects_contract import ObjectStoreContract


class OnDisk(ObjectStoreContract):
    @pytest.fixture
    def objects(self, clock, tmp_path):
        self.directory = tmp_path / "lfs"
        return FileObjectStore(self.directory, reserve_bytes=0, clock=clock)

    def damage(self, objects, oid):
        path = self.directory / "objects" / oid[:2] / oid[2:4] / oid
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)

    def age(self, objects, oid, *, written_at):
        for path in self.directory.glob(f"incomplete/{oid}*"):
            os.utime(path, (written_at, written_at))


class TestFileObjectStore(OnDisk):
    pass


class TestWithThreadsBesideTheDownload(OnDisk):
    """The same promises when every object counts as a large one and every write is synced."""

    @pytest.fixture(autouse=True)
    def _all_are_large(self, monkeypatch):
        monkeypatch.setattr("mirror_sync.lfs_store.incomplete.SMALL", 0)

    @pytest.fixture
    def objects(self, clock, tmp_path):
        self.directory = tmp_path / "lfs"
        return FileObjectStore(self.directory, reserve_bytes=0, clock=clock, sync_bytes=1)
