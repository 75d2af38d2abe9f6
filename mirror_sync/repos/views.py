"""Views: what clients see, immutable, and the symlink that says which one they see."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.domain.names import RefName, printable, ref_bytes, ref_from_bytes, refname_fault
from mirror_sync.domain.refs import NO_HEAD, ObjectFormat, RefSnapshot
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.ports import View
from mirror_sync.repos.files import draft, make_directories, remove_tree, sync_directory
from mirror_sync.repos.layout import Layout, view_number
from mirror_sync.repos.packed_refs import PackedRefs, parse_packed_refs
from mirror_sync.repos.store import repository_config

GRACE_SECONDS = 600.0
"""A superseded view stays this long, so that requests which began with it end with it."""

SERVING_CONFIG = (
    "[extensions]",
    "\tpreciousObjects = true",
    "[uploadpack]",
    "\tallowAnySHA1InWant = true",
    "\tallowFilter = true",
    "\tkeepAlive = 5",
    "[uploadpackfilter]",
    "\tallow = false",
    '[uploadpackfilter "blob:none"]',
    "\tallow = true",
    '[uploadpackfilter "blob:limit"]',
    "\tallow = true",
    '[uploadpackfilter "tree"]',
    "\tallow = true",
    "\tmaxDepth = 0",
    "[transfer]",
    "\thideRefs = refs/mirror-sync",
    "\tadvertiseSID = false",
    "[http]",
    "\treceivepack = false",
    "\tgetanyfile = false",
    "\tuploadarchive = false",
    "[receive]",
    "\tdenyNonFastForwards = true",
    "\tdenyDeletes = true",
    "\tfsckObjects = true",
    "[pack]",
    "\tthreads = 2",
    "\twindowMemory = 256m",
)
"""What every view allows its clients (``docs/adr/0001-views-behind-one-symlink.md``)."""

_NEW_PREFIX = ".new-"
_HEAD_PREFIX = b"ref: "


class Views:
    """The views of one mirror."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._last: tuple[int, bytes, PackedRefs] | None = None

    def numbers(self) -> list[int]:
        """Return the numbers of the views on disk, ascending."""
        try:
            names = [entry.name for entry in os.scandir(self._layout.views)]
        except FileNotFoundError:
            return []
        return sorted(number for number in map(view_number, names) if number is not None)

    def unfinished(self) -> list[Path]:
        """Return what an interrupted publish left: views never flipped to, and views half built."""
        current = self._layout.current_number()
        try:
            entries = [Path(entry.path) for entry in os.scandir(self._layout.views)]
        except FileNotFoundError:
            return []
        left: list[Path] = []
        for path in entries:
            number = view_number(path.name)
            if path.name.startswith(_NEW_PREFIX) or (number is not None and number > current):
                left.append(path)
        return sorted(left)

    def published(self) -> View:
        """Return the published view; raises :class:`RepositoryDamaged` when it is not exactly what was written."""
        number = self._layout.current_number()
        if number == 0:
            return View(0, RefSnapshot({}, NO_HEAD))
        packed, head = self.check(number)
        refs = parse_packed_refs(packed)
        target = ref_from_bytes(head[len(_HEAD_PREFIX) : -1])
        self._last = (number, packed, refs)
        return View(number, RefSnapshot(refs.tips, target))

    def last_read(self, number: int) -> tuple[bytes, PackedRefs] | None:
        """Return the file and refs of the view last read or made here when that is view ``number``: views never change."""
        if self._last is None or self._last[0] != number:
            return None
        return self._last[1], self._last[2]

    def read(self, number: int) -> RefSnapshot:
        """Return the refs and HEAD of one view, checked against its checksum."""
        refs, head = self.read_refs(number)
        return RefSnapshot(refs.tips, head)

    def read_refs(self, number: int) -> tuple[PackedRefs, RefName]:
        """Return the refs of one view with their peeled objects, and HEAD's target, checked alike."""
        packed, head = self.check(number)
        return parse_packed_refs(packed), ref_from_bytes(head[len(_HEAD_PREFIX) : -1])

    def check(self, number: int) -> tuple[bytes, bytes]:
        """Return the bytes of ``packed-refs`` and HEAD of one view once its checksum agrees."""
        directory = self._layout.view(number)
        try:
            packed, head, config, checksum = (
                (directory / name).read_bytes() for name in ("packed-refs", "HEAD", "config", "checksum")
            )
        except FileNotFoundError as error:
            raise RepositoryDamaged(
                f"view {number} is not whole", why=f"{Path(str(error.filename)).name} is missing"
            ) from error
        if checksum != _checksum(packed, head, config):
            raise RepositoryDamaged(
                f"view {number} is not what was written",
                why="the checksum over its refs, HEAD and config differs",
                remedy="restore the mirror from a backup, or remove it and add it again",
            )
        return packed, head

    def draft(
        self, number: int, *, packed: bytes, refs: PackedRefs, head: RefName, object_format: ObjectFormat
    ) -> list[Path]:
        """Write a view under a passing name and return what is to be synced before it is adopted."""
        if not head.startswith("refs/heads/") or refname_fault(head) is not None:
            raise RepositoryDamaged(f"{printable(head)!r} cannot be HEAD's target")
        views = self._layout.views
        make_directories(views)
        new = views / f"{_NEW_PREFIX}{number}"
        remove_tree(new)
        remove_tree(self._layout.view(number))
        new.mkdir(0o755)
        (new / "refs").mkdir(0o755)
        (new / "objects").symlink_to("../../store/objects")
        target = _HEAD_PREFIX + ref_bytes(head) + b"\n"
        config = repository_config(object_format, *SERVING_CONFIG)
        files = {"packed-refs": packed, "HEAD": target, "config": config, "checksum": _checksum(packed, target, config)}
        self._last = (number, packed, refs)
        return [*(draft(new / name, data) for name, data in files.items()), new]

    def adopt(self, number: int) -> Path:
        """Give a drafted view its name and return the directory, which is to be synced; nobody is led to it yet."""
        self._layout.views.joinpath(f"{_NEW_PREFIX}{number}").rename(self._layout.view(number))
        return self._layout.views

    def flip(self, number: int) -> None:
        """Lead clients to this view: one rename of the symlink ``current``, durable when this returns."""
        current = self._layout.current
        temporary = current.with_name("tmp_current")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"views/{number}")
        temporary.replace(current)
        sync_directory(current.parent)

    def drop(self, number: int) -> None:
        """Delete one view that nobody is led to."""
        self._last = None
        remove_tree(self._layout.view(number))

    def drop_superseded(self, now: float, *, grace: float = GRACE_SECONDS) -> list[int]:
        """Delete views superseded for longer than ``grace`` seconds that no request holds; return their numbers.

        A view's time ends when its successor was made, whatever its own age.
        """
        current = self._layout.current_number()
        older = [number for number in self.numbers() if number <= current]
        dropped: list[int] = []
        for number, successor in itertools.pairwise(older):
            if now - self._layout.view(successor).stat().st_mtime <= grace:
                break
            with _unheld(self._layout.view(number)) as free:
                if free:
                    self.drop(number)
                    dropped.append(number)
        return dropped


@contextlib.contextmanager
def held_view(directory: Path) -> Iterator[int]:
    """Hold a view so that it is not deleted, and yield the descriptor, which children may inherit.

    Raises :class:`FileNotFoundError` when the view is gone.
    """
    descriptor = os.open(directory / "config", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _unheld(directory: Path) -> Iterator[bool]:
    try:
        descriptor = os.open(directory / "config", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _checksum(packed: bytes, head: bytes, config: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in (packed, head, config):
        digest.update(str(len(part)).encode() + b"\n")
        digest.update(part)
    return f"sha256 {digest.hexdigest()}\n".encode()
