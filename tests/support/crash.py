"""Whole jobs of a worker, killed at any durable call: a warm process that forks one child per job.

The warm process has everything imported, has one thread and starts nothing else; each
child leads a session of its own, builds the App of a configuration and does one job.  A
shim in the child counts a point before and after every call that changes what a crash
leaves (:data:`CALLS`, files made, git children started and waited for, commits of the
database) and at the point asked for kills the child with all its git children.  No step
is named by hand, so steps that come later are covered as they are written::

    with Crasher(tmp_path / "log") as crasher:
        ended = crasher.run(config, "sync")            # ended.points, ended.labels, ended.told
        ended = crasher.run(config, "sync", kill_at=7) # ended.killed

``later`` moves the child's clock on by so many seconds, past the lease of a dead one.
``fail_at`` makes the k-th ``fsync`` or ``fdatasync`` raise EIO instead.  ``marks`` shows
the calls of the state store to whoever traces the system calls.  ``careless`` plants a
fault: a regular expression of paths that are not synced, or ``database``, or ``git``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CALLS = (
    "fsync", "fdatasync", "replace", "rename", "link", "symlink", "unlink", "remove", "rmdir", "mkdir", "ftruncate",
    "fchmod", "chmod",
)  # fmt: skip

IMPORTED = (
    "git.cmd", "sqlalchemy.dialects.sqlite", "structlog", "alembic.command", "mirror_sync.bootstrap",
    "mirror_sync.lfs_store", "mirror_sync.repos.serving", "mirror_sync.state", "mirror_sync.telemetry",
    "mirror_sync.upstream", "mirror_sync.wake",
)  # fmt: skip

ROOT = Path(__file__).parents[2]
JOB_SECONDS = 120.0

MARK = "/mark:"
MARKED = ("intend", "settle_intent", "confirm", "finish", "lfs_arrived", "add_scan", "release", "replace_references")

PUBLISHES = "publishes.jsonl"
"""Beside the configuration: every view that was about to be published, told before it was."""


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: int
    points: int = 0
    labels: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Crasher:
    """The warm process, spoken to in lines of JSON."""

    def __init__(self, log: Path, *, prefix: tuple[str, ...] = ()) -> None:
        self.log = log
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LC_ALL", "TZ") if name in os.environ}
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.support.crash", str(log)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer()["ready"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the warm process; does nothing the second time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(JOB_SECONDS)
        self._process.stdout.close()

    def run(
        self,
        config: Path,
        job: str,
        *,
        kill_at: int = 0,
        fail_at: int = 0,
        later: float = 0.0,
        orphans: bool = False,
        marks: bool = False,
        careless: str = "",
        urls: tuple[str, ...] = (),
    ) -> Ended:
        """Do a job to its end, or to point ``kill_at``; with ``orphans`` git children outlive the kill."""
        assert self._process.stdin is not None
        order = {"config": str(config), "job": job, "kill_at": kill_at, "fail_at": fail_at, "later": later}
        order |= {"orphans": orphans, "marks": marks, "careless": careless, "urls": urls}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        ended = Ended(
            answer["status"], answer.get("points", 0), tuple(answer.get("labels", ())), answer.get("told", {})
        )
        assert ended.status in (0, -signal.SIGKILL), f"the job failed by itself, {ended.status}\n{self.said()}"
        return ended

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the warm process ended\n{self.said()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


# ---------------------------------------------------------------- in the warm process


def serve(log: Path) -> None:
    """Fork a child for each line of standard input and say how it ended."""
    _warm()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line), log)), flush=True)


def _warm() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1


def _fork(order: dict[str, Any], log: Path) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(order, log, writing)
    os.close(writing)
    alarm = threading.Timer(JOB_SECONDS, os.kill, (child, signal.SIGABRT))
    alarm.daemon = True
    alarm.start()
    with open(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    alarm.cancel()
    alarm.join()
    answer: dict[str, Any] = {"status": status}
    if status == 0:
        answer |= json.loads(said)
    return answer


# ---------------------------------------------------------------- in the child


def _in_child(order: dict[str, Any], log: Path, report: int) -> None:
    code = 1
    try:
        os.setsid()
        os.set_inheritable(report, False)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        _move_clock(order["later"])
        shim = Shim(kill_at=order["kill_at"], fail_at=order["fail_at"], orphans=order["orphans"])
        if order["marks"]:
            _mark_state()
        _be_careless(order["careless"])
        shim.install(Path(order["config"]).parent)
        told = _job(Path(order["config"]), order["job"], tuple(order["urls"]))
        answer = json.dumps({"points": shim.count, "labels": shim.labels, "told": told}).encode()
        with open(report, "wb") as pipe:
            pipe.write(answer)
        code = 0
    except BaseException:  # noqa: BLE001 - the parent is told by the exit status
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _move_clock(seconds: float) -> None:
    from mirror_sync.clock import SystemClock

    now = SystemClock.now
    SystemClock.now = lambda self: now(self) + seconds  # type: ignore[method-assign]


def _job(config: Path, job: str, urls: tuple[str, ...]) -> dict[str, Any]:
    """Do what a worker does in one turn, in its words."""
    from mirror_sync import bootstrap
    from mirror_sync.config import load
    from mirror_sync.domain.runs import Lease
    from mirror_sync.errors import LeaseLost, StateUnavailable

    settings = load(config, environ={})
    bootstrap.configure_logs(settings)
    stop = threading.Event()

    def keep(lease: Lease) -> contextlib.nullcontext[threading.Event]:
        return contextlib.nullcontext(stop)  # jobs here are shorter than any lease

    if job == "setup":
        bootstrap.upgrade_database(settings)
    with bootstrap.build(settings, role="worker") as app:
        if job == "setup":
            app.recover_all()
            for url in urls:
                app.enrol(url)
            return {}
        worker = f"worker-{os.getpid()}"
        try:
            app.recover_all()
            if job == "sync":
                lease = app.claim(worker)
                if lease is None:
                    return {"outcome": "", "code": "not due"}
                report = app.sync(lease, stop=stop)
                return {"outcome": report.outcome.value, "code": report.code, "message": report.message}
        except (LeaseLost, StateUnavailable) as error:
            return {"outcome": "unrecorded", "code": error.code, "message": str(error)}
        if job == "maintain":
            return {"done": app.maintain_one(worker, keep=keep)}
        if job == "history":
            return {"done": app.fetch_history(worker, small=False, stop=stop)}
        if job == "sweep":
            app.sweep(worker, keep=keep, stop=stop)
            return {}
        if job == "remove":
            return {"done": app.remove_one(worker, keep=keep)}
    raise AssertionError(job)


class Shim:
    """Counts the points of a job and kills or fails it at one of them."""

    def __init__(self, *, kill_at: int, fail_at: int, orphans: bool) -> None:
        self.count = 0
        self.labels: list[str] = []
        self._kill_at = kill_at
        self._fail_at = fail_at
        self._orphans = orphans
        self._syncs = 0
        self._guard = threading.RLock()
        self._children: set[int] = set()

    def install(self, home: Path) -> None:
        """Wrap what is counted; tell of every publish in ``home`` before it happens."""
        self._home = home
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        self._wrap_open()
        self._wrap_children()
        self._wrap_commits()

    def point(self, label: str) -> None:
        with self._guard:
            self.count += 1
            self.labels.append(label)
            if self.count == self._kill_at:
                self._die()

    def _die(self) -> None:
        if not self._orphans:
            for child in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
        os.killpg(0, signal.SIGKILL)

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **more: Any) -> Any:
            label = f"{name} {' '.join(_path(arg) for arg in args[:2])}"
            self.point(f"before {label}")
            if name in ("fsync", "fdatasync"):
                self._perhaps_fail()
            if name == "replace" and os.fspath(args[1]).endswith("/current"):
                self._tell_publish(Path(args[0]))
            result = original(*args, **more)
            self.point(f"after {label}")
            return result

        return call

    def _perhaps_fail(self) -> None:
        with self._guard:
            self._syncs += 1
            if self._syncs == self._fail_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _tell_publish(self, link: Path) -> None:
        view = link.parent / os.readlink(link)
        record = {"refs": (view / "packed-refs").read_text(), "head": (view / "HEAD").read_text()}
        with (self._home / PUBLISHES).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _wrap_open(self) -> None:
        original = os.open

        def call(path: Any, flags: int, *args: Any, **more: Any) -> int:
            made = original(path, flags, *args, **more)
            if flags & os.O_CREAT:
                self.point(f"after open {_path(path)}")
            return made

        os.open = call

    def _wrap_children(self) -> None:
        begin, wait = subprocess.Popen.__init__, subprocess.Popen.wait
        shim = self

        def started(self: subprocess.Popen[Any], args: Any, *more: Any, **how: Any) -> None:
            words = list(args)
            label = " ".join(words[words.index("git") :][:3] if "git" in words else words[:2])
            shim.point(f"before start {label}")
            begin(self, args, *more, **how)
            shim._children.add(self.pid)
            shim.point(f"after start {label}")

        def waited(self: subprocess.Popen[Any], *args: Any, **how: Any) -> int:
            status = wait(self, *args, **how)
            shim._children.discard(self.pid)
            shim.point("after wait")
            return status

        subprocess.Popen.__init__ = started  # type: ignore[method-assign,assignment]
        subprocess.Popen.wait = waited  # type: ignore[method-assign,assignment]

    def _wrap_commits(self) -> None:
        from sqlalchemy.engine.default import DefaultDialect

        original = DefaultDialect.do_commit
        shim = self

        def commit(self: DefaultDialect, connection: Any) -> None:
            shim.point("before commit")
            original(self, connection)
            shim.point("after commit")

        DefaultDialect.do_commit = commit  # type: ignore[method-assign]


def _mark_state() -> None:
    """Let calls of the state store show among the system calls, as questions about paths that are not there."""
    from mirror_sync.state import SqlState

    for name in MARKED:
        setattr(SqlState, name, _marked(name, getattr(SqlState, name)))


def _marked(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **more: Any) -> Any:
        os.access(f"{MARK}begin:{name}", os.F_OK)
        result = original(*args, **more)
        os.access(f"{MARK}end:{name}", os.F_OK)
        return result

    return call


def _be_careless(what: str) -> None:
    """Leave out what makes things durable: of the database, of git, or of paths that match."""
    if what == "database":
        from mirror_sync.state import engine

        prepare = engine._prepare_sqlite

        def hasty(connection: Any, record: object) -> None:
            prepare(connection, record)
            connection.execute("PRAGMA synchronous=OFF")

        engine._prepare_sqlite = hasty
    elif what == "git":
        from mirror_sync.repos import git

        git.BASE_CONFIG["core.fsync"] = "none"  # type: ignore[index]
    elif what:
        original, unsynced = os.fsync, re.compile(what)

        def fsync(descriptor: int) -> None:
            if not unsynced.search(_path(descriptor)):
                original(descriptor)

        os.fsync = fsync  # type: ignore[assignment]


def _path(value: Any) -> str:
    if isinstance(value, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{value}")
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
