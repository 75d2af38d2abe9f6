"""Files of published views, one at a time: revisions, directories, blobs, checksums.

The store holds more than its views show (kept tips, what upstream took back), so nothing
is looked up here by an id that somebody gave unless published refs reach it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from mirror_sync.domain.attributes import ATTRIBUTES_NAME, Attributes, Work
from mirror_sync.domain.names import GitOid, MirrorName, RefName, is_git_oid, ref_bytes, ref_from_bytes, refname_fault
from mirror_sync.domain.pointers import MAX_POINTER_BYTES, MIN_POINTER_BYTES, Pointer, parse_pointer
from mirror_sync.domain.trees import EntryKind, FileEntry, TreeItem, parse_tree, sum_line
from mirror_sync.errors import GitFailed, Overloaded, RepositoryDamaged, UsageError
from mirror_sync.ports import Revision
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import layout_of
from mirror_sync.repos.memory import child_memory_bytes
from mirror_sync.repos.objects import ObjectReader
from mirror_sync.repos.ref_pages import ref_page
from mirror_sync.repos.turns import Turn, Turns
from mirror_sync.repos.views import held_view

READERS: Final = 8
"""Git children that look things up or send a blob at the same time."""

SUMMERS: Final = 2
"""Checksum lists computed at the same time, each for another client: each reads a whole commit."""

MOST_SUMS: Final = 2_000_000
"""Files of a list.  A few trees that name each other can stand for more files than there is time."""

WAIT_SECONDS: Final = 60.0
"""How long a question waits for its turn; whoever asks for a file asks again."""

LIST_WAIT_SECONDS: Final = 600.0
LOOKUP_SECONDS: Final = 60.0
REACH_SECONDS: Final = 20.0
"""How long it may take to find out whether refs reach a commit; without a commit-graph the whole history is read."""

STREAM_SECONDS: Final = 14 * 24 * 3600.0
"""A large blob over a poor link may take days; the web ends a stream whose client takes nothing."""

MIN_ID_DIGITS: Final = 7
MAX_TREE_BYTES: Final = 64 * 1024 * 1024
MAX_COMMIT_BYTES: Final = 1024 * 1024
MAX_ATTRIBUTES_BYTES: Final = 1024 * 1024
MAX_CANDIDATES: Final = 64
PIECE_BYTES: Final = 256 * 1024

_REMEMBERED: Final = 4096
_REMEMBERED_PATH_BYTES: Final = 512
_LISTS_BYTES: Final = 16 * 1024 * 1024
_LIST_BYTES: Final = 4 * 1024 * 1024
_STEP: Final = 256
_ATTEMPTS: Final = 5
_SHORT_ID: Final = re.compile(rf"[0-9a-f]{{{MIN_ID_DIGITS},63}}\Z")
_COMMITTER: Final = re.compile(rb"^committer [^\n]* (-?[0-9]{1,18}) [-+][0-9]{4}$", re.MULTILINE)
_MARK_ALL: Final = b"* filter=lfs\n"
_CONFIG: Final = {"core.bigFileThreshold": "1m"}
"""Blobs that are no deltas are streamed by git from this size on instead of being held in memory."""

_Context = tuple[tuple[bytes, GitOid], ...]
"""The attributes files on the way to a directory: directory and blob."""


class GitFiles:
    """The published views below ``git_dir``; implements :class:`mirror_sync.ports.PublishedFiles`.

    ``readers`` git children work at once, others wait in line up to ``wait_seconds``.
    ``child_memory`` bounds, in bytes, what each may allocate; ``None`` means half of the
    machine's memory, 0 no bound.
    """

    def __init__(
        self,
        git_dir: Path,
        *,
        readers: int = READERS,
        wait_seconds: float = WAIT_SECONDS,
        child_memory: int | None = None,
    ) -> None:
        self._git_dir = git_dir
        self.memory_bytes = child_memory_bytes(child_memory)
        self.turns = Turns(readers, wait_seconds=wait_seconds)
        self.list_turns = Turns(SUMMERS, wait_seconds=LIST_WAIT_SECONDS, per_client=1)
        self.known = _Remembered()
        self.lists = _Lists()

    def open(self, name: MirrorName) -> GitFileView | None:
        """Return the published view of a mirror, resolved once; ``None`` when it was never published."""
        layout = layout_of(self._git_dir, name)
        for attempt in range(1, _ATTEMPTS + 1):
            directory = layout.current_view()
            if directory is None:
                return None
            with contextlib.ExitStack() as stack:
                try:
                    descriptor = stack.enter_context(held_view(directory))
                except FileNotFoundError as error:
                    # superseded and dropped between the two looks, or the mirror was just removed
                    if attempt == _ATTEMPTS:
                        raise RepositoryDamaged("the published view is not there", why=directory.name) from error
                    continue
                return GitFileView(self, name, directory, descriptor, stack.pop_all())
        return None


class GitFileView:
    """One view, held; implements :class:`mirror_sync.ports.FileView`."""

    def __init__(
        self, files: GitFiles, name: MirrorName, directory: Path, descriptor: int, held: contextlib.ExitStack
    ) -> None:
        self._files = files
        self._name = name
        self._directory = directory
        self._held = held
        self._git = Git(directory, descriptors=lambda: (descriptor,), config=_CONFIG, memory_bytes=files.memory_bytes)
        made = os.fstat(descriptor)
        self._token = (name, directory.name, made.st_ino, made.st_mtime_ns)
        """Names this view alone, also after the mirror was removed and added again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    # ------------------------------------------------------------ revisions

    def resolve(self, revision: str) -> Revision | None:
        """Return the commit that a revision names; see the port."""
        key = (self._token, revision)
        found = self._files.known.get(key)
        if found is None:
            found = self._resolve(revision)
            if found is not None and len(revision) <= _REMEMBERED_PATH_BYTES:
                self._files.known.put(key, found)
        return cast("Revision | None", found)

    def _resolve(self, revision: str) -> Revision | None:
        if is_git_oid(revision):
            commit = self._published_commit([GitOid(revision)])
            return Revision(commit, None) if commit else None
        for ref in self._refs_meant(revision):
            page = ref_page(self._packed, b"", 1, prefix=ref_bytes(ref))
            if page and page[0][0] == ref:
                with self._reader() as reader:
                    (peeled,) = reader.info([f"{page[0][1]}^{{commit}}"])
                if peeled is not None:
                    return Revision(peeled[0], ref)
        if _SHORT_ID.match(revision):
            commit = self._published_commit(self._begun_by(revision))
            return Revision(commit, None) if commit else None
        return None

    def _refs_meant(self, revision: str) -> Iterator[RefName]:
        if revision == "HEAD":
            yield self.head()
        names = [revision] if revision.startswith("refs/") else [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        for name in names:
            if refname_fault(name) is None:
                yield RefName(name)

    def head(self) -> RefName:
        """Return HEAD's target."""
        raw = (self._directory / "HEAD").read_bytes()
        if not raw.startswith(b"ref: "):
            raise RepositoryDamaged("the view's HEAD is damaged")
        return ref_from_bytes(raw[len(b"ref: ") :].rstrip(b"\n"))

    def refs(self, *, prefix: str, limit: int) -> list[tuple[RefName, GitOid]]:
        """Return refs with their commits; see the port."""
        page = ref_page(self._packed, b"", limit, prefix=ref_bytes(prefix))
        if not page:
            return []
        with self._reader() as reader:
            peeled = list(reader.info(f"{oid}^{{commit}}" for _, oid in page))
        return [(ref, found[0]) for (ref, _), found in zip(page, peeled, strict=True) if found is not None]

    def committed_at(self, commit: GitOid) -> float:
        """Return when a commit was made; see the port."""
        with self._reader() as reader:
            ((_, _, content),) = reader.read([commit], limit=MAX_COMMIT_BYTES)
        found = _COMMITTER.search((content or b"").partition(b"\n\n")[0])
        return float(found[1]) if found else 0.0

    @property
    def _packed(self) -> Path:
        return self._directory / "packed-refs"

    def _begun_by(self, digits: str) -> list[GitOid]:
        """Return the ids that begin with these digits, of whatever is in the store."""
        with self._turn():
            out = self._git.run(["rev-parse", f"--disambiguate={digits}"], timeout=LOOKUP_SECONDS)
        found = [GitOid(line) for line in out.decode("ascii").split()]
        return found if len(found) <= MAX_CANDIDATES else []

    def _published_commit(self, oids: Sequence[GitOid]) -> GitOid | None:
        """Return the one commit among ``oids`` that published refs reach; ``None`` for none or several."""
        if not oids:
            return None
        with self._reader() as reader:
            commits = [
                found[0]
                for oid, found in zip(oids, list(reader.info(oids)), strict=True)
                if found is not None and (found[1] == "commit" or (found[1] == "tag" and self._is_tip(oid)))
            ]
            tips = {found[0] for found in list(reader.info(f"{oid}^{{commit}}" for oid in commits)) if found}
        reached = [oid for oid in sorted(tips) if self._reached(oid)]
        return reached[0] if len(reached) == 1 else None

    def _is_tip(self, oid: GitOid) -> bool:
        """Tell whether a published ref names this object, or a tag of it."""
        wanted = oid.encode("ascii")
        with self._packed.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines:
            return lines.find(b"\n" + wanted) != -1 or lines.find(b"\n^" + wanted) != -1

    def _reached(self, commit: GitOid) -> bool:
        key = (self._token, "reached", commit)
        known = self._files.known.get(key)
        if known is None:
            known = self._is_tip(commit) or self._walk_to(commit)
            self._files.known.put(key, known)
        return bool(known)

    def _walk_to(self, commit: GitOid) -> bool:
        """Tell whether refs reach a commit that none names.

        ``rev-list`` looks at what is newer than the commit; where clocks were wrong it may
        miss, so a no is asked again of what goes by ancestry alone.
        """
        try:
            with self._turn():
                beyond = self._git.run(["rev-list", "--max-count=1", commit, "--not", "--all"], timeout=REACH_SECONDS)
                if not beyond:
                    return True
                containing = ["for-each-ref", "--count=1", "--format=1", "--contains", commit]
                return bool(self._git.run(containing, timeout=REACH_SECONDS))
        except GitFailed as error:
            if error.status != -signal.SIGKILL:
                raise
            raise Overloaded(
                "It takes too long to find out whether published refs reach that commit.",
                retry_after=30.0,
                why=f"no answer in {REACH_SECONDS:.0f} s",
                remedy="name a branch or a tag",
            ) from error

    # ------------------------------------------------------------ trees

    def entry(self, commit: GitOid, path: bytes) -> FileEntry | None:
        """Return what stands under a path; see the port."""
        key = (self._name, commit, path)
        found = self._files.known.get(key)
        if found is None:
            with self._reader() as reader:
                place = _Place(reader)
                item = place.find(commit, path)
                if item is None:
                    return None
                (found,) = place.described([(path, item, place.context)])
            if len(path) <= _REMEMBERED_PATH_BYTES:
                self._files.known.put(key, found)
        return cast("FileEntry", found)

    def listing(
        self, commit: GitOid, path: bytes, *, recursive: bool, after: bytes = b"", limit: int
    ) -> list[FileEntry] | None:
        """Return one page of a directory; see the port."""
        with self._reader() as reader:
            place = _Place(reader)
            item = place.find(commit, path)
            if item is None or item.kind is not EntryKind.DIRECTORY:
                return None
            return place.described(list(islice(place.walk(path, item.oid, recursive=recursive, after=after), limit)))

    # ------------------------------------------------------------ contents

    def blob(self, oid: GitOid, *, start: int, end: int) -> Iterator[bytes]:
        """Return part of a blob; see the port."""
        turn = _taken(self._files.turns)
        with contextlib.ExitStack() as stack:
            stack.callback(turn.end)
            stack.push(self._held.pop_all())
            return _Owned(_blob(self._git, oid, start, end, turn), stack.pop_all())

    def checksums(
        self, commit: GitOid, *, resolves: Callable[[Sequence[Pointer]], Collection[Pointer]], client: str = ""
    ) -> Iterator[bytes]:
        """Return the lines of ``sha256sum``; see the port."""
        known = self._files.lists.get((self._name, commit))
        if known is not None:
            return _Owned(iter([known] if known else []), self._held.pop_all())
        turn = _taken(self._files.list_turns, client=client)
        with contextlib.ExitStack() as stack:
            stack.callback(turn.end)
            stack.push(self._held.pop_all())
            return _Owned(self._sums(commit, resolves, turn), stack.pop_all())

    def _sums(
        self, commit: GitOid, resolves: Callable[[Sequence[Pointer]], Collection[Pointer]], turn: Turn
    ) -> Iterator[bytes]:
        kept: list[bytes] | None = []
        size = count = 0
        with ObjectReader(self._git, timeout=STREAM_SECONDS) as reader:
            place = _Place(reader)
            root = place.find(commit, b"")
            assert root is not None
            walk = place.walk(b"", root.oid, recursive=True)
            while step := list(islice(walk, _STEP)):
                files = [entry for entry in place.described(step) if entry.kind is EntryKind.FILE]
                doubtful = [entry.pointer for entry in files if entry.pointer and not entry.marked]
                resolved = resolves(doubtful) if doubtful else ()
                if doubtful:
                    kept = None  # what is here may change, so the list may
                count += len(step)
                if count > MOST_SUMS:
                    raise UsageError(f"{commit} has more than {MOST_SUMS} files, too many for a list of checksums")
                piece = _lines(reader, files, resolved)
                size += len(piece)
                if kept is not None:
                    kept = [*kept, piece] if size <= _LIST_BYTES else None
                turn.handed_at = time.monotonic()
                yield piece
                turn.handed_at = 0.0
        if kept is not None:
            self._files.lists.put((self._name, commit), b"".join(kept))

    # ------------------------------------------------------------ children

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        turn = _taken(self._files.turns)
        try:
            yield
        finally:
            turn.end()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[ObjectReader]:
        try:
            with self._turn(), ObjectReader(self._git, timeout=LOOKUP_SECONDS) as reader:
                yield reader
        except EOFError as error:
            raise GitFailed(f"git cat-file ended early, or did not end in {LOOKUP_SECONDS:.0f} s") from error


@dataclass(slots=True)
class _Place:
    """Where in one commit's tree we are, and how we read on."""

    reader: ObjectReader
    context: _Context = ()

    def find(self, commit: GitOid, path: bytes) -> TreeItem | None:
        """Return the item at ``path``, the root for the empty one, and remember the attributes files on the way."""
        (root,) = self.reader.info([f"{commit}^{{tree}}"])
        if root is None:
            raise RepositoryDamaged(f"the tree of {commit} is not in the repository")
        item = TreeItem(b"", EntryKind.DIRECTORY, root[0])
        above = b""
        self.context = ()
        for name in path.split(b"/") if path else ():
            if item.kind is not EntryKind.DIRECTORY:
                return None
            items = self._items(above, item.oid)
            self.context = _grown(self.context, above, items)
            found = next((other for other in items if other.name == name), None)
            if found is None:
                return None
            item = found
            above = _join(above, name)
        return item

    def walk(
        self, top: bytes, oid: GitOid, *, recursive: bool, after: bytes = b""
    ) -> Iterator[tuple[bytes, TreeItem, _Context]]:
        """Yield what lies below a directory in the order of sort keys, beginning behind ``after``."""
        stack = [self._below(top, oid, self.context)]
        while stack:
            directory, items, context = stack[-1]
            item = next(items, None)
            if item is None:
                stack.pop()
                continue
            path = _join(directory, item.name)
            key = _join(directory, item.sort_key)
            enters = recursive and item.kind is EntryKind.DIRECTORY
            if key > after:
                yield path, item, context
            elif not after.startswith(key):
                continue
            if enters:
                stack.append(self._below(path, item.oid, context))

    def _below(self, directory: bytes, oid: GitOid, above: _Context) -> tuple[bytes, Iterator[TreeItem], _Context]:
        items = self._items(directory, oid)
        return directory, iter(items), _grown(above, directory, items)

    def _items(self, directory: bytes, oid: GitOid) -> list[TreeItem]:
        ((_, kind, content),) = self.reader.read([oid], limit=MAX_TREE_BYTES)
        if kind != "tree":
            raise RepositoryDamaged(f"{oid} is no tree", why=kind)
        if content is None:
            shown = directory.decode("utf-8", "backslashreplace")
            raise UsageError(f"the directory {shown!r} is too large to be looked into", remedy="clone the repository")
        try:
            return list(parse_tree(content, oid_bytes=len(oid) // 2))
        except ValueError as error:
            raise RepositoryDamaged(f"tree {oid} cannot be read", why=str(error)) from error

    def described(self, found: Sequence[tuple[bytes, TreeItem, _Context]]) -> list[FileEntry]:
        """Return the entries with their sizes, and with pointers where blobs are such."""
        blobs = [item.oid for _, item, _ in found if item.kind in (EntryKind.FILE, EntryKind.LINK)]
        sizes: dict[GitOid, int] = {}
        for oid, info in zip(blobs, list(self.reader.info(blobs)), strict=True):
            if info is None:
                raise RepositoryDamaged(f"blob {oid} is not in the repository")
            sizes[oid] = info[2]
        files = {item.oid for _, item, _ in found if item.kind is EntryKind.FILE}
        small = [oid for oid in files if MIN_POINTER_BYTES <= sizes[oid] <= MAX_POINTER_BYTES]
        read = list(self.reader.read(small, limit=MAX_POINTER_BYTES))
        pointers = {oid: pointer for oid, _, content in read if content and (pointer := parse_pointer(content))}
        work = Work()
        attributes: dict[_Context, Attributes] = {}
        entries: list[FileEntry] = []
        for path, item, context in found:
            pointer = pointers.get(item.oid) if item.kind is EntryKind.FILE else None
            marked = False
            if pointer is not None:
                if context not in attributes:
                    attributes[context] = self._attributes(context, work)
                marked = attributes[context].marks_anywhere(path)
            size = sizes[item.oid] if item.oid in sizes and item.kind in (EntryKind.FILE, EntryKind.LINK) else 0
            entries.append(FileEntry(path, item.kind, item.oid, size, pointer, marked))
        return entries

    def _attributes(self, context: _Context, work: Work) -> Attributes:
        read = self.reader.read([oid for _, oid in context], limit=MAX_ATTRIBUTES_BYTES)
        contents = [_MARK_ALL if content is None else content for _, _, content in read]
        return Attributes({directory: text for (directory, _), text in zip(context, contents, strict=True)}, work=work)


def _taken(turns: Turns, *, client: str = "") -> Turn:
    try:
        return turns.take(client=client)
    except Overloaded as error:
        raise Overloaded(
            "Too many files are being read here; ask again in a moment.", retry_after=error.retry_after
        ) from error


def _grown(context: _Context, directory: bytes, items: Sequence[TreeItem]) -> _Context:
    for item in items:
        if item.name == ATTRIBUTES_NAME and item.kind in (EntryKind.FILE, EntryKind.LINK):
            return (*context, (directory, item.oid))
    return context


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _lines(reader: ObjectReader, files: Sequence[FileEntry], resolved: Collection[Pointer]) -> bytes:
    """Return the lines of some files; what stands for an LFS object has that object's."""
    objects = {
        entry.path: entry.pointer.oid
        for entry in files
        if entry.pointer and (entry.marked or entry.pointer in resolved)
    }
    sums = dict(reader.sha256({entry.oid for entry in files if entry.path not in objects}))
    return b"".join(sum_line(entry.path, objects.get(entry.path) or sums[entry.oid]) for entry in files)


def _blob(git: Git, oid: GitOid, start: int, end: int, turn: Turn) -> Iterator[bytes]:
    """Yield part of a blob; git gives it from the beginning, so what lies before ``start`` is read and dropped."""
    if end <= start:
        return
    with git.stream(["cat-file", "blob", oid], timeout=STREAM_SECONDS) as child:
        descriptor = child.stdout.fileno()
        # fewer turns between git and us; a full quota of pipes only means smaller steps
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIECE_BYTES)
        skip, left = start, end - start
        while left:
            data = os.read(descriptor, PIECE_BYTES)
            if not data:
                raise EOFError
            if skip >= len(data):
                skip -= len(data)
                continue
            piece = data[skip : skip + left]
            skip = 0
            left -= len(piece)
            turn.handed_at = time.monotonic()
            yield piece
            turn.handed_at = 0.0
        child.kill()  # what lies behind the end is not wanted


class _Owned(Iterator[bytes]):
    """Pieces together with what they need; closing gives that back, also when nothing was read."""

    def __init__(self, pieces: Iterator[bytes], needs: contextlib.ExitStack) -> None:
        self._pieces = pieces
        self._needs = needs

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._needs.close()

    def __del__(self) -> None:
        if getattr(self, "_needs", None) is not None:
            self.close()


class _Remembered:
    """The last answers that cannot change; safe from all threads."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> object | None:
        with self._lock:
            if key not in self._answers:
                return None
            self._answers.move_to_end(key)
            return self._answers[key]

    def put(self, key: Hashable, answer: object) -> None:
        with self._lock:
            self._answers[key] = answer
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)


class _Lists:
    """The last checksum lists, as long as they fit."""

    def __init__(self) -> None:
        self._lists: OrderedDict[tuple[MirrorName, GitOid], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[MirrorName, GitOid]) -> bytes | None:
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
            return self._lists.get(key)

    def put(self, key: tuple[MirrorName, GitOid], lines: bytes) -> None:
        with self._lock:
            self._bytes += len(lines) - len(self._lists.pop(key, b""))
            self._lists[key] = lines
            while self._bytes > _LISTS_BYTES:
                self._bytes -= len(self._lists.popitem(last=False)[1])
