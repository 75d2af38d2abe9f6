"""How to reach a database: SQLite by a path, Postgres by a URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from mirror_sync.errors import ConfigError

READ_ONLY = "mirror_sync_read_only"
"""Execution option of connections that only read: they never wait for a writer."""

Password = Callable[[], str | None]

CONNECTIONS = 8
MORE_CONNECTIONS = 24


def no_password() -> None:
    """Return no password."""


def parse_database_url(text: str) -> URL:
    """Return the URL that SQLAlchemy needs; a plain path means SQLite, and Postgres means psycopg 3.

    Raises :class:`ConfigError` for other databases and for a password inside the URL.
    """
    if "://" not in text:
        return URL.create("sqlite", database=os.fspath(Path(text).absolute()))
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(
            "database.url is not a database URL", remedy="write a path, or postgresql://USER@HOST/NAME"
        ) from error
    if url.password is not None or "password" in url.query:
        raise ConfigError(
            "database.url must not hold a password", remedy="put it in a file and name that: database.password_file"
        )
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError("database.url names no file", remedy="write the path of the SQLite file")
        return URL.create("sqlite", database=os.fspath(Path(url.database).absolute()))
    if url.get_backend_name() in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"database.url names {url.get_backend_name()}, which is not spoken here",
        remedy="write a path for SQLite, or postgresql://USER@HOST/NAME",
    )


def sqlite_path(url: URL) -> Path | None:
    """Return the SQLite file of ``url``, ``None`` for Postgres."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def open_engine(url: URL, *, password: Password, timeout: float, create: bool = False) -> Engine:
    """Return an engine that waits at most about ``timeout`` seconds for a lock or a connection.

    ``create`` allows a new SQLite file to be made.
    """
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, timeout=timeout, create=create)
    return _open_postgres(url, password=password, timeout=timeout)


def _open_sqlite(url: URL, *, timeout: float, create: bool) -> Engine:
    mode = "rwc" if create else "rw"
    named = URL.create("sqlite", database=f"file:{quote(url.database or '')}", query={"mode": mode, "uri": "true"})
    engine = create_engine(
        named,
        pool_size=CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
        pool_timeout=timeout,
        hide_parameters=True,
        connect_args={"timeout": timeout, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(dbapi: Any, record: object) -> None:  # noqa: ARG001 - the event's signature
    dbapi.isolation_level = None
    cursor = dbapi.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an accepted delivery survives power loss
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READ_ONLY, False)
    # a deferred transaction that turns to writing fails at once when another wrote meanwhile, whatever the time-out
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _open_postgres(url: URL, *, password: Password, timeout: float) -> Engine:
    engine = create_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=MORE_CONNECTIONS,
        pool_timeout=timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=postgres_arguments(timeout),
    )

    @event.listens_for(engine, "do_connect")
    def _give_password(dialect: object, record: object, arguments: object, parameters: dict[str, Any]) -> None:  # noqa: ARG001 - the event's signature
        secret = password()
        if secret is not None:
            parameters["password"] = secret

    return engine


def postgres_arguments(timeout: float) -> dict[str, Any]:
    """Return how we connect to Postgres: bounded waits, keep-alives, no prepared statements (poolers lose them)."""
    milliseconds = int(timeout * 1000)
    return {
        "connect_timeout": max(2, int(timeout)),
        "prepare_threshold": None,
        "application_name": "mirror-sync",
        "options": f"-c lock_timeout={milliseconds} -c idle_in_transaction_session_timeout=60000",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
