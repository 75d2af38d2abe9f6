from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.upstream import Authority, GitUpstream, make_authority


@pytest.fixture
def up(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "up") as upstream:
        yield upstream


@pytest.fixture
def other(tmp_path: Path) -> Iterator[GitUpstream]:
    """Another host."""
    with GitUpstream(tmp_path / "other", address="127.0.0.2") as upstream:
        yield upstream


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))
