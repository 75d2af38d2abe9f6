"""Web and worker as children of one process: started, restarted, signalled and outlived together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mirror_sync.clock import SystemClock
from mirror_sync.telemetry import logger
from mirror_sync.worker.notify import Notifier

PR_SET_PDEATHSIG = 1
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A child that ran so long begins again with the first backoff."""

KILL_AFTER_SECONDS = 20.0
"""How long children may outlast the drain time-out before they are killed."""

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """One role and the command line that runs it in the foreground."""

    role: str
    argv: tuple[str, ...]


def role_commands(options: Sequence[str], roles: Sequence[str] = ("web", "worker")) -> tuple[ChildCommand, ...]:
    """Return this program's own command line for each role; ``options`` name the configuration."""
    return tuple(
        ChildCommand(role, (sys.executable, "-m", "mirror_sync", *options, "serve", "--role", role)) for role in roles
    )


def supervise(
    commands: Sequence[ChildCommand],
    *,
    environment: Mapping[str, str],
    drain_timeout: float,
    on_ready: Callable[[], None] | None = None,
    on_end: Callable[[], None] | None = None,
    hangup_ends: bool = False,
) -> int:
    """Run the commands until a signal ends them; return the exit status of the first that failed, else 0.

    Each child has its own process group, gets SIGTERM when this process dies, and tells
    its readiness over a socket of ours; systemd hears READY=1 when all are ready
    (``on_ready`` is called then, once) and the worker's watchdog pings while all live.
    A child that ends unasked is started again after a growing pause, except one that
    never became ready: then everything ends with its status.  SIGTERM, SIGINT and
    SIGHUP are passed on (``hangup_ends``: SIGHUP as SIGTERM, for a terminal that
    closes; SIGINT as SIGTERM to a child that is not ready, which has nothing to break
    off); the third asking to end, or ``drain_timeout`` seconds and some grace, kills.
    ``on_end`` is called when the end begins.
    Must be called in the main thread.
    """
    supervisor = _Supervisor(
        commands, environment=environment, drain_timeout=drain_timeout,
        on_ready=on_ready or (lambda: None), on_end=on_end or (lambda: None), hangup_ends=hangup_ends,
    )  # fmt: skip
    with supervisor.listening():
        return supervisor.run()


