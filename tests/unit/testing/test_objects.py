from __future__ import annotations

import pytest

from mirror_sync.errors import StorageFull
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.objects import MemoryObjectStore
from tests.contract.objects_contract import ObjectStoreContract, keep, pointer_to


class TestMemoryObjectStore(ObjectStoreContract):
    @pytest.fixture
    def objects(self, clock):
        return MemoryObjectStore(clock, capacity=1 << 30)

    def damage(self, objects, oid):
        objects.damage(oid)

    def age(self, objects, oid, *, written_at):
        objects.written[oid] = written_at


def test_capacity_is_kept():
    objects = MemoryObjectStore(HandClock(), capacity=100)
    keep(objects, b"x" * 60)
    with pytest.raises(StorageFull), objects.incomplete(pointer_to(b"y" * 50)) as incomplete:
        incomplete.write(0, b"y" * 50)
    assert objects.free_bytes() == 40
