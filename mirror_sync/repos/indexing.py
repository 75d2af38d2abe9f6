"""Packs indexed in a directory of their own, so that one may still be worked on while the next one comes."""

from __future__ import annotations

import threading
from pathlib import Path

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import GitFailed, Interrupted
from mirror_sync.repos import salvage
from mirror_sync.repos.files import Space, remove_tree
from mirror_sync.repos.git import PIPE, Git
from mirror_sync.repos.salvage import PackScan

_NAME = "incoming"
_ENDINGS = (".pack", ".rev", ".idx")


class Indexing:
    """One pack on its way through ``git index-pack`` into ``directory``, which is made anew.

    It may be thin; what its deltas lean on must be in ``git``'s repository before :meth:`end`.
    """

    def __init__(self, git: Git, directory: Path, *, timeout: float) -> None:
        self._directory = directory
        remove_tree(directory)
        directory.mkdir()
        arguments = ["-o", str(directory / f"{_NAME}.idx"), str(directory / f"{_NAME}.pack")]
        self._child = git.stream(["index-pack", "--stdin", "--fix-thin", *arguments], stdin=PIPE, timeout=timeout)

    def write(self, data: bytes) -> None:
        """Hand on the next bytes; raises :class:`GitFailed` when git has seen enough."""
        try:
            self._child.stdin.write(data)
        except BrokenPipeError:
            raise self._child.failure(self._child.wait()) from None

    def end(self) -> None:
        """Say that no more comes."""
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            raise self._child.failure(self._child.wait()) from None

    def finish(self) -> str:
        """Wait for git and return the pack's name, under which its files lie in the directory.

        Raises :class:`GitFailed` or :class:`StorageFull`.
        """
        said = self._child.stdout.read()
        status = self._child.wait()
        if status:
            raise self._child.failure(status)
        name = f"pack-{said.split()[-1].decode('ascii')}"
        for ending in _ENDINGS:
            path = self._directory / f"{_NAME}{ending}"
            if path.exists():
                path.rename(self._directory / f"{name}{ending}")
        return name

    def kill(self) -> None:
        """Kill git; whoever waits in :meth:`finish` gets :class:`GitFailed`."""
        self._child.kill()

    def abandon(self) -> None:
        """Kill git, wait for its end, and remove what it made."""
        self._child.kill()
        self._child.wait()
        remove_tree(self._directory)


class PrefixIndexing:
    """The whole objects at the beginning of the spooled pack at ``path`` on their way into ``directory``.

    Another thread may :meth:`kill` what :meth:`finish` waits for.
    """

    def __init__(
        self,
        git: Git,
        directory: Path,
        path: Path,
        scan: PackScan,
        object_format: ObjectFormat,
        *,
        space: Space,
        timeout: float,
    ) -> None:
        self._git = git
        self._directory = directory
        self._beside = directory.with_name(f"{directory.name}-try")
        self._path = path
        self._scan = scan
        self._object_format = object_format
        self._space = space
        self._timeout = timeout
        self._guard = threading.Lock()
        self._killed = False
        self._under_way: Indexing | None = None

    def finish(self) -> tuple[str, int]:
        """Return the pack's name and how many objects it has; an empty name when it is none.

        Damage that only git can see, such as a delta that does not fit its base, makes it
        fewer, found by halving.  Raises :class:`StorageFull`, or :class:`Interrupted` once killed.
        """
        good, bad, kept = 0, len(self._scan.ends) + 1, ""
        attempt = len(self._scan.ends)
        while good < attempt < bad:
            self._space.check(self._scan.end(attempt))
            indexing = self._begin()
            try:
                for data in salvage.prefix(self._path, self._scan, attempt, self._object_format):
                    indexing.write(data)
                indexing.end()
                kept = indexing.finish()
            except GitFailed:
                remove_tree(self._beside)
                bad = attempt
            except BaseException:
                indexing.abandon()
                raise
            else:
                remove_tree(self._directory)
                self._beside.rename(self._directory)
                good = attempt
            attempt = (good + bad) // 2
        return kept, good

    def _begin(self) -> Indexing:
        with self._guard:
            if self._killed:
                raise Interrupted
            self._under_way = Indexing(self._git, self._beside, timeout=self._timeout)
            return self._under_way

    def kill(self) -> None:
        """Kill git; whoever waits in :meth:`finish` gets :class:`Interrupted`, unless it was done."""
        with self._guard:
            self._killed = True
            if self._under_way is not None:
                self._under_way.kill()
