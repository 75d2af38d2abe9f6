from __future__ import annotations

import pytest

from mirror_sync.ports import StateStore
from mirror_sync.state import SqlState, upgrade
from tests.contract.state_contract import StateContract
from tests.support.postgres import Database, new_database


class TestSqlite(StateContract):
    @pytest.fixture
    def state(self, clock, tmp_path) -> StateStore:
        path = str(tmp_path / "state.db")
        upgrade(path)
        state = SqlState(path, clock=clock)
        yield state
        state.close()


@pytest.fixture(scope="module")
def database() -> Database:
    database = new_database()
    upgrade(database.url, password=database.password)
    return database


class TestPostgres(StateContract):
    @pytest.fixture
    def state(self, clock, database) -> StateStore:
        state = SqlState(database.url, clock=clock, password=database.password, database_clock=False)
        yield state
        state.close()
        with database.connect() as connection:
            tables = connection.execute(
                "SELECT string_agg(format('%I', tablename), ', ') FROM pg_tables"
                " WHERE schemaname = 'public' AND tablename NOT IN ('meta', 'alembic_version')"
            ).fetchone()
            connection.execute(f"TRUNCATE {tables[0]}")
