"""Progress is told beside the work and never in its way."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import text

from mirror_sync.clock import SystemClock
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.errors import StateUnavailable
from mirror_sync.state import SqlState, upgrade
from tests.support.state_processes import new_mirror, open_state

PROGRESS = Progress(Kind.LFS, Way.PARTS, 1, 2, 3, 4.0, 5, 6)


def test_a_database_that_does_not_answer_is_no_reason_to_fail(tmp_path):
    path = str(tmp_path / "state.db")
    upgrade(path)
    state = SqlState(path, clock=SystemClock(), timeout=0.05)
    mirror, _ = state.enrol(new_mirror(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailable):
        state.beat("w")
    state.note_progress(mirror.id, PROGRESS)
    other.execute("ROLLBACK")
    other.close()
    assert state.mirror(mirror.name).progress is None
    state.note_progress(mirror.id, PROGRESS)
    assert state.mirror(mirror.name).progress == PROGRESS
    state.close()


@pytest.mark.parametrize("stored", ['{"kind": "lfs", "way": "teleport", "sources": []}', "[]", "{", '{"kind": "git"}'])
def test_progress_that_another_version_told_is_none(tmp_path, stored):
    path = str(tmp_path / "state.db")
    upgrade(path)
    state = open_state(path)
    mirror, _ = state.enrol(new_mirror(1))
    with state._write() as connection:
        connection.execute(text("UPDATE mirrors SET progress = :told"), {"told": stored})
    assert state.mirror(mirror.name).progress is None
    state.close()
