"""A filling on disk: the front door to the journal, the spool, the graph and the ladder of one unfinished fetch.

It lies in the stage's ``fill`` directory.  Objects come first and are durable, then
the note that says so: whatever a crash leaves, the notes claim no more than is there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import (
    AddressRefused,
    GitFailed,
    GitOutOfMemory,
    MirrorSyncError,
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.ports import GitAccess
from mirror_sync.ports.filling import Gap, Goal, Stretch, Taken
from mirror_sync.repos import graph, salvage
from mirror_sync.repos.blob_part import DiskBlobPart
from mirror_sync.repos.checks import Checks
from mirror_sync.repos.child import read_lines
from mirror_sync.repos.files import (
    Space,
    remove_file,
    remove_tree,
    replace_file,
    sync_directory,
    sync_together,
)
from mirror_sync.repos.git import Git
from mirror_sync.repos.graph import Holes, Pretence, Targets
from mirror_sync.repos.indexing import Indexing, PrefixIndexing
from mirror_sync.repos.journal import BLOBS, GATHER, GRAPH, ORDER, Journal, Position, remove_packs
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.locate import locate
from mirror_sync.repos.queries import oid_lines, types
from mirror_sync.repos.salvage import PackScan
from mirror_sync.repos.spool import Spool
from mirror_sync.repos.stage import CLOSED_REFS, Stage, unfinished_pack_files
from mirror_sync.repos.store import make_bare, read_object_format, whole_packs

UPSTREAM_ERRORS = (
    UpstreamUnavailable,
    UpstreamInvalid,
    RateLimited,
    UpstreamGone,
    UpstreamRefused,
    AddressRefused,
)
"""What the sender of a pack is to blame for: it ends the pack, not the filling."""

PACKS_WORTH_GATHERING = 3
PACKS_WORTH_JOINING = 64
"""From so many on, small packs are joined on the way: git looks into each of them for every object."""

MOST_GATHERINGS = 2
"""After so many that a killed process never ended, the packs stay as they came; maintenance gathers them later."""

JOINED_BYTES = 64 << 20
"""No more is joined at once, so that a process that is killed every few seconds gets on all the same."""

FEW_UNCHECKED = 2
"""Where no more than one in so many bytes was not checked on the way, only that is checked at the end."""

MANY_CHECKED = 50
"""A pack of less than one in so many bytes is checked sooner than it is asked whether it matters."""

LATE_OBJECTS = 200
"""So many of the last objects tell how large those are that did not come."""

MISSING_SHOWN = 1000
"""So many missing objects at most are looked for when it is only asked whether any are."""

_BORROWED = "../../../objects\n../../../../store/objects"
"""What the graph sees besides its own: the stage's objects and the store's, as paths from its object directory."""

_SPOOLS = {False: "incoming.pack.part", True: "incoming-graph.pack.part"}
"""The pack on its way, by whether it goes to the graph."""

_SPOOL_OF = "incoming-{:06}.pack.part"
"""A pack that may still be worked on while the next one comes; the lowest number came first."""

_NUMBERED = re.compile(r"incoming-(\d{6,})\.pack\.part\Z")

_INDEX_OF = "tmp_index-{:06}"
"""Directory in a filling where a pack of that number is indexed."""

_FEW_DELTAS = 50
"""With one delta in so many objects, those that are none tell well enough what came."""

_EMPTY_AT_MOST = 64
"""Bytes of a pack of no objects: its head and checksum, and some room."""

_RECEIVE_SECONDS = 20 * 24 * 3600.0
"""A slow link may need days for one pack; whoever reads it notices a stall."""

_TICK_SECONDS = 0.25
"""So often is asked, while something is waited for, whether to go on waiting."""

_GATHER_CONFIG: Mapping[str, str] = {
    "pack.threads": "2",
    "pack.windowMemory": "128m",
    "pack.deltaCacheSize": "64m",
    "core.deltaBaseCacheLimit": "96m",
}


@dataclass(slots=True)
class _Behind:
    """A pack whose bytes are all here and that git still works on."""

    spool: Path
    scan: PackScan
    directory: Path
    work: futures.Future[tuple[str, int]]
    kill: Callable[[], None]
    position: Position | None = None
    """What to note once its objects are here."""


class _Checker:
    """Checks packs one after another while others come."""

    def __init__(self) -> None:
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="check")
        self._stop = threading.Event()
        self._tasks: list[futures.Future[None]] = []

    def submit(self, checks: Checks, pack: str) -> None:
        """Check a pack after those before it."""
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(self._thread.submit(checks.try_early, pack, stop=self._stop))

    def end(self, *, stop: bool) -> None:
        """Leave out what has not begun, and with ``stop`` break off what has."""
        if stop:
            self._stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def wait(self, tick: Callable[[], None]) -> None:
        """Wait until nothing is checked; what went wrong is found again when the pack is looked at in earnest."""
        begun = [task for task in self._tasks if not task.cancelled()]
        while futures.wait(begun, timeout=_TICK_SECONDS).not_done:
            tick()


class _Trees(Exception):
    """The commits of the pack are over."""


def _nothing() -> None:
    """Do nothing."""


class DiskFilling:
    """Implements :class:`mirror_sync.ports.filling.Filling` beside one mirror's stage.

    ``guard`` fails without the mirror's lock and translates what the file system says.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        stage: Stage,
        stage_git: Git,
        graph_git: Git,
        checks: Checks,
        space: Space,
        guard: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._layout = layout
        self._stage = stage
        self._stage_git = stage_git
        self._graph_git = graph_git
        self._checks = checks
        self._space = space
        self._guard = guard
        self._journal = Journal(layout)
        self._heads: tuple[int, set[GitOid]] | None = None
        """Heads of the order up to an offset, so that it is read once only."""
        self._asked: Stretch | None = None
        """What was last asked for what it lacks."""
        self._listed: tuple[Stretch | None, list[GitOid]] | None = None
        """What that lacked, as far as it was told."""
        self._behind: _Behind | None = None
        self._failed: Taken | None = None
        """What became of a pack that turned out damaged after its last byte, until it is told."""
        self._before: int | None = None
        """Objects that the pack before brought, where its bytes promised any, until it is told."""
        self._checker: _Checker | None = None
        """Who checks packs while others come."""
        self._ranges: set[str] = set()
        """Which it was given."""

    # -- begin and end
    def begun(self) -> bool:
        """Tell whether a filling was begun and not finished."""
        return self._journal.begun()

    def begin(self, goal: Goal) -> None:
        """Freeze the goal; what is closed stays noted, an order for another goal goes."""
        with self._guard():
            self._settle()
            journal = self._journal
            journal.complete_ending()
            self._ensure(goal.object_format, graph=True)
            sync_directory(journal.directory.parent)
            old = journal.goal()
            if old is None or _essence(old) != _essence(goal):
                if (journal.position() or Position(0, 0, 0)).done:
                    journal.write_closed(journal.closed() | self._ladder_heads())
                journal.drop_order()
                journal.write_goal(goal)
            journal.write_given_up({})
            self._forget_what_was_known()

    def drop(self) -> None:
        """Forget the filling and everything that came for it."""
        with self._guard():
            self._end_checking(stop=True)
            self._stop_behind()
            if self._journal.directory.is_dir():
                self._journal.end(keep=())
            self._forget_what_was_known()

    def finish(self, *, tick: Callable[[], None] = _nothing) -> int:
        """Check that everything is here, gather it in one pack where it came in many, and end the filling."""
        with self._guard():
            self._settle()
            self._journal.complete_ending()
            if not self._journal.begun():
                return 0
            goal = self._goal()
            own = self._journal.packs() & self._stage.packs()
            if not self._is_whole(goal, tick=tick):
                lacking = self._search(goal, without=goal.boundary, limit=MISSING_SHOWN)
                if not lacking:
                    return self._size(own)  # all but what was given up
                self._journal.doubt()
                raise GitFailed(
                    f"{len(lacking)}{' or more' if len(lacking) >= MISSING_SHOWN else ''} objects did not come",
                    argv=("rev-list", "--objects"),
                    stderr=f"{lacking[0]} is missing",
                )
            if (
                len(own) >= PACKS_WORTH_GATHERING
                and self._journal.gatherings() < MOST_GATHERINGS
                and self._space.fits(self._size(own))
            ):
                self._journal.note_gathering()
                own = self._gather(goal, own, tick=tick)
            size = self._size(own)
            self._journal.end(keep=own)
            self._forget_what_was_known()
            return size

    def _forget_what_was_known(self) -> None:
        self._heads = self._asked = self._listed = self._failed = self._before = None

    def _is_whole(self, goal: Goal, *, tick: Callable[[], None]) -> bool:
        asked = oid_lines([*goal.tips, *(f"^{oid}" for oid in goal.boundary)])
        try:
            self._stage_git.run(["rev-list", "--objects", "--quiet", "--stdin"], stdin=asked, tick=tick)
        except GitFailed as error:
            if error.status < 0:
                raise
            return False
        return True

    def _gather(self, goal: Goal, own: set[str], *, tick: Callable[[], None]) -> set[str]:
        """Pack what the goal needs anew, bring it into the stage, and return its name."""
        asked = oid_lines([*goal.tips, *(f"^{oid}" for oid in goal.boundary)])
        made = self._pack_anew(["--revs"], asked, size=self._size(own), tick=tick)
        self._end_checking(tick=tick)
        for name in made:
            self._inherit(name, own, tick=tick)
        return made

    def _inherit(self, made: str, own: set[str], *, tick: Callable[[], None]) -> None:
        """Let what was found on the way stand for ``made``, where that is less work than to check all of it anew."""
        # What came of packs that broke off came again, mostly, and then need not be looked at.
        total = self._size(own)
        unchecked = sorted(self._checks.unchecked(own), key=lambda name: self._size([name]))
        first = [name for name in unchecked if name in self._ranges or self._size([name]) * MANY_CHECKED < total]
        rest = [name for name in reversed(unchecked) if name not in first]
        for some in (first, *([name] for name in rest)):
            if self._size(some) * FEW_UNCHECKED > total:
                return
            for name in some:
                tick()
                self._checks.try_early(name, tick=tick, aside=False)
            if self._checks.inherit(own.difference(self._checks.unchecked(own)), made):
                return

    def _join(self) -> None:
        """Put small packs into one as they are; each byte is copied a few times only, however many come."""
        own = self._journal.packs() & self._stage.packs()
        if len(own) < PACKS_WORTH_JOINING:
            return
        together: list[str] = []
        size = 0
        for name in sorted(own, key=lambda name: self._size([name])):
            if len(together) > 1 and (self._size([name]) > 2 * size or size + self._size([name]) > JOINED_BYTES):
                break
            together.append(name)
            size += self._size([name])
        asked = "".join(f"{name}.pack\n" for name in together).encode()
        made = self._pack_anew(["--stdin-packs"], asked, size=size, tick=_nothing)
        for name in made:
            self._checks.inherit(together, name)
        remove_packs(self._layout.stage_packs, set(together) - made)

    def _pack_anew(self, options: Sequence[str], asked: bytes, *, size: int, tick: Callable[[], None]) -> set[str]:
        """Make a pack, bring it into the stage as one of the filling's, and return its name."""
        self._space.check(size)
        directory = self._journal.directory / GATHER
        remove_tree(directory)
        directory.mkdir()
        arguments = ["pack-objects", *options, "--delta-base-offset", "--window=0", "--non-empty", "--quiet"]
        try:
            self._stage_git.run([*arguments, str(directory / "pack")], stdin=asked, config=_GATHER_CONFIG, tick=tick)
            return self._bring_in(directory)
        finally:
            remove_tree(directory)

    def _bring_in(self, directory: Path) -> set[str]:
        """Bring the packs in ``directory`` into the stage as the filling's, and return their names."""
        made = whole_packs(directory)
        self._journal.note_packs(made)
        for name in sorted(made - self._stage.packs()):
            files = [directory / f"{name}{ending}" for ending in (".pack", ".rev", ".idx")]
            present = [path for path in files if path.exists()]
            sync_together(present)
            for path in present:
                target = self._layout.stage_packs / path.name
                remove_file(target)
                target.hardlink_to(path)
        sync_directory(self._layout.stage_packs)
        return made

    def _size(self, packs: Iterable[str]) -> int:
        return sum((self._layout.stage_packs / f"{name}.pack").stat().st_size for name in packs)

    # -- packs as they come
    def take(
        self,
        pack: Iterable[bytes],
        *,
        graph: bool = False,
        until_trees: bool = False,
        behind: bool = False,
        max_bytes: int,
    ) -> Taken:
        """Write a pack down and index it as it arrives; when it breaks off, keep its whole objects."""
        with self._guard():
            if behind and not graph and not until_trees and self._journal.begun():
                return self._take_behind(pack, max_bytes=max_bytes)
            self._settle()
            self._failed = self._before = self._listed = None
            object_format = self._object_format()
            self._journal.complete_ending()
            self._ensure(object_format, graph=graph)
            begun = self._journal.begun()
            if begun:
                self._salvage(object_format)
            git, directory = self._destination(graph=graph)
            path = self._journal.directory / _SPOOLS[graph]
            scan = PackScan(object_format, until_trees=True) if until_trees else None
            stopped = False
            error: MirrorSyncError | None = None
            with Spool(path, max_bytes=max_bytes, space=self._space) as spool:
                try:
                    with closing(spool.tee(pack)) as chunks:
                        announced = self._receive(git, chunks, object_format, scan=scan, graph=graph)
                except _Trees:
                    stopped = True
                except (*UPSTREAM_ERRORS, GitFailed) as caught:
                    error = caught
                finally:
                    _sweep(directory)
                    if isinstance(pack, Generator):
                        pack.close()  # whoever sends it need not go on
            if error is None and not stopped:
                self._forget(path)
                self._journal.tidy()
                return Taken(spool.received, announced, announced, complete=True)
            if not begun:
                return Taken(spool.received, 0, 0, complete=False, error=error)
            taken = self._keep_prefix(path, object_format, scan=scan if stopped else None, graph=graph)
            return replace(taken, error=error, stopped=stopped)

    def _take_behind(self, pack: Iterable[bytes], *, max_bytes: int) -> Taken:
        """Take a pack and leave the last of the work on it to be done while the next one comes."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            return replace(failed, before=self._told_before())
        object_format = self._goal().object_format
        self._ensure(object_format, graph=False)
        if self._behind is None:
            self._salvage(object_format)
        number = self._next_number()
        path = self._journal.directory / _SPOOL_OF.format(number)
        directory = self._journal.directory / _INDEX_OF.format(number)
        scan = PackScan(object_format, ids=self._listed is not None)
        error: MirrorSyncError | None = None
        empty = False
        with Spool(path, max_bytes=max_bytes, space=self._space) as spool:
            indexing = Indexing(self._stage_git, directory, timeout=_RECEIVE_SECONDS)
            try:
                with closing(spool.tee(pack)) as chunks:
                    empty = self._pass_on(chunks, scan, indexing, object_format)
            except (*UPSTREAM_ERRORS, GitFailed) as caught:
                indexing.abandon()
                error = caught
            except BaseException:
                indexing.abandon()
                raise
            finally:
                if isinstance(pack, Generator):
                    pack.close()  # whoever sends it need not go on
        if empty:
            indexing.abandon()
            self._forget(path)
            return Taken(spool.received, 0, 0, complete=True, before=self._told_before())
        if error is None:
            count = scan.announced
            self._leave_behind(path, scan, directory, lambda: (indexing.finish(), count), kill=indexing.kill)
            return Taken(spool.received, count, count, complete=True, before=self._told_before())
        self._settle()
        if isinstance(error, GitFailed):
            # Where damage is, what came is not what it seems.
            self._failed = self._listed = None
            taken = self._keep_prefix(path, object_format, scan=None, graph=False)
            return replace(taken, error=error, before=self._told_before())
        prefix = PrefixIndexing(
            self._stage_git, directory, path, scan, object_format, space=self._space, timeout=_RECEIVE_SECONDS
        )
        self._leave_behind(path, scan, directory, prefix.finish, kill=prefix.kill)
        return replace(_taken(spool.received, scan, len(scan.ends)), error=error, before=self._told_before())

    def _pass_on(
        self, chunks: Iterator[bytes], scan: PackScan, indexing: Indexing, object_format: ObjectFormat
    ) -> bool:
        """Hand a pack to git, its end only once the pack before is here; tell whether it is one of no objects."""
        held = b""
        for chunk in chunks:
            scan.feed(chunk)
            if self._behind is not None and self._behind.work.done():
                self._settle_or_raise()
            if len(held) < _EMPTY_AT_MOST:
                held += chunk
                continue
            indexing.write(held)
            held = chunk
        if scan.started and scan.announced == 0:
            _check_empty(held, object_format)
            return True
        # Its deltas may lean on objects of the pack before.
        self._settle_or_raise()
        indexing.write(held)
        indexing.end()
        return False

    def _leave_behind(
        self,
        spool: Path,
        scan: PackScan,
        directory: Path,
        work: Callable[[], tuple[str, int]],
        *,
        kill: Callable[[], None],
    ) -> None:
        thread = futures.ThreadPoolExecutor(1, thread_name_prefix="filling")
        self._behind = _Behind(spool, scan, directory, thread.submit(work), kill)
        thread.shutdown(wait=False)

    def _next_number(self) -> int:
        numbers = [int(found[1]) for path in self._spools() if (found := _NUMBERED.match(path.name))]
        return max(numbers, default=0) + 1

    def _spools(self) -> list[Path]:
        """Return the packs of the stage that came in part, the oldest first."""
        single = self._journal.directory / _SPOOLS[False]
        numbered = [path for path in self._journal.directory.glob("incoming-*.part") if _NUMBERED.match(path.name)]
        return [*([single] if single.exists() else []), *sorted(numbered)]

    def _told_before(self) -> int | None:
        before, self._before = self._before, None
        return before

    def settle(self, *, tick: Callable[[], None] = _nothing) -> None:
        """Wait until nothing is worked on any more, nor checked."""
        with self._guard():
            self._settle()
            if self._checker is not None:
                self._checker.wait(tick)

    def _settle_or_raise(self) -> None:
        self._settle()
        if self._failed is not None:
            assert self._failed.error is not None
            raise self._failed.error

    def _settle(self) -> None:
        """Wait for the pack that is worked on; bring in and note what it turned out to hold."""
        behind, self._behind = self._behind, None
        if behind is None:
            return
        try:
            name, good = behind.work.result()
        except GitFailed as error:
            remove_tree(behind.directory)
            self._heads = self._listed = None
            taken = self._keep_prefix(behind.spool, self._goal().object_format, scan=None, graph=False)
            self._failed = replace(taken, error=error)
            self._before = taken.objects
            return
        except BaseException:
            remove_tree(behind.directory)
            self._heads = self._listed = None
            raise
        if name:
            self._bring_in(behind.directory)
            if behind.position is not None or behind.scan.only_blobs:
                self._check_early(name)
        remove_tree(behind.directory)
        if behind.position is not None:
            self._journal.write_position(behind.position)
        self._forget(behind.spool)
        self._before = good if behind.scan.ends else None
        self._join()

    def _check_early(self, pack: str) -> None:
        """Check a pack that leans on nothing that is missing while others come, after those that came before it."""
        if self._checker is None:
            self._checker = _Checker()
        self._ranges.add(pack)
        self._checker.submit(self._checks, pack)

    def _end_checking(self, *, stop: bool = False, tick: Callable[[], None] = _nothing) -> None:
        """Wait for the check under way, or with ``stop`` break it off; what waits behind it is left unchecked."""
        if self._checker is None:
            return
        self._checker.end(stop=stop)
        self._checker.wait(tick)
        self._checker = None

    def release(self) -> None:
        """Stop what is worked on; its pack is salvaged later."""
        with self._guard():
            self._end_checking(stop=True)
            self._stop_behind()

    def _stop_behind(self) -> None:
        behind, self._behind = self._behind, None
        if behind is None:
            return
        behind.kill()
        futures.wait([behind.work])
        remove_tree(behind.directory)
        self._heads = self._listed = None

    def interrupted(self) -> bool:
        """Tell whether a pack that broke off waits to be salvaged."""
        return bool(self._spools()) or (self._journal.directory / _SPOOLS[True]).exists()

    def salvage(self) -> Taken | None:
        """Keep the whole objects of packs that a killed process was receiving."""
        with self._guard():
            self._settle()
            return self._salvage(self._goal().object_format)

    def _object_format(self) -> ObjectFormat:
        goal = self._journal.goal() if self._journal.begun() else None
        return goal.object_format if goal is not None else read_object_format(self._layout.store)

    def _salvage(self, object_format: ObjectFormat) -> Taken | None:
        graph = self._journal.directory / _SPOOLS[True]
        taken = self._keep_prefix(graph, object_format, scan=None, graph=True) if graph.exists() else None
        for path in self._spools():
            taken = self._keep_prefix(path, object_format, scan=None, graph=False)
        return taken

    def _receive(
        self,
        git: Git,
        chunks: Iterator[bytes],
        object_format: ObjectFormat,
        *,
        scan: PackScan | None,
        graph: bool,
    ) -> int:
        """Index the pack in ``chunks`` and return how many objects it says it has."""
        first = b""
        while len(first) < salvage.HEADER_BYTES and (chunk := next(chunks, None)) is not None:
            first += chunk
        announced = int.from_bytes(first[8:12])
        if len(first) >= salvage.HEADER_BYTES and first.startswith(b"PACK") and announced == 0:
            for chunk in chunks:
                first += chunk
                if len(first) > _EMPTY_AT_MOST:
                    break
            _check_empty(first, object_format)
            return 0
        self._index(git, _watched(chain([first], chunks), scan), graph=graph)
        return announced

    def _index(self, git: Git, chunks: Iterable[bytes], *, graph: bool, note: bool = True) -> str:
        """Index a pack, durably, and note that it came; return its name."""
        said = git.feed(["index-pack", "--stdin", "--fix-thin"], chunks, timeout=_RECEIVE_SECONDS)
        name = f"pack-{said.split()[-1].decode('ascii')}"
        if note:
            self._note(name, graph=graph, partial=False)
        return name

    def _note(self, name: str, *, graph: bool, partial: bool) -> None:
        """Make a pack's name durable and note that it came; one that is all there is to fetch needs no journal."""
        sync_directory(self._destination(graph=graph)[1] / "pack")
        if partial:
            sync_directory(self._journal.directory.parent)
        if not graph and (partial or self._journal.begun()):
            self._journal.note_packs([name])
            self._join()

    def _keep_prefix(self, path: Path, object_format: ObjectFormat, *, scan: PackScan | None, graph: bool) -> Taken:
        """Index the whole objects at the beginning of a spooled pack and remove the spool.

        Damage that only git can see, such as a delta that does not fit its base, makes
        it fewer objects, found by halving.
        """
        git, directory = self._destination(graph=graph)
        found = scan or salvage.scan_file(path, object_format)
        before = whole_packs(directory / "pack")
        good, bad, kept = 0, len(found.ends) + 1, ""
        attempt = len(found.ends)
        while good < attempt < bad:
            self._space.check(found.end(attempt))
            try:
                name = self._index(git, salvage.prefix(path, found, attempt, object_format), graph=graph, note=False)
            except (GitFailed, GitOutOfMemory):
                _sweep(directory)
                bad = attempt
            except BaseException:
                _sweep(directory)  # above all on a full disk
                raise
            else:
                if kept and kept != name and kept not in before:
                    remove_packs(directory / "pack", [kept])
                good, kept = attempt, name
            attempt = (good + bad) // 2
        if kept:
            self._note(kept, graph=graph, partial=True)
        received = path.stat().st_size
        self._forget(path)
        return _taken(received, found, good)

    def _forget(self, path: Path) -> None:
        remove_file(path)
        if self._journal.begun():
            sync_directory(path.parent)

    def _destination(self, *, graph: bool) -> tuple[Git, Path]:
        """Return git where the objects go, and its object directory."""
        if graph:
            return self._graph_git, self._graph / "objects"
        return self._stage_git, self._layout.stage / "objects"

    def take_stock(self, access: GitAccess, tips: Sequence[GitOid], *, max_bytes: int) -> int:
        """Fetch ``tips`` with stock git; what is closed is named to it by refs that stand meanwhile."""
        with self._guard():
            self._settle()
            goal = self._goal()
            closed = sorted(types(self._stage_git, sorted(self._closed())))
            refs = self._layout.stage / CLOSED_REFS
            before = self._stage.packs()
            if closed:
                lines = (f"{oid} refs/mirror-sync/closed/{number:08}\n" for number, oid in enumerate(closed))
                replace_file(refs, "".join(lines).encode())
            try:
                self._stage.ensure(goal.object_format)
                size = self._stage.fetch(access, tips, max_bytes=max_bytes)
            finally:
                remove_file(refs)
            self._journal.note_packs(self._stage.packs() - before)
            return size

    # -- the graph
    def gap(self, *, wants: int, haves: int, strict: bool = False) -> Gap | None:
        """Return what is missing of the commits that the goal reaches."""
        with self._guard():
            self._settle()
            goal = self._goal()
            targets = graph.find_targets(self._graph_git, goal.tips, goal.peeled)
            if not targets.absent and graph.whole(self._graph_git, targets.commits, without=goal.boundary):
                return None
            holes, parents = self._holes(
                self._graph_git, [self._graph, self._layout.stage], targets.commits, without=goal.boundary
            )
            needed = (parents or sorted(targets.absent))[:wants]
            beside = {parent for lacked in holes.shallow.values() for parent in lacked} if not strict else set()
            wanted = [*needed, *sorted(beside.difference(needed))][:wants]
            return Gap(wanted, sorted(holes.shallow), _heads(holes, targets, goal, limit=haves), len(needed))

    def _holes(
        self, git: Git, repositories: Sequence[Path], tips: Sequence[GitOid], *, without: Sequence[GitOid]
    ) -> tuple[Holes, list[GitOid]]:
        """Return where the graph ends too early, and the parents missing on the way from ``tips``."""
        scratch = self._journal.directory
        holes = graph.find_holes(git, repositories=repositories, scratch=scratch)
        try:
            return holes, graph.missing_parents(git, tips, holes, without=without, scratch=scratch)
        except GitFailed as error:
            if error.status < 0:
                raise
        # What the store has is whole as far as refs reach; leftovers that none reaches need not be.
        holes = graph.find_holes(git, repositories=repositories, scratch=scratch, everywhere=True)
        return holes, graph.missing_parents(git, tips, holes, without=without, scratch=scratch)

    def frozen(self) -> bool:
        """Tell whether the order stands."""
        return self._journal.begun() and self._journal.position() is not None

    def freeze(self) -> None:
        """Write the order of all commits between what is closed and the goal, parents first."""
        with self._guard():
            self._settle()
            if self.frozen():
                return
            goal = self._goal()
            targets = graph.find_targets(self._graph_git, goal.tips, goal.peeled)
            without = [*goal.boundary, *sorted(self._journal.closed())]
            total = graph.write_order(self._graph_git, self._order, targets.commits, without=without)
            self._journal.write_position(Position(0, 0, total))
            self._heads = None

    # -- the ladder
    def place(self) -> tuple[int, int]:
        """Return how many commits of the order are closed, and of how many."""
        position = self._where()
        return (position.done, position.total) if position is not None else (0, 0)

    def stretch(self, commits: int) -> Stretch | None:
        """Return the next closed range of at most ``commits`` commits."""
        with self._guard():
            stretch = self._stretch(commits)
            if stretch is None and self._behind is not None:
                self._settle()
                stretch = self._stretch(commits)
            return stretch

    def _stretch(self, commits: int) -> Stretch | None:
        position = self._position()
        inside: dict[GitOid, None] = {}
        named: dict[GitOid, None] = {}
        end = position.offset
        for behind, (commit, *parents) in graph.read_order(self._order, start=end, commits=max(1, commits)):
            inside[commit] = None
            named.update(dict.fromkeys(parents))
            end = behind
        if not inside:
            return None
        wants = [oid for oid in inside if oid not in named]
        return Stretch(len(inside), wants, [oid for oid in named if oid not in inside], position.offset, end)

    def advance(self, stretch: Stretch) -> None:
        """Note that everything up to the end of ``stretch`` is here."""
        with self._guard():
            position = self._position()
            if stretch.begin != position.offset:
                return
            heads = self._ladder_heads()
            for _, (commit, *parents) in self._lines_of(stretch):
                heads.difference_update(parents)
                heads.add(commit)
            self._heads = (stretch.end, heads)
            position = Position(stretch.end, position.done + stretch.commits, position.total)
            if self._behind is not None:
                self._behind.position = position
            else:
                self._journal.write_position(position)

    def closed(self) -> frozenset[GitOid]:
        """Return what was noted as closed, and the heads of what the ladder closed."""
        with self._guard():
            return self._closed()

    def note_closed(self, tips: Sequence[GitOid]) -> None:
        """Note that everything these ``tips`` reach is here."""
        with self._guard():
            self._settle()
            journal = self._journal
            known = journal.closed()
            if not known.issuperset(tips):
                journal.write_closed(known.union(tips))
            if journal.doubted() and not journal.closed_since().issuperset(tips):
                journal.write_closed_since(journal.closed_since().union(tips))

    def _closed(self) -> frozenset[GitOid]:
        if self._journal.doubted():
            return self._journal.closed_since()
        return self._journal.closed() | self._ladder_heads()

    def _ladder_heads(self) -> set[GitOid]:
        position = self._where()
        if position is None or not position.done:
            return set()
        if self._heads is None or self._heads[0] != position.offset:
            self._heads = (position.offset, graph.heads_of_order(self._order, end=position.offset))
        return self._heads[1]

    def _lines_of(self, stretch: Stretch) -> Iterator[tuple[int, list[GitOid]]]:
        return graph.read_order(self._order, start=self._position().offset, end=stretch.end)

    # -- single objects
    def copy_commits(self, stretch: Stretch) -> None:
        """Bring the commits of a stretch from the graph into the stage."""
        with self._guard():
            self._settle()
            absent = self._absent_commits(stretch)
            if not absent:
                return
            packing = self._graph_git.stream(["pack-objects", "--stdout", "--quiet"], stdin=oid_lines(absent))
            with packing as child:
                self._index(self._stage_git, iter(lambda: child.stdout.read(salvage.PIECE), b""), graph=False)

    def _absent_commits(self, stretch: Stretch) -> list[GitOid]:
        commits = [line[0] for _, line in self._lines_of(stretch)]
        here = types(self._stage_git, commits)
        return [oid for oid in commits if oid not in here]

    def lacking(self, stretch: Stretch | None, *, limit: int) -> list[GitOid]:
        """Return objects that are not here and that ``stretch``, or the whole goal, needs."""
        with self._guard():
            if left := self._left_of_listed(stretch):
                return left[:limit]
            self._settle()
            self._asked = stretch
            found = self._lacking(stretch, limit=limit)
            self._listed = (stretch, found)
            return found

    def _left_of_listed(self, stretch: Stretch | None) -> list[GitOid]:
        """Return what is lacking still of what was told last, where what came since tells it without a walk."""
        behind = self._behind
        if behind is None or self._listed is None or self._listed[0] is not stretch:
            return []
        if behind.scan.deltas * _FEW_DELTAS > len(behind.scan.ends):
            return []
        left = [oid for oid in self._listed[1] if oid not in behind.scan.ids]
        self._listed = (stretch, left)
        return left

    def _lacking(self, stretch: Stretch | None, *, limit: int) -> list[GitOid]:
        if stretch is None:
            goal = self._goal()
            return self._search(goal, without=self._known(goal), limit=limit)
        given = self._journal.given_up()
        absent = self._absent_commits(stretch)
        if absent:
            return [oid for oid in absent if oid not in given][:limit]
        return list(islice(self._missing(stretch.wants, stretch.haves, given=given, holes=None), limit))

    def _search(self, goal: Goal, *, without: Sequence[GitOid], limit: int) -> list[GitOid]:
        """Return what the goal lacks beyond ``without``: tips, or else commits, or else any objects."""
        given = self._journal.given_up()
        targets = graph.find_targets(self._stage_git, goal.tips, {})
        absent = [oid for oid in targets.absent if oid not in given]
        if absent:
            return absent[:limit]
        tips = list(targets.kinds)
        holes: Holes | None = None
        if not graph.whole(self._stage_git, targets.commits, without=without):
            holes, parents = self._holes(self._stage_git, [self._layout.stage], targets.commits, without=without)
            wanted = [oid for oid in parents if oid not in given]
            if wanted:
                return wanted[:limit]
        return list(islice(self._missing(tips, without, given=given, holes=holes), limit))

    def _missing(
        self, tips: Iterable[GitOid], without: Iterable[GitOid], *, given: Mapping[GitOid, str], holes: Holes | None
    ) -> Iterator[GitOid]:
        """Yield objects that ``tips`` need and that are nowhere; closing it early kills git."""
        arguments = ["rev-list", "--objects", "--quiet", "--missing=print", "--stdin"]
        asked = oid_lines([*tips, *(f"^{oid}" for oid in without)])
        with (
            Pretence(holes, self._journal.directory) as pretence,
            self._stage_git.stream(arguments, stdin=asked, environment=pretence.environment) as child,
        ):
            for line in read_lines(child.stdout):
                oid = GitOid(line[1:].decode("ascii"))
                if line.startswith(b"?") and oid not in given:
                    yield oid

    def _known(self, goal: Goal) -> list[GitOid]:
        """Return behind which tips nothing needs a walk: all that is closed, unless that turned out wrong."""
        return [*goal.boundary, *(() if self._journal.doubted() else sorted(self._closed()))]

    def by_objects(self) -> bool:
        """Tell whether everything is asked for object by object."""
        return self._journal.begun() and self._journal.by_objects()

    def go_by_objects(self) -> None:
        """Note that everything is asked for object by object, without an order."""
        with self._guard():
            self._journal.note_by_objects()

    def locate(self, blob: GitOid) -> tuple[GitOid, bytes] | None:
        """Return the newest commit, of what was last asked about, that holds ``blob``, and the path."""
        with self._guard():
            self._settle()
            if self._asked is not None:
                tips, without = list(self._asked.wants), list(self._asked.haves)
            else:
                goal = self._goal()
                tips = graph.find_targets(self._stage_git, goal.tips, {}).commits
                without = self._known(goal)
            return locate(self._stage_git, blob, tips, without=without)

    def blob(self, blob: GitOid) -> DiskBlobPart:
        """Return the place for one blob that comes in pieces."""
        object_format = self._goal().object_format

        def take_in(path: Path, size: int) -> None:
            self._settle()
            self._index(self._stage_git, salvage.pack_of_blob(path, size, object_format), graph=False)

        return DiskBlobPart(
            self._journal.directory / BLOBS / blob,
            blob,
            object_format=object_format,
            space=self._space,
            guard=self._guard,
            take_in=take_in,
        )

    def give_up(self, oid: GitOid, reason: str) -> None:
        """Note that an object cannot be had for now, and why."""
        with self._guard():
            self._listed = None
            self._journal.write_given_up({**self._journal.given_up(), oid: reason})

    def given_up(self) -> Mapping[GitOid, str]:
        """Return the objects given up, with the reasons."""
        return self._journal.given_up()

    # -- inside
    @property
    def _graph(self) -> Path:
        return self._journal.directory / GRAPH

    @property
    def _order(self) -> Path:
        return self._journal.directory / ORDER

    def _ensure(self, object_format: ObjectFormat, *, graph: bool) -> None:
        """Make what is absent of the places where packs go."""
        self._stage.ensure(object_format)
        self._journal.directory.mkdir(exist_ok=True)
        if graph and not (self._graph / "HEAD").is_file():
            remove_tree(self._graph)
            make_bare(self._graph, object_format, alternates=_BORROWED)

    def _goal(self) -> Goal:
        goal = self._journal.goal() if self._journal.begun() else None
        assert goal is not None, "called before the filling was begun"
        return goal

    def _where(self) -> Position | None:
        """Return how far the ladder is, counting what is being worked on; ``None`` without an order."""
        behind = self._behind
        if behind is not None and behind.position is not None:
            return behind.position
        return self._journal.position()

    def _position(self) -> Position:
        position = self._where()
        assert position is not None, "called before the order was frozen"
        return position


