"""The schema: which revision this version needs, and how a database gets there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

import mirror_sync
from mirror_sync.errors import SchemaOutdated, StateUnavailable
from mirror_sync.state.door import UPGRADE, door
from mirror_sync.state.engine import READ_ONLY, Password, no_password, open_engine, parse_database_url, sqlite_path

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0004"
"""The schema revision that this version reads and writes."""

UPGRADE_LOCK = 0x6D697272  # "mirr"
UPGRADE_TIMEOUT_SECONDS = 60.0


def check_schema(connection: Connection) -> None:
    """Raise :class:`SchemaOutdated` unless the database is at :data:`REVISION`."""
    found = stored_revision(connection)
    if found == REVISION:
        return
    if found is None:
        raise SchemaOutdated("The database has no schema yet", remedy=UPGRADE)
    if found < REVISION:
        raise SchemaOutdated(f"The database schema is revision {found}, this version needs {REVISION}", remedy=UPGRADE)
    raise SchemaOutdated(
        f"The database schema is revision {found}, newer than the {REVISION} this version knows",
        why="a newer mirror-sync has upgraded it",
        remedy="run that newer version, or restore the backup made before the upgrade",
    )


def stored_revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, ``None`` when it has no schema."""
    if connection.dialect.name == "sqlite":
        known = text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    else:
        known = text("SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL")
    if connection.execute(known).first() is None:
        return None
    return connection.execute(text("SELECT max(version_num) FROM alembic_version")).scalar()


def migrations_directory() -> Path:
    """Return where the migrations are: inside an installed package, beside a checkout's."""
    package = Path(mirror_sync.__file__).resolve().parent
    inside = package / "migrations"
    return inside if (inside / "env.py").is_file() else package.parent / "migrations"


def _config(connection: Connection | None = None) -> Config:
    from alembic.config import Config  # imported late: only an upgrade needs alembic's time and memory

    config = Config()
    config.set_main_option("script_location", os.fspath(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head_revision() -> str | None:
    """Return the newest revision among the migrations."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head()


def current_revision(url: str, *, password: Password = no_password) -> str | None:
    """Return the revision that a database is at, ``None`` when it is new; raises :class:`StateUnavailable`."""
    parsed = parse_database_url(url)
    path = sqlite_path(parsed)
    if path is not None and not path.exists():
        return None
    engine = open_engine(parsed, password=password, timeout=5.0)
    try:
        with door(), engine.execution_options(**{READ_ONLY: True}).connect() as connection:
            return stored_revision(connection)
    finally:
        engine.dispose()


def upgrade(url: str, *, password: Password = no_password) -> str:
    """Bring a database to the newest revision, make it when absent, and return that revision.

    One transaction: a crash leaves the old schema or the new one, and upgrades at the
    same moment wait for each other.  Raises :class:`SchemaOutdated` when the database
    is newer than this version.
    """
    parsed = parse_database_url(url)
    path = sqlite_path(parsed)
    if path is not None and not path.parent.is_dir():
        raise StateUnavailable(why=f"the directory {path.parent} does not exist", remedy=f"mkdir -p {path.parent}")
    engine = open_engine(parsed, password=password, timeout=UPGRADE_TIMEOUT_SECONDS, create=True)
    try:
        with door(), engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
            found = stored_revision(connection)
            if found is not None and found > REVISION:
                check_schema(connection)
            if found != REVISION:
                from alembic import command

                command.upgrade(_config(connection), "head")
    finally:
        engine.dispose()
    if path is not None:
        _make_durable(path.parent)
    return REVISION


def _make_durable(directory: Path) -> None:
    """Make a new file's name survive power loss."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