class _Child:
    """One role's process, as it is started again and again."""

    def __init__(self, command: ChildCommand) -> None:
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.was_ready = False
        self.ready = False
        self.started_at = 0.0
        self.backoff = FIRST_BACKOFF_SECONDS
        self.start_at: float | None = None
        """When to start it (monotonic seconds), ``None`` while it runs or shall not run."""

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill_group(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class _Supervisor:
    def __init__(
        self,
        commands: Sequence[ChildCommand],
        *,
        environment: Mapping[str, str],
        drain_timeout: float,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
        hangup_ends: bool,
    ) -> None:
        self._children = [_Child(command) for command in commands]
        self._notifier = Notifier.from_environment(environment)
        self._clock = SystemClock()
        self._drain_timeout = drain_timeout
        self._on_ready = on_ready
        self._on_end = on_end
        self._hangup_ends = hangup_ends
        self._told_ready = False
        self._asked_to_end = 0
        self._kill_at: float | None = None
        self._status = 0
        self._selector = selectors.DefaultSelector()
        self._reports = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._wakeup, self._wakeup_in = socket.socketpair()
        self._environment = {
            name: value for name, value in environment.items() if name not in {"WATCHDOG_USEC", "WATCHDOG_PID"}
        }
        checkout = Path(__file__).resolve().parents[2]
        if (checkout / "pyproject.toml").is_file():
            self._environment["PYTHONPATH"] = str(checkout)  # children run the same code, installed or not
        if self._notifier.watchdog_seconds:
            self._environment["WATCHDOG_USEC"] = str(int(self._notifier.watchdog_seconds * 1e6))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals and the children's reports while the ``with`` lasts."""
        address = f"mirror-sync/{os.getpid()}/{secrets.token_hex(8)}"
        self._reports.bind(f"\0{address}")
        # the kernel says who sent a report: an abstract name is open to everybody on the machine
        self._reports.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._environment["NOTIFY_SOCKET"] = f"@{address}"
        for end in (self._wakeup, self._wakeup_in):
            end.setblocking(False)
        self._selector.register(self._reports, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        before = {number: signal.signal(number, _note) for number in WATCHED}
        wakeup_before = signal.set_wakeup_fd(self._wakeup_in.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            for end in (self._reports, self._wakeup, self._wakeup_in):
                end.close()

    def run(self) -> int:
        for child in self._children:
            self._start(child)
        while any(child.process is not None or child.start_at is not None for child in self._children):
            for key, _ in self._selector.select(self._until_next()):
                if key.fileobj is self._wakeup:
                    self._take_signals()
                else:
                    self._take_reports()
            self._reap()
            self._act_on_time()
        return self._status

    def _say(self, event: str, *, level: str = "info", **fields: object) -> None:
        getattr(logger("mirror_sync.supervisor"), level)(event, **fields)

    # -- children
    def _start(self, child: _Child) -> None:
        child.start_at = None
        child.ready = False
        child.started_at = self._clock.monotonic()
        child.process = subprocess.Popen(
            child.command.argv,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - one prctl; nothing else sets it before the exec
        )
        self._say("child_started", role=child.command.role, pid=child.pid)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None:
                continue
            status = child.process.poll()
            if status is not None:
                child.kill_group()  # whatever it left behind holds ports and locks
                child.process = None
                self._ended(child, status)

    def _ended(self, child: _Child, status: int) -> None:
        if self._asked_to_end:
            self._say("child_ended", role=child.command.role, status=status)
            if child.was_ready or status != -signal.SIGTERM:  # else it ended as told, before it could say so
                self._note_status(status)
            return
        now = self._clock.monotonic()
        self._say("child_died", role=child.command.role, status=status, level="error")
        if not child.was_ready:
            self._note_status(status or 1)
            self._end(signal.SIGTERM)
            return
        if now - child.started_at >= STEADY_SECONDS:
            child.backoff = FIRST_BACKOFF_SECONDS
        child.start_at = now + child.backoff
        child.backoff = min(2 * child.backoff, LONGEST_BACKOFF_SECONDS)

    def _note_status(self, status: int) -> None:
        if status and not self._status:
            self._status = status if status > 0 else 128 - status

    # -- signals
    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wakeup.recv(64):
                self._signalled(signal.Signals(number))

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGHUP and not self._hangup_ends:
            self._say("signal_passed_on", signal=number.name)
            for child in self._children:
                child.signal(number)
            return
        self._end(signal.SIGTERM if number == signal.SIGHUP else number)

    def _end(self, number: signal.Signals) -> None:
        self._asked_to_end += 1
        if self._asked_to_end == 1:
            self._notifier.stopping("waiting for web and worker")
            self._kill_at = self._clock.monotonic() + self._drain_timeout + KILL_AFTER_SECONDS
            self._on_end()
        for child in self._children:
            child.start_at = None
            if self._asked_to_end > 2:
                child.kill_group()
            else:
                child.signal(number if child.was_ready else signal.SIGTERM)

    # -- reports
    def _take_reports(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._reports.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
                child = self._sender(ancillary)
                if child is not None:
                    self._report(child, data.decode(errors="replace").splitlines())

    def _sender(self, ancillary: Sequence[tuple[int, int, bytes]]) -> _Child | None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = CREDENTIALS.unpack(data[: CREDENTIALS.size])[0]
                return next((child for child in self._children if child.pid == pid), None)
        return None

    def _report(self, child: _Child, lines: Sequence[str]) -> None:
        if "READY=1" in lines:
            child.ready = child.was_ready = True
            if all(one.ready for one in self._children):
                self._all_ready()
        if "WATCHDOG=1" in lines and all(one.ready for one in self._children):
            self._notifier.alive()

    def _all_ready(self) -> None:
        self._notifier.ready("web and worker are running")
        if not self._told_ready:
            self._told_ready = True
            self._say("ready")
            self._on_ready()

    # -- time
    def _until_next(self) -> float | None:
        moments = [child.start_at for child in self._children if child.start_at is not None]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        if not moments:
            return None
        return max(0.0, min(moments) - self._clock.monotonic())

    def _act_on_time(self) -> None:
        now = self._clock.monotonic()
        for child in self._children:
            if child.start_at is not None and child.start_at <= now:
                self._start(child)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for child in self._children:
                if child.process is not None:
                    self._say("child_killed", role=child.command.role, level="error")
                    child.kill_group()


def _note(_number: int, _frame: FrameType | None) -> None:
    """Let the wake-up descriptor speak; a handler is needed for the signal to be caught at all."""


def _die_with(parent: int) -> Callable[[], None]:
    """Return what a child calls before its exec so that the kernel ends it when ``parent`` ends."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the kernel was told

    return arrange
