"""A filling whose objects are scripted commits; a commit stands for its trees and files too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import (
    AddressRefused,
    GitFailed,
    MirrorSyncError,
    RateLimited,
    StorageFull,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import Gap, GitAccess, Goal, Stretch, Taken

if TYPE_CHECKING:
    from mirror_sync.testing.repository import ScriptedObjects

PACK = b"PACK of names\n"
END = b"end\n"
UPSTREAM_ERRORS = (UpstreamUnavailable, UpstreamInvalid, UpstreamRefused, UpstreamGone, RateLimited, AddressRefused)


@dataclass(slots=True)
class FillDisk:
    """What survives a crash of the double."""

    goal: Goal | None = None
    graph: set[GitOid] = field(default_factory=set)
    came: set[GitOid] = field(default_factory=set)
    """Staged by this filling, whether or not what it needs is here."""
    order: list[GitOid] | None = None
    place: int = 0
    closed: set[GitOid] = field(default_factory=set)
    by_objects: bool = False
    given_up: dict[GitOid, str] = field(default_factory=dict)
    spool: bytearray | None = None
    blobs: dict[GitOid, bytearray] = field(default_factory=dict)


class MemoryFilling:
    """Implements :class:`mirror_sync.ports.Filling`; ``stage`` and ``store`` are the repository's own sets."""

    def __init__(self, objects: ScriptedObjects, disk: FillDisk, *, stage: set[GitOid], store: set[GitOid]) -> None:
        self._objects = objects
        self._disk = disk
        self._stage = stage
        self._store = store

    def begun(self) -> bool:
        return self._disk.goal is not None

    def begin(self, goal: Goal) -> None:
        disk = self._disk
        disk.given_up.clear()
        if disk.goal is not None and (set(disk.goal.tips), set(disk.goal.boundary)) == (
            set(goal.tips),
            set(goal.boundary),
        ):
            return
        if disk.order is not None:
            disk.closed.update(disk.order[: disk.place])
        disk.goal, disk.order, disk.place, disk.by_objects = goal, None, 0, False

    def interrupted(self) -> bool:
        return self._disk.spool is not None

    def salvage(self) -> Taken | None:
        assert self.begun(), "salvaged before the filling was begun"
        if self._disk.spool is None:
            return None
        data, self._disk.spool = bytes(self._disk.spool), None
        return self._index(data, graph=False, error=UpstreamUnavailable("the process ended"))

    def take(
        self,
        pack: Iterable[bytes],
        *,
        graph: bool = False,
        until_trees: bool = False,
        behind: bool = False,
        max_bytes: int,
    ) -> Taken:
        del until_trees, behind  # a pack of names holds nothing but commits, and is looked through at once
        spool = self._disk.spool = bytearray()
        error: MirrorSyncError | None = None
        try:
            for chunk in pack:
                spool += chunk
                if len(spool) > max_bytes:
                    self._disk.spool = None
                    raise StorageFull(f"the pack is larger than {max_bytes} bytes", code="MS-S413")
        except UPSTREAM_ERRORS as caught:
            error = caught
        if error is None and not (spool.startswith(PACK) and spool.endswith(END)):
            error = UpstreamInvalid("upstream's pack is damaged")
        if error is not None and not self.begun():
            return Taken(len(spool), 0, 0, complete=False, error=error)
        self._disk.spool = None
        return self._index(bytes(spool), graph=graph, error=error)

    def settle(self, *, tick: Callable[[], None] = lambda: None) -> None:
        """Nothing is ever behind."""

    def release(self) -> None:
        """Nothing is ever behind."""

    def _index(self, data: bytes, *, graph: bool, error: MirrorSyncError | None) -> Taken:
        whole = data[len(PACK) :].rpartition(b"\n")[0].split(b"\n") if data.startswith(PACK) else []
        oids = [GitOid(line.decode()) for line in whole if line not in (b"", END.strip())]
        if graph:
            self._disk.graph.update(oids)
        else:
            self._stage.update(oids)
            if self.begun() or error is not None:
                self._disk.came.update(oids)
        return Taken(len(data), len(oids), len(oids), complete=error is None, error=error)

    def take_stock(self, access: GitAccess, tips: Sequence[GitOid], *, max_bytes: int) -> int:
        del access
        data = self._objects.pack(tips, haves=self._done())
        return self.take([data], max_bytes=max_bytes).received

    # -- what is known

    def _goal(self) -> Goal:
        assert self._disk.goal is not None, "no filling was begun"
        return self._disk.goal

    def _done(self) -> set[GitOid]:
        """Everything that is closed for certain."""
        disk = self._disk
        closed = set(self._objects.reach([*self._goal().boundary, *disk.closed]))
        return closed | set((disk.order or [])[: disk.place])

    def _needed(self) -> list[GitOid]:
        return self._objects.reach(self._goal().tips, without=self._goal().boundary)

    def gap(self, *, wants: int, haves: int, strict: bool = False) -> Gap | None:
        del strict  # nothing here ever is of another goal and gone
        known = self._disk.graph | self._disk.came | self._store | self._done()
        commits = [oid for oid in self._needed() if oid in known]
        missing = [parent for oid in commits for parent in self._objects[oid].parents if parent not in known] or [
            tip for tip in self._goal().tips if tip not in known
        ]
        if not missing:
            return None
        shallow = [oid for oid in commits if any(parent not in known for parent in self._objects[oid].parents)]
        wanted = list(dict.fromkeys(missing))[:wants]
        return Gap(wanted, shallow, commits[:haves], len(wanted))

    def frozen(self) -> bool:
        return self._disk.order is not None

    def freeze(self) -> None:
        done = self._done()
        order: dict[GitOid, None] = {}

        def visit(tip: GitOid) -> None:
            todo = [tip]
            while todo:
                oid = todo[-1]
                ahead = [parent for parent in self._objects[oid].parents if parent not in order and parent not in done]
                if oid in order or not ahead:
                    order[todo.pop()] = None
                else:
                    todo.extend(ahead)

        for tip in self._goal().tips:
            commit = tip
            while commit in self._objects and (target := self._objects[commit].target) is not None:
                commit = target
            if commit not in done and commit in self._objects:
                visit(commit)
        self._disk.order, self._disk.place = list(order), 0

    def place(self) -> tuple[int, int]:
        return self._disk.place, len(self._disk.order or [])

    def stretch(self, commits: int) -> Stretch | None:
        order = self._disk.order or []
        chunk = order[self._disk.place : self._disk.place + commits]
        if not chunk:
            return None
        parents = {parent for oid in chunk for parent in self._objects[oid].parents}
        wants = [oid for oid in chunk if oid not in parents]
        begin = self._disk.place
        return Stretch(len(chunk), wants, sorted(parents - set(chunk)), begin, begin + len(chunk))

    def advance(self, stretch: Stretch) -> None:
        if stretch.begin == self._disk.place:
            self._disk.place = stretch.end

    def closed(self) -> frozenset[GitOid]:
        return frozenset(self._disk.closed)

    def note_closed(self, tips: Sequence[GitOid]) -> None:
        self._disk.closed.update(tips)

    # -- single objects

    def copy_commits(self, stretch: Stretch) -> None:
        del stretch  # a commit is its files here, so having one in the graph is not having it

    def lacking(self, stretch: Stretch | None, *, limit: int) -> list[GitOid]:
        here = self._stage | self._store | set(self._disk.given_up)
        if stretch is None:
            needed = self._needed()
        else:
            needed = (self._disk.order or [])[stretch.end - stretch.commits : stretch.end]
        absent = [oid for oid in needed if oid not in here]
        tips = [oid for oid in absent if oid in set(self._goal().tips)]
        return (tips if stretch is None and tips else absent)[:limit]

    def by_objects(self) -> bool:
        return self._disk.by_objects

    def go_by_objects(self) -> None:
        self._disk.by_objects = True

    def locate(self, blob: GitOid) -> tuple[GitOid, bytes] | None:
        return (blob, b"file") if blob in self._objects else None

    def blob(self, blob: GitOid) -> MemoryBlobPart:
        return MemoryBlobPart(blob, self._disk, self._stage)

    def give_up(self, oid: GitOid, reason: str) -> None:
        self._disk.given_up[oid] = reason

    def given_up(self) -> Mapping[GitOid, str]:
        return dict(self._disk.given_up)

    def finish(self, *, tick: Callable[[], None] = lambda: None) -> int:
        tick()
        here = self._stage | self._store | set(self._disk.given_up)
        absent = [oid for oid in self._needed() if oid not in here]
        if absent:
            self._disk.closed.clear()
            raise GitFailed(f"{absent[0]} is not here", argv=("pack-objects",), status=128)
        size = len(self._disk.came)
        if not self._disk.given_up:
            self._end()
        return size

    def drop(self) -> None:
        self._stage.difference_update(self._disk.came)
        self._end()

    def _end(self) -> None:
        fresh = FillDisk()
        for name in fresh.__slots__:
            setattr(self._disk, name, getattr(fresh, name))


class MemoryBlobPart:
    """Implements :class:`mirror_sync.ports.BlobPart`; the right bytes are the object's own id."""

    def __init__(self, oid: GitOid, disk: FillDisk, stage: set[GitOid]) -> None:
        self._oid = oid
        self._disk = disk
        self._stage = stage

    def here(self) -> int:
        return len(self._disk.blobs.get(self._oid, b""))

    def write(self, data: bytes) -> None:
        self._disk.blobs.setdefault(self._oid, bytearray()).extend(data)

    def restart(self) -> None:
        self._disk.blobs.pop(self._oid, None)

    def keep(self) -> bool:
        right = bytes(self._disk.blobs.pop(self._oid, b"")) == self._oid.encode()
        if right:
            self._stage.add(self._oid)
            self._disk.came.add(self._oid)
        return right