def _taken(received: int, scan: PackScan, objects: int) -> Taken:
    """Return what a pack that broke off brought."""
    late = min(objects, LATE_OBJECTS)
    late_size = (scan.end(objects) - scan.end(objects - late)) / late if late else 0.0
    return Taken(received, objects, scan.announced, complete=False, cut_size=scan.cut_size, late_size=late_size)


def _essence(goal: Goal) -> tuple[object, ...]:
    return goal.object_format, frozenset(goal.tips), frozenset(goal.boundary), dict(goal.peeled)


def _watched(chunks: Iterable[bytes], scan: PackScan | None) -> Iterator[bytes]:
    """Yield ``chunks``, looking at each first when the pack is to end where its commits do."""
    for chunk in chunks:
        if scan is not None:
            scan.feed(chunk)
            if scan.stopped:
                raise _Trees
        yield chunk


def _check_empty(data: bytes, object_format: ObjectFormat) -> None:
    """Raise :class:`GitFailed` unless ``data`` is a whole pack of no objects."""
    digest = salvage.checksum(object_format)
    digest.update(data[: salvage.HEADER_BYTES])
    if data[salvage.HEADER_BYTES :] != digest.digest():
        raise GitFailed("an empty pack is not whole", argv=("index-pack", "--stdin"), status=128)


def _sweep(objects: Path) -> None:
    """Remove what a git child that failed left in an object directory."""
    for path in unfinished_pack_files(objects):
        remove_file(path)


def _heads(holes: Holes, targets: Targets, goal: Goal, *, limit: int) -> list[GitOid]:
    """Return what to name as here: our tips first, then other heads and, in half the room at least, the boundary."""
    tips = set(targets.commits)
    own = sorted(holes.heads, key=lambda oid: (oid not in tips, oid))
    boundary = [oid for oid in dict.fromkeys(goal.boundary) if oid not in set(own)]
    own = own[: max(limit - len(boundary), (limit + 1) // 2)]
    return [*own, *boundary[: limit - len(own)]]
