from __future__ import annotations

import pytest

from mirror_sync.ports import StateStore
from mirror_sync.testing.state import MemoryState
from tests.contract.state_contract import StateContract


class TestMemoryState(StateContract):
    @pytest.fixture
    def state(self, clock) -> StateStore:
        return MemoryState(clock)
