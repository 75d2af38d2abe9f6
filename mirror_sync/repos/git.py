"""The one door to git children.

GitPython is used for its process driver alone; every option is ours, and every child
starts in an environment built from nothing (``docs/adr/0007-gitpython-as-process-driver.md``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from mirror_sync.domain.names import printable
from mirror_sync.errors import ConfigError, GitFailed
from mirror_sync.repos.child import Child, Pump, redact

if TYPE_CHECKING:
    import git.cmd

__all__ = ["BASE_CONFIG", "PIPE", "Child", "Config", "Git", "config_of_variables", "git_version"]

OLDEST_GIT: Final = (2, 39)
PIPE: Final = subprocess.PIPE
"""Ask :meth:`Git.stream` for a ``child.stdin`` to write to."""

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
    "pack.threads": str(min(4, os.cpu_count() or 1)),
    "pack.windowMemory": "256m",
    "protocol.allow": "never",
    "transfer.bundleURI": "false",
}
"""Settings of every child, given by environment: a command line is world-readable.

Few threads, since each has caches of its own.
"""

_LOADER_PREFIX = "LD_"

Stdin = bytes | int | IO[bytes] | None

Config = Mapping[str, str] | Sequence[tuple[str, str]]
"""Settings by name; as pairs where one name may stand several times.  Later ones win where git takes one value."""


def no_descriptors() -> tuple[int, ...]:
    """Return no descriptors: a child that holds no lock."""
    return ()


class Git:
    """Git at work in one repository directory (a bare repository, given as ``GIT_DIR``).

    ``descriptors`` names file descriptors every child inherits (the mirror's lock).
    ``config`` and ``environment`` are added to what every child gets.  ``memory_bytes``
    bounds what each child, and each of its own children, may allocate; 0 is no bound.
    Packs that git maps do not count: the kernel takes them back.
    """

    def __init__(
        self,
        directory: Path,
        *,
        descriptors: Callable[[], tuple[int, ...]] = no_descriptors,
        config: Config | None = None,
        environment: Mapping[str, str] | None = None,
        memory_bytes: int = 0,
    ) -> None:
        self.directory = directory
        self._descriptors = descriptors
        self._memory_bytes = memory_bytes
        self._config = [*BASE_CONFIG.items(), *_pairs(config)]
        self._environment = {**_BASE_ENVIRONMENT, "GIT_DIR": str(directory), **(environment or {})}

    def elsewhere(self, directory: Path) -> Git:
        """Return git in another directory, with the same descriptors and bound and nothing else added."""
        return Git(directory, descriptors=self._descriptors, memory_bytes=self._memory_bytes)

    def run(
        self,
        args: Sequence[str],
        *,
        stdin: Stdin = None,
        config: Config | None = None,
        environment: Mapping[str, str] | None = None,
        ok: Sequence[int] = (0,),
        timeout: float = DEADLINE_SECONDS,
        stop: threading.Event | None = None,
        file_limit: int | None = None,
        on_error_line: Callable[[bytes], None] | None = None,
        tick: Callable[[], None] | None = None,
        aside: bool = False,
    ) -> bytes:
        """Run ``git args`` to its end and return what it wrote.

        ``stdin`` is bytes, an open file or descriptor, or nothing.  An exit status not
        in ``ok`` raises :class:`GitFailed` (or :class:`StorageFull` when git met a full
        disk, :class:`GitOutOfMemory` when it got no more memory); after ``timeout``
        seconds the group is killed.  ``stop`` kills the child
        and raises :class:`Interrupted`.  ``on_error_line`` gets every whole line of
        stderr.  ``tick`` is called about four times a second and raises to kill the
        child.  ``file_limit`` bounds, in bytes, each file the child writes.  A child
        ``aside`` takes the processor only where nothing else of the machine wants it.
        """
        with self._start(
            args, stdin=stdin, config=config, environment=environment, timeout=timeout, file_limit=file_limit, ok=ok
        ) as child:
            if aside:
                _step_aside(child.pid)
            return Pump(child, stop=stop, tick=tick, on_error_line=on_error_line).collect(())

    def feed(
        self,
        args: Sequence[str],
        chunks: Iterable[bytes],
        *,
        config: Config | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = DEADLINE_SECONDS,
        stop: threading.Event | None = None,
    ) -> bytes:
        """Run ``git args`` with ``chunks`` as its input, as they arrive, and return what it wrote.

        An exception from ``chunks`` kills the child and passes through.
        """
        with self._start(args, stdin=PIPE, config=config, environment=environment, timeout=timeout) as child:
            return Pump(child, stop=stop, tick=None, on_error_line=None).collect(chunks)

    def stream(
        self,
        args: Sequence[str],
        *,
        stdin: Stdin = None,
        config: Config | None = None,
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
        config: Config | None,
        environment: Mapping[str, str] | None,
        timeout: float,
        file_limit: int | None = None,
        ok: Sequence[int] = (0,),
    ) -> Child:
        variables = {**self._environment, **(environment or {})}
        variables.update(_config_variables([*self._config, *_pairs(config)]))
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
        _limit(popen.pid, file_limit=file_limit, memory_bytes=self._memory_bytes)
        return Child(popen, args, deadline=timeout, ok=ok, memory_bytes=self._memory_bytes)


def config_of_variables(variables: Mapping[str, str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Split ``variables`` into the settings that ``GIT_CONFIG_COUNT/KEY_n/VALUE_n`` carry and all the rest."""
    rest = {name: value for name, value in variables.items() if not name.startswith("GIT_CONFIG_")}
    count = int(variables.get("GIT_CONFIG_COUNT", "0"))
    config = [(variables[f"GIT_CONFIG_KEY_{index}"], variables[f"GIT_CONFIG_VALUE_{index}"]) for index in range(count)]
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


def _pairs(config: Config | None) -> list[tuple[str, str]]:
    if config is None:
        return []
    return list(config.items()) if isinstance(config, Mapping) else list(config)


def _config_variables(config: Sequence[tuple[str, str]]) -> dict[str, str]:
    variables = {"GIT_CONFIG_COUNT": str(len(config))}
    for index, (key, value) in enumerate(config):
        variables[f"GIT_CONFIG_KEY_{index}"] = key
        variables[f"GIT_CONFIG_VALUE_{index}"] = value
    return variables


def _limit(pid: int, *, file_limit: int | None, memory_bytes: int) -> None:
    """Bound a child from outside: setting limits between fork and exec would forbid the fast way to start it."""
    limits = {resource.RLIMIT_CORE: 0}
    if file_limit is not None:
        limits[resource.RLIMIT_FSIZE] = file_limit
    if memory_bytes:
        # Not the address space: git maps whole packs, which are as large as the repository.
        limits[resource.RLIMIT_DATA] = memory_bytes
    todo = [pid]
    while todo:
        one = todo.pop()
        with contextlib.suppress(ProcessLookupError):
            for kind, most in limits.items():
                _, hard = resource.getrlimit(kind)
                bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.prlimit(one, kind, (bound, bound))
        # What it started before this took effect; whatever it starts from now on is bounded as it is.
        with contextlib.suppress(OSError):
            todo += map(int, Path(f"/proc/{one}/task/{one}/children").read_bytes().split())


def _step_aside(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 15))


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


_IMPORTING = threading.Lock()


@functools.cache
def _library() -> type[git.cmd.Git]:
    """Import GitPython at first need: it takes a tenth of a second and runs ``git version``."""
    inherited = os.environ  # noqa: TID251 - GitPython asks git for its version with all of it, at import only
    with _IMPORTING:  # the environment is the whole process's, and the first syncs begin at the same time
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
