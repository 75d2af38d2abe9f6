"""One mirror's repository: the front door to its store, stage and views."""

from __future__ import annotations

import errno
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.pointers import Pointer, PointerBlob, TipNeed
from mirror_sync.domain.refs import Change, ObjectFormat, RefUpdate
from mirror_sync.domain.runs import KeptTip
from mirror_sync.ports import Clock, Inspection, PublishRequest, Recovery, View
from mirror_sync.repos import ancestry, maintain, needs, paths, promote, publish, queries, recover, scan
from mirror_sync.repos.checks import Checks
from mirror_sync.repos.files import Space, remove_file, remove_tree, storage_errors, sync_directory
from mirror_sync.repos.filling import DiskFilling
from mirror_sync.repos.git import Git
from mirror_sync.repos.inspect import Inspector
from mirror_sync.repos.journal import GRAPH
from mirror_sync.repos.layout import Layout, layout_of
from mirror_sync.repos.lock import MirrorLock
from mirror_sync.repos.memory import child_memory_bytes
from mirror_sync.repos.stage import Stage
from mirror_sync.repos.store import Store, read_object_format
from mirror_sync.repos.views import Views


class Repository:
    """Implements :class:`mirror_sync.ports.GitRepository` on disk with git as its engine.

    One object serves one thread at a time; others open their own.
    """

    def __init__(
        self, layout: Layout, *, top: Path, clock: Clock, reserve_bytes: int | None, child_memory: int
    ) -> None:
        self.layout = layout
        self._top = top
        self._clock = clock
        self._lock = MirrorLock(layout.lock)
        self._git = Git(layout.store, descriptors=self._lock.descriptors, memory_bytes=child_memory)
        self._stage_git = self._git.elsewhere(layout.stage)
        self._store = Store(layout)
        space = Space(layout.root, reserve_bytes)
        self._stage = Stage(layout, self._stage_git, space=space)
        self._views = Views(layout)
        self._checks = Checks(layout, git=self._stage_git, object_format=lambda: self._object_format)
        self._filling = DiskFilling(
            layout,
            stage=self._stage,
            checks=self._checks,
            stage_git=self._stage_git,
            graph_git=self._git.elsewhere(layout.fill / GRAPH),
            space=space,
            guard=self._changing,
        )

    # -- lock and life
    def lock(self) -> AbstractContextManager[None]:
        """Hold the mirror's exclusive lock; not re-entrant."""
        return self._lock.hold()

    def exists(self) -> bool:
        """Tell whether the store is there."""
        return self._store.exists()

    def create(self, object_format: ObjectFormat) -> None:
        """Make an empty store of this object format; one of another format that was never published goes."""
        with self._changing():
            if self._store.exists() and not self.layout.current_number():
                self._make_way(object_format)
            self._store.create(object_format)

    def _make_way(self, object_format: ObjectFormat) -> None:
        """Remove store and stage when what is in them is of another object format."""
        if read_object_format(self.layout.store) is object_format:
            return
        for path in (self.layout.stage, self.layout.store):
            gone = path.with_name(f"tmp_{path.name}")
            remove_tree(gone)
            if path.is_dir():
                path.rename(gone)
                sync_directory(gone.parent)
                remove_tree(gone)

    def recover(self) -> Recovery:
        """Put right whatever a crash left."""
        with self._changing():
            return recover.recover(layout=self.layout, store=self._store, stage=self._stage)

    def remove(self) -> None:
        """Delete everything: first what clients see, the lock file last, then emptied directories above."""
        with self._changing():
            if remove_file(self.layout.current):
                sync_directory(self.layout.root)
            for path in (self.layout.views, self.layout.stage, self.layout.store):
                remove_tree(path)
            for path in self.layout.root.glob("tmp_*"):
                remove_tree(path) if path.is_dir() and not path.is_symlink() else remove_file(path)
            remove_file(self.layout.lock)
            sync_directory(self.layout.root)
            _remove_empty(self.layout.root, top=self._top)

    # -- reading
    def current_view(self) -> int:
        """Return the number of the published view without reading its refs."""
        return self.layout.current_number()

    def published(self) -> View:
        """Return the published view, read from the disk and checked."""
        return self._views.published()

    def next_view(self) -> int:
        """Return a number larger than that of any view on disk."""
        return max([*self._views.numbers(), self.layout.current_number()]) + 1

    def missing(self, oids: Iterable[GitOid]) -> set[GitOid]:
        """Return those of ``oids`` that are neither in the store nor in the stage."""
        asked = set(oids)
        if not asked or not (self._store.packs() or self._stage.packs()):
            return asked
        return asked - queries.types(self._everything(), sorted(asked)).keys()

    def peel(self, tips: Iterable[GitOid]) -> dict[GitOid, GitOid]:
        """Return the peeled object of each annotated tag among ``tips``."""
        return queries.peel(self._everything(), list(tips))

    def classify(self, updates: Sequence[RefUpdate]) -> dict[RefName, Change]:
        """Return the kind of each update by ancestry."""
        return ancestry.classify(self._everything(), updates)

    def scan_pointers(self, tips: Sequence[GitOid], *, scanned: Sequence[GitOid]) -> Iterator[PointerBlob]:
        """Yield every pointer blob reachable from ``tips`` and not from ``scanned``."""
        return scan.scan_pointers(self._everything(), tips, scanned=scanned)

    def tip_needs(
        self,
        tips: Sequence[GitOid],
        known: Mapping[GitOid, Pointer],
        *,
        selects: Callable[[str], bool] = needs.every_path,
    ) -> dict[GitOid, list[TipNeed]]:
        """Return the LFS objects that a checkout of each tip needs at a path that ``selects`` takes."""
        return needs.tip_needs(self._everything(), tips, known, selects=selects)

    def pointer_paths(
        self,
        tips: Sequence[GitOid],
        known: Mapping[GitOid, Pointer],
        *,
        excluded: Sequence[GitOid],
        since: float | None,
    ) -> Iterator[tuple[GitOid, str]]:
        """Yield each known pointer blob with each path at which a commit that counts has it."""
        return paths.pointer_paths(self._everything(), tips, known, excluded=excluded, since=since)

    def stage_is_empty(self) -> bool:
        """Tell whether the stage holds nothing, no filling either."""
        return self._stage.is_empty()

    def size_bytes(self) -> int:
        """Return the bytes of the store's packs."""
        return self._store.size_bytes()

    # -- staging
    def filling(self) -> DiskFilling:
        """Return the place where a fetch that does not come in one piece is gathered."""
        return self._filling

    def inspect(self, tips: Sequence[GitOid], *, relaxed: Sequence[str] = ()) -> Inspection:
        """Check staged objects strictly and tips for closure."""
        with self._changing():
            return self._inspector().inspect(tips, relaxed=relaxed)

    def discard_stage(self) -> None:
        """Empty the stage, unless an unfinished filling leans on it."""
        with self._changing():
            self._stage.discard()

    # -- publishing
    def promote(self, tips: Sequence[GitOid]) -> int:
        """Bring what ``tips`` reach from the stage into the store."""
        with self._changing():
            return promote.promote(
                tips,
                layout=self.layout,
                stage=self._stage,
                store=self._store,
                git=self._stage_git,
                inspector=self._inspector(),
            )

    def publish(self, request: PublishRequest, *, confirm: Callable[[], None]) -> View:
        """Move clients to a new view by one rename."""
        with self._changing():
            return publish.publish(
                request,
                layout=self.layout,
                store=self._store,
                views=self._views,
                git=self._git,
                object_format=self._object_format,
                confirm=confirm,
                now=self._clock.now(),
            )

    def protect(self, kept: Sequence[KeptTip]) -> None:
        """Make ``kept`` the kept tips among the roots."""
        with self._changing():
            publish.protect(kept, published=self.published().snapshot, store=self._store, git=self._git)

    def maintain(self, *, full: bool, stop: threading.Event | None = None) -> int:
        """Repack, write bitmap and commit-graph, and return the store's bytes."""
        with self._changing():
            maintain.maintain(
                layout=self.layout,
                store=self._store,
                stage=self._stage,
                git=self._git,
                stage_git=self._stage_git,
                object_format=self._object_format,
                full=full,
                now=self._clock.now(),
                stop=stop,
            )
            return self._store.size_bytes()

    # -- inside
    @functools.cached_property
    def _object_format(self) -> ObjectFormat:
        return read_object_format(self.layout.store)

    def _changing(self) -> AbstractContextManager[None]:
        assert self._lock.held, "called without the mirror's lock"
        return storage_errors(self.layout.root)

    def _everything(self) -> Git:
        """Return git where it sees the store and, when there is one, the stage."""
        return self._stage_git if self._stage.exists() else self._git

    def _root_oids(self) -> frozenset[GitOid]:
        return self._store.roots(self._views.last_read(self.layout.current_number())).oids()

    def _inspector(self) -> Inspector:
        return Inspector(
            self.layout,
            stage=self._stage,
            roots=self._root_oids,
            git=self._everything(),
            checks=self._checks,
        )


class Repositories:
    """Implements :class:`mirror_sync.ports.GitRepositories` below one directory.

    ``reserve_bytes`` stay free while bytes arrive; ``None`` means the smaller of
    100 GiB and 5 % of the file system.  ``child_memory`` bounds, in bytes, what each git
    child may allocate; ``None`` means half of the machine's memory, 0 no bound.
    """

    def __init__(
        self, git_dir: Path, *, clock: Clock, reserve_bytes: int | None = None, child_memory: int | None = None
    ) -> None:
        self._git_dir = git_dir
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._child_memory = child_memory_bytes(child_memory)

    def open(self, name: MirrorName) -> Repository:
        """Return the repository of this mirror, whether or not it exists yet."""
        layout = layout_of(self._git_dir, name)
        return Repository(
            layout,
            top=self._git_dir,
            clock=self._clock,
            reserve_bytes=self._reserve_bytes,
            child_memory=self._child_memory,
        )


def _remove_empty(directory: Path, *, top: Path) -> None:
    """Remove a directory and those above it as long as they are empty, ``top`` itself never."""
    while directory != top and directory.is_relative_to(top):
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return
        directory = directory.parent
