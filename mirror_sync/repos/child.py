"""A running git child: its three streams, its deadline, its end."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, BinaryIO, Final, Self, cast

from mirror_sync.domain.figures import size_text
from mirror_sync.domain.names import printable
from mirror_sync.errors import GitFailed, GitOutOfMemory, Interrupted, StorageFull

STDERR_LIMIT: Final = 64 * 1024

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_FULL = re.compile(rb"No space left on device|Disk quota exceeded|File too large")
_NO_MEMORY = re.compile(rb"^(?:fatal|error): .*(?:[Oo]ut of memory|Cannot allocate memory).*", re.MULTILINE)
_OF_UPSTREAM = re.compile(rb"^(?:remote: |fatal: remote error|fatal: invalid ).*$", re.MULTILINE)
"""What upstream says, which stock git repeats: it tells nothing of this machine."""
_CHUNK = 256 * 1024
_NEVER_SECONDS = 3600.0


class Child:
    """A running git child: ``stdout``, and ``stdin`` when it was asked for; made by :meth:`Git.stream`.

    Leaving its ``with`` block normally waits for the end (unread output is thrown
    away) and raises :class:`GitFailed` for a bad exit status; leaving it by an exception,
    closing a generator included, kills the child's whole process group.  After
    :meth:`kill` the block may be left as one likes: that end was wanted.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        args: Sequence[str],
        *,
        deadline: float,
        ok: Sequence[int],
        memory_bytes: int = 0,
    ) -> None:
        self._process = process
        self._memory_bytes = memory_bytes
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

    def failure(self, status: int) -> GitFailed | StorageFull | GitOutOfMemory:
        """Return the error that an exit with ``status`` means."""
        text = self.errors.data()
        own = _OF_UPSTREAM.sub(b"", text)
        if _FULL.search(own):
            return StorageFull("git could not write: no space is left", why=clean(text)[-400:])
        if said := _NO_MEMORY.search(own):
            return self._out_of_memory(clean(said[0]))
        message = f"git {self.args[0]} ran longer than {self._deadline:.0f} s" if self.timed_out else ""
        if status == -signal.SIGKILL and not self._killed:
            message = f"git {self.args[0]} was killed, most often because the machine has no memory left"
        return GitFailed(message, argv=redact(self.args), status=status, stderr=clean(text))

    def _out_of_memory(self, said: str) -> GitOutOfMemory:
        if not self._memory_bytes:
            return GitOutOfMemory(
                f"git {self.args[0]} got no more memory",
                why=said,
                remedy="look at what takes the machine's memory, and at the limits of the service",
            )
        return GitOutOfMemory(
            f"git {self.args[0]} needs more memory than a git command may take",
            why=f"git.max_memory allows {size_text(self._memory_bytes)}; {said}",
            remedy="raise git.max_memory if this repository is really meant to be mirrored; "
            "clients keep the refs published before",
        )

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
        if self._killed and not self.timed_out:
            self.wait()
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


class Pump:
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
        self._poll = 0.25 if stop is not None or tick is not None else _NEVER_SECONDS
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


def read_lines(stream: IO[bytes], *, size: int = _CHUNK) -> Iterator[bytes]:
    """Yield the lines of ``stream`` without their newline, read in large pieces."""
    rest = b""
    while data := stream.read(size):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest
