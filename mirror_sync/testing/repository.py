"""A mirror's repository as a dictionary of refs over a scripted set of objects."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.pointers import Pointer, PointerBlob, TipNeed
from mirror_sync.domain.refs import NO_HEAD, Change, ObjectFormat, RefSnapshot, RefUpdate
from mirror_sync.domain.runs import KeptTip
from mirror_sync.errors import LeaseLost, PublishConflict, RepositoryDamaged
from mirror_sync.ports import Inspection, PublishRequest, Recovery, View
from mirror_sync.testing.filling import PACK, FillDisk, MemoryFilling


@dataclass(frozen=True, slots=True)
class ScriptedCommit:
    """One object worth a ref: its parents, the pointers it brings, and what its checkout needs.

    ``fault`` is what a strict check says of it; ``target`` makes it an annotated tag.
    """

    oid: GitOid
    parents: tuple[GitOid, ...] = ()
    pointers: tuple[PointerBlob, ...] = ()
    needs: tuple[TipNeed, ...] = ()
    fault: str = ""
    target: GitOid | None = None
    at: float = 0.0
    """The committer's date in Unix seconds."""


class ScriptedObjects:
    """Every object that exists anywhere: what an upstream can send and a repository can hold."""

    def __init__(self) -> None:
        self._commits: dict[GitOid, ScriptedCommit] = {}

    def __getitem__(self, oid: GitOid) -> ScriptedCommit:
        return self._commits[oid]

    def __contains__(self, oid: object) -> bool:
        return oid in self._commits

    def commit(
        self,
        text: str,
        *,
        parents: Sequence[GitOid] = (),
        files: Mapping[str, Pointer] | None = None,
        fault: str = "",
        at: float = 0.0,
    ) -> GitOid:
        """Script a commit named by ``text`` whose checkout needs the LFS objects in ``files`` (path to pointer)."""
        pointers = dict(files or {})
        oid = scripted_oid(f"{text} {sorted(parents)} {sorted(pointers)}")
        self._commits[oid] = ScriptedCommit(
            oid,
            tuple(parents),
            tuple(PointerBlob(scripted_oid(f"{pointer.oid} {pointer.size}"), pointer) for pointer in pointers.values()),
            tuple(TipNeed(pointer, path) for path, pointer in pointers.items()),
            fault,
            at=at,
        )
        return oid

    def tag(self, text: str, target: GitOid) -> GitOid:
        """Script an annotated tag."""
        oid = scripted_oid(f"tag {text} {target}")
        self._commits[oid] = ScriptedCommit(oid, (target,), target=target)
        return oid

    def reach(self, tips: Iterable[GitOid], *, without: Iterable[GitOid] = ()) -> list[GitOid]:
        """Return everything reachable from ``tips`` and not from ``without``."""
        hidden = set(self.reach(without)) if without else set()
        seen: dict[GitOid, None] = {}
        todo = [oid for oid in tips if oid in self._commits]
        while todo:
            oid = todo.pop()
            if oid in seen or oid in hidden:
                continue
            seen[oid] = None
            todo.extend(parent for parent in self._commits[oid].parents if parent in self._commits)
        return list(seen)

    def pack(self, wants: Iterable[GitOid], *, haves: Iterable[GitOid] = ()) -> bytes:
        """Return a pack that :class:`MemoryRepository` can stage."""
        return PACK + "".join(f"{oid}\n" for oid in self.reach(wants, without=haves)).encode() + b"end\n"


def scripted_oid(text: str) -> GitOid:
    """Return a Git object id made from ``text``."""
    return GitOid(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class _Disk:
    """What survives a crash of the double."""

    object_format: ObjectFormat | None = None
    store: set[GitOid] = field(default_factory=set)
    stage: set[GitOid] = field(default_factory=set)
    views: dict[int, RefSnapshot] = field(default_factory=dict)
    current: int = 0
    kept: tuple[KeptTip, ...] = ()
    fill: FillDisk = field(default_factory=FillDisk)
    lock: threading.Lock = field(default_factory=threading.Lock)


class MemoryRepository:
    """Implements :class:`mirror_sync.ports.GitRepository` in memory.

    ``before_flip`` is called between the confirmation and the flip, for scripted crashes.
    """

    def __init__(self, objects: ScriptedObjects, disk: _Disk | None = None) -> None:
        self.objects = objects
        self.disk = disk or _Disk()
        self.before_flip: Callable[[], None] = _nothing

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        if not self.disk.lock.acquire(blocking=False):
            raise LeaseLost("another process holds this mirror's lock")
        try:
            yield
        finally:
            self.disk.lock.release()

    def _held(self) -> None:
        assert self.disk.lock.locked(), "called without the mirror's lock"

    def exists(self) -> bool:
        return self.disk.object_format is not None

    def create(self, object_format: ObjectFormat) -> None:
        self._held()
        disk = self.disk
        if disk.object_format not in (None, object_format) and not disk.current:
            disk.store.clear()
            disk.stage.clear()
            disk.fill = FillDisk()
            disk.object_format = None
        if disk.object_format is None:
            disk.object_format = object_format

    def recover(self) -> Recovery:
        self._held()
        unfinished = [number for number in self.disk.views if number > self.disk.current]
        for number in unfinished:
            del self.disk.views[number]
        return Recovery(tuple(f"views/{number}" for number in unfinished))

    def current_view(self) -> int:
        return self.disk.current

    def published(self) -> View:
        number = self.disk.current
        if number and number not in self.disk.views:
            raise RepositoryDamaged(f"view {number} is gone")
        return View(number, self.disk.views[number] if number else RefSnapshot({}, NO_HEAD))

    def missing(self, oids: Iterable[GitOid]) -> set[GitOid]:
        return set(oids) - self.disk.store - self.disk.stage

    def filling(self) -> MemoryFilling:
        return MemoryFilling(self.objects, self.disk.fill, stage=self.disk.stage, store=self.disk.store)

    def inspect(self, tips: Sequence[GitOid], *, relaxed: Sequence[str] = ()) -> Inspection:
        self._held()
        here = self.disk.store | self.disk.stage
        bad: dict[GitOid, str] = {}
        notes: dict[str, int] = {}
        for tip in tips:
            if tip not in here:
                bad[tip] = f"{tip} is not here"
                continue
            for oid in self.objects.reach([tip]):
                commit = self.objects[oid]
                if any(parent not in here for parent in commit.parents):
                    bad[tip] = f"{oid} needs an object that did not come"
                elif commit.fault in relaxed:
                    notes[commit.fault] = notes.get(commit.fault, 0) + 1
                elif commit.fault:
                    bad[tip] = f"{commit.fault} ({oid[:12]})"
        return Inspection(bad, tuple(f"{fault}: {count} objects" for fault, count in sorted(notes.items()) if fault))

    def promote(self, tips: Sequence[GitOid]) -> int:
        self._held()
        fresh = set(self.objects.reach(tips)) & self.disk.stage - self.disk.store
        self.disk.store |= fresh
        return 100 * len(fresh)

    def peel(self, tips: Iterable[GitOid]) -> dict[GitOid, GitOid]:
        peeled: dict[GitOid, GitOid] = {}
        for tip in tips:
            target = self.objects[tip].target
            while target is not None:
                peeled[tip] = target
                target = self.objects[target].target
        return peeled

    def classify(self, updates: Sequence[RefUpdate]) -> dict[RefName, Change]:
        kinds: dict[RefName, Change] = {}
        for update in updates:
            if update.old is None:
                kinds[update.name] = Change.CREATE
            elif update.new is None:
                kinds[update.name] = Change.DELETE
            elif self._is_commit(update.old) and self._is_commit(update.new):
                forward = update.old in self.objects.reach([update.new])
                kinds[update.name] = Change.FAST_FORWARD if forward else Change.FORCED
            else:
                kinds[update.name] = Change.FORCED
        return kinds

    def _is_commit(self, oid: GitOid) -> bool:
        return oid in self.objects and self.objects[oid].target is None

    def scan_pointers(self, tips: Sequence[GitOid], *, scanned: Sequence[GitOid]) -> Iterator[PointerBlob]:
        seen: set[GitOid] = set()
        for oid in self.objects.reach(tips, without=scanned):
            for found in self.objects[oid].pointers:
                if found.blob not in seen:
                    seen.add(found.blob)
                    yield found

    def tip_needs(
        self,
        tips: Sequence[GitOid],
        known: Mapping[GitOid, Pointer],
        *,
        selects: Callable[[str], bool] = lambda _path: True,
    ) -> dict[GitOid, list[TipNeed]]:
        wanted = set(known.values())
        needs: dict[GitOid, list[TipNeed]] = {}
        for tip in tips:
            target = self.peel([tip]).get(tip, tip)
            chosen = [need for need in self.objects[target].needs if need.pointer in wanted and selects(need.path)]
            found = {need.pointer: need for need in reversed(chosen)}
            if found:
                needs[tip] = list(found.values())
        return needs

    def pointer_paths(
        self,
        tips: Sequence[GitOid],
        known: Mapping[GitOid, Pointer],
        *,
        excluded: Sequence[GitOid],
        since: float | None,
    ) -> Iterator[tuple[GitOid, str]]:
        for oid in self.objects.reach(tips, without=excluded):
            commit = self.objects[oid]
            if since is None or commit.at >= since:
                for found in commit.pointers:
                    for need in commit.needs:
                        if need.pointer == found.pointer and found.blob in known:
                            yield found.blob, need.path

    def next_view(self) -> int:
        return max(self.disk.views, default=0) + 1

    def publish(self, request: PublishRequest, *, confirm: Callable[[], None]) -> View:
        self._held()
        if request.expected_view != self.disk.current:
            raise PublishConflict
        absent = set(request.snapshot.tips.values()) - self.disk.store
        if absent:
            raise RepositoryDamaged("a tip to be published is not in the store", why=min(absent))
        self.disk.kept = tuple(request.kept)
        self.disk.views[request.view] = RefSnapshot(dict(request.snapshot.tips), request.snapshot.head)
        confirm()
        self.before_flip()
        self.disk.current = request.view
        return self.published()

    def protect(self, kept: Sequence[KeptTip]) -> None:
        self._held()
        self.disk.kept = tuple(kept)

    def discard_stage(self) -> None:
        self._held()
        self.disk.stage &= self.disk.fill.came  # an unfinished fetch goes on after this run

    def stage_is_empty(self) -> bool:
        return not self.disk.stage - self.disk.fill.came

    def maintain(self, *, full: bool, stop: threading.Event | None = None) -> int:  # noqa: ARG002 - it takes no time
        self._held()
        if full and not self.disk.stage:
            roots = {*self.published().snapshot.tips.values(), *(tip.oid for tip in self.disk.kept)}
            self.disk.store &= set(self.objects.reach(roots))
        return self.size_bytes()

    def size_bytes(self) -> int:
        return 100 * len(self.disk.store)

    def remove(self) -> None:
        self._held()
        lock = self.disk.lock
        self.disk = _Disk(lock=lock)


class MemoryRepositories:
    """Implements :class:`mirror_sync.ports.GitRepositories`: one disk per mirror name."""

    def __init__(self, objects: ScriptedObjects) -> None:
        self.objects = objects
        self._opened: dict[MirrorName, MemoryRepository] = {}

    def open(self, name: MirrorName) -> MemoryRepository:
        if name not in self._opened:
            self._opened[name] = MemoryRepository(self.objects)
        return self._opened[name]


def _nothing() -> None:
    """Do nothing."""
