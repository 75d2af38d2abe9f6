"""The schema: made, upgraded, refused, and carried by the wheel."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.errors import SchemaOutdated, StateUnavailable
from mirror_sync.ports import MirrorFilter
from mirror_sync.state import SqlState, current_revision, head_revision, upgrade
from mirror_sync.state.engine import open_engine, parse_database_url
from mirror_sync.state.models import Base
from mirror_sync.state.schema import REVISION, _config
from tests.support.postgres import new_database
from tests.support.state_processes import CHECKOUT, Program, new_mirror, open_state


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """Return the URL and password reader of a database without any schema."""
    if request.param == "sqlite":
        return str(tmp_path / "a%20 b.db"), lambda: None
    database = new_database()
    return database.url, database.password


def open_at(place) -> SqlState:
    return SqlState(place[0], clock=SystemClock(), password=place[1])


def run_sql(place, *statements: str) -> None:
    engine = open_engine(parse_database_url(place[0]), password=place[1], timeout=5.0, create=True)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_this_version_needs_the_newest_migration():
    assert head_revision() == REVISION


def test_upgrade_makes_and_then_changes_nothing(place):
    url, password = place
    assert current_revision(url, password=password) is None
    assert upgrade(url, password=password) == REVISION
    state = open_at(place)
    identity = state.identity()
    state.enrol(new_mirror(1))
    assert upgrade(url, password=password) == REVISION
    assert current_revision(url, password=password) == REVISION
    assert state.identity() == identity
    assert state.totals().mirrors == 1
    state.close()


def test_each_database_has_its_own_identity(tmp_path):
    upgrade(str(tmp_path / "1.db"))
    upgrade(str(tmp_path / "2.db"))
    assert open_state(str(tmp_path / "1.db")).identity() != open_state(str(tmp_path / "2.db")).identity()


def test_upgrades_at_the_same_moment_wait_for_each_other(place):
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: upgrade(place[0], password=place[1]), range(4))) == {REVISION}
    state = open_at(place)
    assert len(state.identity()) == 32
    state.close()


def test_models_and_migrations_say_the_same(place):
    url, password = place
    upgrade(url, password=password)
    engine = open_engine(parse_database_url(url), password=password, timeout=5.0)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, Base.metadata)
    engine.dispose()
    assert differences == []


def test_downgrade_leaves_nothing(place):
    url, password = place
    upgrade(url, password=password)
    engine = open_engine(parse_database_url(url), password=password, timeout=5.0)
    with engine.begin() as connection:
        command.downgrade(_config(connection), "base")
    engine.dispose()
    assert current_revision(url, password=password) is None
    assert upgrade(url, password=password) == REVISION


def test_what_the_first_schema_holds_stays_through_upgrades(place):
    url, password = place
    upgrade(url, password=password)
    state = open_at(place)
    mirror, _ = state.enrol(new_mirror(1))
    lease = state.claim("w", lease_seconds=60.0)
    state.add_scan(lease, [PointerBlob(GitOid("1" * 40), Pointer(LfsOid("2" * 64), 10))], scanned=None)
    state.close()
    engine = open_engine(parse_database_url(url), password=password, timeout=5.0)
    with engine.begin() as connection:
        command.downgrade(_config(connection), "0001")
    engine.dispose()
    assert current_revision(url, password=password) == "0001"
    assert upgrade(url, password=password) == REVISION
    state = open_at(place)
    again = state.mirror(mirror.name)
    assert (again.progress, again.class_name, again.lfs.wanted, again.lfs.left_out) == (None, "", 1, 0)
    assert [job.oid for job in state.claim_lfs("w", limit=10, lease_seconds=60.0)] == ["2" * 64]
    state.close()


@pytest.mark.parametrize(("found", "word"), [("0000", "revision 0000"), ("9999", "newer")])
def test_another_revision_is_refused_cleanly(place, found, word):
    url, password = place
    upgrade(url, password=password)
    run_sql(place, f"UPDATE alembic_version SET version_num = '{found}'")
    state = open_at(place)
    for call in (state.check, state.totals, lambda: state.claim("w", lease_seconds=1.0), lambda: state.beat("w")):
        with pytest.raises(SchemaOutdated, match=word):
            call()
    if found == "9999":
        with pytest.raises(SchemaOutdated, match="newer"):
            upgrade(url, password=password)
        assert current_revision(url, password=password) == "9999"
    state.close()


def test_no_schema_is_told_with_the_remedy(place):
    run_sql(place, "CREATE TABLE unrelated (x INTEGER)")
    state = open_at(place)
    with pytest.raises(SchemaOutdated) as caught:
        state.totals()
    assert caught.value.remedy.startswith("mirror-sync db upgrade, as the user that runs the daemon")
    state.close()


def test_a_table_that_vanished_is_told(place):
    upgrade(place[0], password=place[1])
    state = open_at(place)
    state.check()
    run_sql(place, "DROP TABLE hosts")
    with pytest.raises(SchemaOutdated):
        state.host_blocked_until("example.org")
    state.close()


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(StateUnavailable) as caught:
        upgrade(str(tmp_path / "no" / "state.db"))
    assert "mkdir" in caught.value.remedy


def test_a_migration_killed_half_way_is_repeated(place):
    url, password = place
    if password() is not None:
        pytest.skip("impossible here: the program gets no password of TEST_POSTGRES_URL")
    program = (
        "import os, signal, sys\n"
        "from alembic.operations import Operations\n"
        "from mirror_sync.state import upgrade\n"
        "made, real = [], Operations.create_table\n"
        "def create_table(self, name, *columns, **options):\n"
        "    made.append(name)\n"
        "    if len(made) == int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, name, *columns, **options)\n"
        "Operations.create_table = create_table\n"
        "import alembic.op\n"
        "alembic.op.create_table = lambda *a, **k: create_table(alembic.op._proxy, *a, **k)\n"
        "upgrade(sys.argv[1])\n"
    )
    for table in (1, 7, 15):
        done = subprocess.run([sys.executable, "-c", program, url, str(table)], cwd=CHECKOUT, check=False)
        assert done.returncode == -signal.SIGKILL
        assert current_revision(url) is None
    with Program("migrate", url) as again:
        assert again.hear() == REVISION
    state = open_state(url)
    state.enrol(new_mirror(1))
    state.close()


def test_the_wheel_carries_the_migrations(tmp_path):
    """Build the wheel, unpack it elsewhere, and let only that upgrade a database."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"],
        cwd=CHECKOUT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "mirror_sync/migrations/env.py" in names
    assert any(name.startswith("mirror_sync/migrations/versions/0001") for name in names)
    program = (
        "import sys, mirror_sync\n"
        "from mirror_sync.state import head_revision, upgrade\n"
        "from mirror_sync.state.schema import migrations_directory\n"
        "print(upgrade(sys.argv[1]), head_revision(), migrations_directory())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "state.db"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [REVISION, REVISION, str(tmp_path / "installed/mirror_sync/migrations")]
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (REVISION,)


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("claim", "SEARCH mirrors USING INDEX ix_mirrors_ready (urgency=? AND ready_at<?)"),
        ("lfs", "USING INDEX ix_mirrors_lfs_ready"),
        ("page", "SEARCH mirrors USING INDEX sqlite_autoindex_mirrors_1 (name>?)"),
    ],
)
def test_what_runs_every_second_is_indexed(tmp_path, name, statement):
    path = str(tmp_path / "state.db")
    upgrade(path)
    state = open_state(path)
    state.check()
    seen = []
    engine = create_engine(f"sqlite:///{path}")
    with state._read() as connection:
        connection.connection.driver_connection.set_trace_callback(seen.append)
    calls = {
        "claim": lambda: state.claim("w", lease_seconds=1.0),
        "lfs": lambda: state.claim_lfs("w", limit=10, lease_seconds=1.0),
        "page": lambda: state.mirrors(MirrorFilter(), cursor="example"),
    }
    calls[name]()
    queries = [sql for sql in seen if sql.lstrip().startswith("SELECT") and "FROM mirrors" in sql]
    assert queries
    with engine.connect() as connection:
        for sql in queries:
            plan = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + sql.replace("%", "%%"))]
            assert any(statement in step for step in plan), plan
            assert not any(step.startswith("SCAN mirrors") for step in plan), plan
    engine.dispose()
    state.close()
