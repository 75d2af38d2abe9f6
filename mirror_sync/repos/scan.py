"""Finding every pointer in history, fast: what is new, or everything."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.pointers import MAX_POINTER_BYTES, POINTER_HINT, PointerBlob, parse_pointer
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.git import PIPE, Git
from mirror_sync.repos.objects import read_contents
from mirror_sync.repos.queries import oid_lines, types

_WALK: Final = (
    "rev-list",
    "--objects",
    "--no-object-names",
    "--filter=object:type=blob",
    f"--filter=blob:limit={MAX_POINTER_BYTES + 1}",
    "--filter-provided-objects",
    "--stdin",
)
_LIST_ALL: Final = (
    "cat-file",
    "--batch-all-objects",
    "--unordered",
    "--buffer",
    "--batch-check=%(objectsize) %(objecttype) %(objectname)",
)
_CANDIDATE: Final = re.compile(
    rb"\n(?:11[4-9]|1[2-9][0-9]|[2-9][0-9]{2}|10[01][0-9]|102[0-3]) blob ([0-9a-f]{40,64})(?=\n)"
)
"""A blob of 114 to 1,023 bytes, as ``_LIST_ALL`` prints it.

The size and a plain newline come first because that is what a search is quick at.
"""

_PIECE: Final = 1024 * 1024


def scan_pointers(git: Git, tips: Sequence[GitOid], *, scanned: Sequence[GitOid]) -> Iterator[PointerBlob]:
    """Yield every pointer blob that ``tips`` reach and ``scanned`` do not, each once.

    ``git`` is the repository that sees all of them (the stage borrows the store's
    objects).  Of ``scanned``, ids that are no longer here are passed over.  With
    nothing to exclude and no bitmap at hand, everything in the repository is read,
    reachable or not, because that is faster than walking.  Pointers of size 0 are left
    out: nobody ever asks a server for them.

    Raises :class:`RepositoryDamaged` when a tip or anything it reaches is not here.
    """
    if not tips:
        return
    here = types(git, {*tips, *scanned})
    absent = [tip for tip in tips if tip not in here]
    if absent:
        raise RepositoryDamaged(f"{absent[0]}, to be scanned for LFS pointers, is not in the repository")
    excluded = [oid for oid in scanned if oid in here]
    if excluded or has_bitmap(git):
        blobs = _walk(git, tips, excluded, bitmap=not excluded)
    else:
        blobs = _read_all(git)
    for oid, content in blobs:
        pointer = parse_pointer(content)
        if pointer is not None and pointer.size > 0:
            yield PointerBlob(oid, pointer)


def has_bitmap(git: Git) -> bool:
    """Tell whether a pack here, or one borrowed, has a reachability bitmap."""
    return any(any(objects.glob("pack/*.bitmap")) for objects in _object_directories(git.directory / "objects"))


def _object_directories(objects: Path) -> Iterator[Path]:
    yield objects
    try:
        lines = (objects / "info" / "alternates").read_text("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        if line and not line.startswith("#"):
            yield objects / line


def _walk(
    git: Git, tips: Sequence[GitOid], excluded: Sequence[GitOid], *, bitmap: bool
) -> Iterator[tuple[GitOid, bytes]]:
    """Walk from the tips; the two children are joined by a pipe of their own."""
    asked = oid_lines([*tips, *(f"^{oid}" for oid in excluded)])
    arguments = [_WALK[0], "--use-bitmap-index", *_WALK[1:]] if bitmap else list(_WALK)
    with (
        git.stream(arguments, stdin=asked) as walk,
        git.stream(["cat-file", "--batch", "--buffer"], stdin=walk.stdout) as contents,
    ):
        yield from read_contents(contents.stdout, containing=POINTER_HINT)


def _read_all(git: Git) -> Iterator[tuple[GitOid, bytes]]:
    """Read every blob of a pointer's size that is here; listing and reading go on side by side."""
    with (
        git.stream(list(_LIST_ALL)) as listing,
        git.stream(["cat-file", "--batch", "--buffer"], stdin=PIPE) as contents,
    ):
        feeder = threading.Thread(
            target=_feed_candidates, args=(listing.stdout, contents.stdin), name="pointer-scan", daemon=True
        )
        feeder.start()
        try:
            yield from read_contents(contents.stdout, containing=POINTER_HINT)
        except BaseException:
            contents.kill()
            listing.kill()
            raise
        finally:
            feeder.join()


def _feed_candidates(listing: IO[bytes], asked: IO[bytes]) -> None:
    """Ask for the blobs of a pointer's size in ``listing``; a reader that died is found out by its status."""
    with contextlib.suppress(BrokenPipeError), asked:
        rest = b"\n"
        while data := listing.read(_PIECE):
            whole, newline, tail = (rest + data).rpartition(b"\n")
            found = _CANDIDATE.findall(whole + newline)
            rest = newline + tail
            if found:
                asked.write(b"\n".join(found) + b"\n")
                asked.flush()
