"""The one door to git children.

GitPython is used for its process driver alone; every option is ours, and every child
starts in an environment built from nothing (``docs/threat-model.md``).
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import resource
import select
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, BinaryIO, Final, Self, cast

from mirror_sync.domain.names import printable
from mirror_sync.errors import ConfigError, GitFailed, Interrupted, StorageFull

if TYPE_CHECKING:
    import git.cmd

OLDEST_GIT: Final = (2, 39)
PIPE: Final = subprocess.PIPE
"""Ask :meth:`Git.stream` for a ``child.stdin`` to write to."""

STDERR_LIMIT: Final = 64 * 1024
DEADLINE_SECONDS: Final = 6 * 3600.0
"""No child lives longer unless its caller says so."""

CHILD_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_BASE_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": CHILD_PATH,
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",
    "SSH_ASKPASS": "false",
    "GIT_SSH_COMMAND": "false",
    "GCM_INTERACTIVE": "never",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
}

BASE_CONFIG: Final[Mapping[str, str]] = {
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.fsync": "all",
    "core.fsyncMethod": "fsync",
    "core.bigFileThreshold": "64m",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.windowMemory": "256m",
    "protocol.allow": "never",
    "transfer.bundleURI": "false",
}
"""Settings of every child, given by environment: a command line is world-readable."""

_LOADER_PREFIX = "LD_"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_FULL = (b"No space left on device", b"Disk quota exceeded", b"File too large")
_CHUNK = 256 * 1024

Stdin = bytes | int | IO[bytes] | None


def no_descriptors() -> tuple[int, ...]:
    """Return no descriptors: a child that holds no lock."""
    return ()


class Child:
    """A running git child: ``stdout``, and ``stdin`` when it was asked for; made by :meth:`Git.stream`.

    Leaving its ``with`` block normally waits for the end (unread output is thrown
    away) and raises :class:`GitFailed` for a bad exit status; leaving it by an exception,
    closing a generator included, kills the child's whole process group.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], args: Sequence[str], *, deadline: float, ok: Sequence[int]
    ) -> None:
        self._process = process
        self._ok = ok
        self.args = tuple(args)
        self.errors = _Tail(STDERR_LIMIT)
        self._deadline = deadline
        self._killed = False
        self._watcher: threading.Thread | None = None
        self.timed_out = False

    @property
    def stdout(self) -> BinaryIO:
        """What the child writes."""
        assert self._process.stdout is not None
        return cast("BinaryIO", self._process.stdout)

    @property
    def stdin(self) -> BinaryIO:
        """What the child reads; only when ``stdin=PIPE`` was asked for.  Close it to say that no more comes."""
        assert self._process.stdin is not None
        return cast("BinaryIO", self._process.stdin)

    @property
    def stderr(self) -> IO[bytes]:
        """The child's raw error stream; read by this class alone unless the caller pumps by hand."""
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's id too."""
        return self._process.pid

    def watch(self) -> None:
        """Drain the error stream and keep the deadline in the background."""
        self._watcher = threading.Thread(target=self._watch, name="git-child", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        descriptor = self.stderr.fileno()
        ends = time.monotonic() + self._deadline
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            if not poll.poll(max(0.0, ends - time.monotonic()) * 1000):
                self.timed_out = True
                self.kill()
                ends = time.monotonic() + 60.0
            elif data := os.read(descriptor, 8192):
                self.errors.add(data)
            else:
                return

    def kill(self) -> None:
        """Kill the whole process group; does nothing when the child was waited for already."""
        self._killed = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Close the pipes, reap the child and return its exit status (negative: signal)."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()
        if self._killed:
            # The leader stays a zombie until reaped, so its group id cannot be anybody else's yet.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
        status = self._process.wait()
        if self._watcher is not None:
            self._watcher.join()
        self.stderr.close()
        return status

    def failure(self, status: int) -> GitFailed | StorageFull:
        """Return the error that an exit with ``status`` means."""
        text = self.errors.data()
        if any(full in text for full in _FULL):
            return StorageFull("git could not write: no space is left", why=clean(text)[-400:])
        message = f"git {self.args[0]} ran longer than {self._deadline:.0f} s" if self.timed_out else ""
        return GitFailed(message, argv=redact(self.args), status=status, stderr=clean(text))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
            status = self.wait()
            if issubclass(kind, (BrokenPipeError, EOFError)) and not self.timed_out and status > 0:
                raise self.failure(status) from error
            return
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
        if not self.stdout.closed:
            while self.stdout.read(_CHUNK):
                pass
        status = self.wait()
        if status not in self._ok:
            raise self.failure(status)


class Git:
    """Git at work in one repository directory (a bare repository, given as ``GIT_DIR``).

    ``descriptors`` names file descriptors every child inherits (the mirror's lock).
    ``config`` and ``environment`` are added to what every child gets.
    """

    def __init__(
        self,
        directory: Path,
        *,
        descriptors: Callable[[], tuple[int, ...]] = no_descriptors,
        config: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._descriptors = descriptors
        self._config = {**BASE_CONFIG, **(config or {})}
        self._environment = {**_BASE_ENVIRONMENT, "GIT_DIR": str(directory), **(environment or {})}

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: Stdin = None,
        config: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
        timeout: float = DEADLINE_SECONDS,
        stop: threading.Event | None = None,
        file_limit: int | None = None,
        on_error_line: Callable[[bytes], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> bytes:
        """Run ``git args`` to its end and return what it wrote.

        ``stdin`` is bytes, an open file or descriptor, or nothing.  An exit status not
        in ``ok`` raises :class:`GitFailed` (or :class:`StorageFull` when git met a full
        disk); after ``timeout`` seconds the group is killed.  ``stop`` kills the child
        and raises :class:`Interrupted`.  ``on_error_line`` gets every whole line of
        stderr.  ``tick`` is called about four times a second and raises to kill the
        child.  ``file_limit`` bounds, in bytes, each file the child writes.
        """
        with self._start(
            args, stdin=stdin, config=config, environment=environment, timeout=timeout, file_limit=file_limit, ok=ok
        ) as child:
            return _Pump(child, stop=stop, tick=tick, on_error_line=on_error_line).collect(())

    def feed(
        self,
        args: Sequence[str],
        chunks: Iterable[bytes],
        *,
        config: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = DEADLINE_SECONDS,
        stop: threading.Event | None = None,
    ) -> bytes:
        """Run ``git args`` with ``chunks`` as its input, as they arrive, and return what it wrote.

        An exception from ``chunks`` kills the child and passes through.
        """
        with self._start(args, stdin=PIPE, config=config, environment=environment, timeout=timeout) as child:
            return _Pump(child, stop=stop, tick=None, on_error_line=None).collect(chunks)

    def stream(
        self,
        args: Sequence[str],
        *,
        stdin: Stdin = None,
        config: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = DEADLINE_SECONDS,
    ) -> Child:
        """Start ``git args`` and return the running :class:`Child`, to be used in a ``with`` block.

        ``stdin=PIPE`` gives ``child.stdin``; bytes are handed over whole, so that writing
        them never waits for reading.
        """
        child = self._start(args, stdin=stdin, config=config, environment=environment, timeout=timeout)
        child.watch()
        return child

    def _start(
        self,
        args: Sequence[str],
        *,
        stdin: Stdin,
        config: Mapping[str, str] | None,
        environment: Mapping[str, str] | None,
        timeout: float,
        file_limit: int | None = None,
        ok: Sequence[int] = (0,),
    ) -> Child:
        variables = {**self._environment, **(environment or {})}
        variables.update(config_variables({**self._config, **(config or {})}))
        command = [*_unset(variables), "git", *args]
        source: int | IO[bytes] | None
        spool: int | None = None
        if isinstance(stdin, bytes):
            spool = source = _spooled(stdin)
        else:
            source = stdin
        try:
            process = _driver(str(self.directory)).execute(
                command,
                istream=cast("BinaryIO", source),
                as_process=True,
                env=variables,
                start_new_session=True,
                pass_fds=self._descriptors(),
            )
        except OSError as error:
            raise GitFailed(f"git cannot be started: {error.strerror}", argv=redact(args), status=-1) from error
        except _not_found() as error:
            raise ConfigError("git cannot be started", remedy="install git 2.39 or newer") from error
        finally:
            if spool is not None:
                os.close(spool)
        popen = cast("subprocess.Popen[bytes]", process.proc)
        # From here on the child is ours: the wrapper's own finaliser must not touch it.
        process.proc = None
        _limit(popen.pid, file_limit)
        return Child(popen, args, deadline=timeout, ok=ok)


def config_variables(config: Mapping[str, str]) -> dict[str, str]:
    """Return ``config`` as git's ``GIT_CONFIG_COUNT``, ``GIT_CONFIG_KEY_n`` and ``GIT_CONFIG_VALUE_n``."""
    variables = {"GIT_CONFIG_COUNT": str(len(config))}
    for index, (key, value) in enumerate(config.items()):
        variables[f"GIT_CONFIG_KEY_{index}"] = key
        variables[f"GIT_CONFIG_VALUE_{index}"] = value
    return variables


def config_of_variables(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split ``variables`` into the settings they carry and the rest; the inverse of :func:`config_variables`."""
    rest = {name: value for name, value in variables.items() if not name.startswith("GIT_CONFIG_")}
    count = int(variables.get("GIT_CONFIG_COUNT", "0"))
    config = {variables[f"GIT_CONFIG_KEY_{index}"]: variables[f"GIT_CONFIG_VALUE_{index}"] for index in range(count)}
    return config, rest


@functools.cache
def git_version() -> tuple[int, int, int]:
    """Return the installed git's version; raises :class:`ConfigError` when it is absent or older than 2.39."""
    text = Git(Path("/")).run(["version"]).decode("ascii", "replace")
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise ConfigError("git does not say its version", why=printable(text.strip()))
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    if version[:2] < OLDEST_GIT:
        raise ConfigError(
            f"git {'.'.join(map(str, version))} is too old", remedy="install git 2.39 or newer, with its security fixes"
        )
    return version


def clean(raw: bytes) -> str:
    """Return what git said, fit for a log: no control characters, no credentials in URLs."""
    text = _CONTROL.sub(b"", raw.replace(b"\r", b"\n")).decode("utf-8", "replace")
    return _CREDENTIALS.sub("***@", "\n".join(printable(line) for line in text.splitlines() if line.strip()))


def redact(args: Sequence[str]) -> tuple[str, ...]:
    """Return ``args`` fit for a log: at most 20, each at most 200 characters, no credentials."""
    shown = [_CREDENTIALS.sub("***@", printable(arg))[:200] for arg in args[:20]]
    return (*shown, "...") if len(args) > len(shown) else tuple(shown)


class _Tail:
    """The last ``limit`` bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._limit:
            del self._data[: -self._limit]

    def data(self) -> bytes:
        return bytes(self._data)


class _Pump:
    """Moves a child's three streams in one thread, so that none of them can block the others."""

    def __init__(
        self,
        child: Child,
        *,
        stop: threading.Event | None,
        tick: Callable[[], None] | None,
        on_error_line: Callable[[bytes], None] | None,
    ) -> None:
        self._child = child
        self._stop = stop
        self._tick = tick
        self._on_error_line = on_error_line
        self._output = io.BytesIO()
        self._line = b""
        self._ends = time.monotonic() + child._deadline  # noqa: SLF001 - the two halves of one door
        self._poll = 0.25 if stop is not None or tick is not None else 3600.0
        self._selector = selectors.DefaultSelector()

    def collect(self, chunks: Iterable[bytes]) -> bytes:
        """Feed ``chunks`` when the child has an input, and return all it writes."""
        child = self._child
        with self._selector as selector:
            for stream in (child.stdout, child.stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream.fileno(), selectors.EVENT_READ)
            if child._process.stdin is not None:  # noqa: SLF001 - the two halves of one door
                self._feed(chunks)
            while selector.get_map():
                self._turn()
        if self._line and self._on_error_line is not None:
            self._on_error_line(self._line)
        return self._output.getvalue()

    def _feed(self, chunks: Iterable[bytes]) -> None:
        stdin = self._child.stdin
        descriptor = stdin.fileno()
        os.set_blocking(descriptor, False)
        self._selector.register(descriptor, selectors.EVENT_WRITE)
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    if self._turn(writable=descriptor):
                        view = view[os.write(descriptor, view[:_CHUNK]) :]
        except BrokenPipeError:
            # The child gave up; what it said and its status are the news, not our broken pipe.
            pass
        finally:
            self._selector.unregister(descriptor)
        stdin.close()

    def _turn(self, *, writable: int = -1) -> bool:
        """Move what can be moved; return whether ``writable`` takes data."""
        remaining = self._ends - time.monotonic()
        if remaining <= 0:
            self._child.timed_out = True
            self._child.kill()
            raise self._child.failure(-signal.SIGKILL)
        if self._stop is not None and self._stop.is_set():
            raise Interrupted
        ready = False
        for key, _ in self._selector.select(min(remaining, self._poll)):
            descriptor = key.fd
            if descriptor == writable:
                ready = True
                continue
            try:
                data = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                self._selector.unregister(descriptor)
            elif descriptor == self._child.stdout.fileno():
                self._output.write(data)
            else:
                self._child.errors.add(data)
                self._split_errors(data)
        if self._tick is not None:
            self._tick()
        return ready

    def _split_errors(self, data: bytes) -> None:
        if self._on_error_line is None:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._on_error_line(line)


def _limit(pid: int, file_limit: int | None) -> None:
    """Bound a child from outside: setting limits between fork and exec would forbid the fast way to start it."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        if file_limit is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_limit, file_limit))


def _spooled(data: bytes) -> int:
    descriptor = os.memfd_create("git-stdin", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _unset(variables: Mapping[str, str]) -> list[str]:
    """Return the words before ``git`` that take away what GitPython copies from our own environment.

    GitPython always hands ``os.environ`` on.  Only names appear on the command line, and
    none at all once the entry point has scrubbed its environment.  The dynamic loader's
    own variables stay: they already act on this very process.
    """
    inherited = os.environ  # noqa: TID251 - read to be taken away
    names = [name for name in inherited if name not in variables and not name.startswith(_LOADER_PREFIX)]
    if not names:
        return []
    words = ["env"]
    for name in names:
        words += ["-u", name]
    return words


@functools.cache
def _library() -> type[git.cmd.Git]:
    """Import GitPython at first need: it takes a tenth of a second and runs ``git version``."""
    inherited = os.environ  # noqa: TID251 - GitPython asks git for its version with all of it, at import only
    aside = {name: inherited.pop(name) for name in list(inherited) if name.startswith("GIT_")}
    inherited["GIT_PYTHON_REFRESH"] = "quiet"
    try:
        import git.cmd
    finally:
        del inherited["GIT_PYTHON_REFRESH"]
        inherited.update(aside)
    return git.cmd.Git


def _not_found() -> type[Exception]:
    from git.exc import GitCommandNotFound

    return GitCommandNotFound


def _driver(directory: str) -> git.cmd.Git:
    return _library()(directory)


def read_lines(stream: IO[bytes], *, size: int = _CHUNK) -> Iterator[bytes]:
    """Yield the lines of ``stream`` without their newline, read in large pieces."""
    rest = b""
    while data := stream.read(size):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest
