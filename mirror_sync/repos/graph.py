"""The commit graph of a fetch that is not whole: which commits are missing, and the order of all once none is."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import GitFailed
from mirror_sync.repos.child import read_lines
from mirror_sync.repos.files import remove_file, sync_directory, sync_file
from mirror_sync.repos.git import Git
from mirror_sync.repos.queries import oid_lines, types
from mirror_sync.repos.store import whole_packs

_PIECE = 256 * 1024
_PARENT = re.compile(rb"parent ([0-9a-f]{40}(?:[0-9a-f]{24})?)\n")
_TARGET = re.compile(rb"object ([0-9a-f]{40}(?:[0-9a-f]{24})?)\n")
_HEAD_BYTES = 4 << 20
"""A commit's parents stand at its beginning; a message may be as large as its sender likes."""

_DEEPEST_TAG = 100
"""A chain of tags on tags longer than this is nobody's history."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What tips come to: the object behind each tag, and what of it is not here."""

    kinds: Mapping[GitOid, str]
    """Type of each object at the end of a tip that is here."""
    absent: Sequence[GitOid]

    @property
    def commits(self) -> list[GitOid]:
        """The commits among them."""
        return [oid for oid, kind in self.kinds.items() if kind == "commit"]


@dataclass(frozen=True, slots=True)
class Holes:
    """Where a graph ends too early: commits whose parents are not here, and the heads of what is here."""

    shallow: Mapping[GitOid, Sequence[GitOid]] = field(default_factory=dict)
    """Each commit that lacks parents, with the parents it lacks."""
    heads: Sequence[GitOid] = ()


def find_targets(git: Git, tips: Iterable[GitOid], hints: Mapping[GitOid, GitOid]) -> Targets:
    """Follow tags to what they stand for; for a tag in ``hints`` the hint is taken and the tag not looked at."""
    kinds: dict[GitOid, str] = {}
    absent: dict[GitOid, None] = {}
    asked = sorted({hints.get(tip, tip) for tip in tips})
    for _ in range(_DEEPEST_TAG):
        found = types(git, asked)
        absent.update((oid, None) for oid in asked if oid not in found)
        kinds.update((oid, kind) for oid, kind in found.items() if kind != "tag")
        tags = [oid for oid, kind in found.items() if kind == "tag"]
        if not tags:
            break
        targets = {target for _, body in _bodies(git, oid_lines(tags)) for target in _TARGET.findall(body)[:1]}
        asked = sorted(oid for target in targets if (oid := GitOid(target.decode())) not in kinds)
    return Targets(kinds, list(absent))


def whole(git: Git, tips: Iterable[GitOid], *, without: Iterable[GitOid]) -> bool:
    """Tell whether every commit that ``tips`` reach and ``without`` do not is here."""
    try:
        git.run(["rev-list", "--quiet", "--stdin"], stdin=_asked(tips, without))
    except GitFailed as error:
        if error.status < 0:
            raise
        return False
    return True


def find_holes(git: Git, *, repositories: Sequence[Path], scratch: Path, everywhere: bool = False) -> Holes:
    """Look at every commit in the packs of ``repositories`` for parents that are nowhere.

    ``git`` sees all there is, the store too; what the store has counts as whole unless
    ``everywhere``.  Listings go through files in ``scratch``, and the memory is some
    eighty bytes a commit.
    """
    listing = scratch / "tmp_commits"
    try:
        known = _commits(git, repositories, listing, everywhere=everywhere)
        inner = bytearray(len(known))
        lacking: dict[bytes, list[bytes]] = {}
        sound = bytearray(len(known))
        with listing.open("rb") as stdin:
            for oid, body in _bodies(git, stdin):
                if not body.startswith(b"tree "):
                    continue  # damage on the way made it; nothing reaches it
                sound[bisect_left(known, oid)] = 1
                for parent in _parents(body):
                    at = bisect_left(known, parent)
                    if at < len(known) and known[at] == parent:
                        inner[at] = 1
                    else:
                        lacking.setdefault(oid, []).append(parent)
    finally:
        remove_file(listing)
    outside = sorted({parent for parents in lacking.values() for parent in parents})
    elsewhere = types(git, [GitOid(oid.hex()) for oid in outside]).keys()
    shallow = {
        GitOid(oid.hex()): absent
        for oid, parents in lacking.items()
        if (absent := [name for parent in parents if (name := GitOid(parent.hex())) not in elsewhere])
    }
    heads = [GitOid(oid.hex()) for at, oid in enumerate(known) if sound[at] and not inner[at]]
    return Holes(shallow, heads)


def missing_parents(
    git: Git, tips: Sequence[GitOid], holes: Holes, *, without: Iterable[GitOid], scratch: Path
) -> list[GitOid]:
    """Return the parents that are missing on the way from ``tips``; raises :class:`GitFailed` when others are too."""
    wanted: set[GitOid] = set()
    if not tips:
        return []
    with (
        Pretence(holes, scratch) as pretence,
        git.stream(["rev-list", "--stdin"], stdin=_asked(tips, without), environment=pretence.environment) as child,
    ):
        for line in read_lines(child.stdout):
            wanted.update(holes.shallow.get(GitOid(line.decode("ascii")), ()))
    return sorted(wanted)


class Pretence:
    """Lets git walk a graph with holes as if it were a shallow clone; a context manager around one file."""

    def __init__(self, holes: Holes | None, scratch: Path) -> None:
        self._path = scratch / "tmp_shallow"
        self._holes = holes
        self.environment = {} if holes is None else {"GIT_SHALLOW_FILE": str(self._path)}

    def __enter__(self) -> Self:
        if self._holes is not None:
            self._path.write_bytes(oid_lines(sorted(self._holes.shallow)))
        return self

    def __exit__(self, *_: object) -> None:
        remove_file(self._path)


def write_order(git: Git, path: Path, tips: Iterable[GitOid], *, without: Iterable[GitOid]) -> int:
    """Write every commit that ``tips`` reach and ``without`` do not with its parents, parents first; return how many.

    Durable when this returns.
    """
    temporary = path.with_name(f"tmp_{path.name}")
    commits = 0
    arguments = ["rev-list", "--topo-order", "--reverse", "--parents", "--stdin"]
    with git.stream(arguments, stdin=_asked(tips, without)) as child, temporary.open("wb") as file:
        while data := child.stdout.read(_PIECE):
            commits += data.count(b"\n")
            file.write(data)
    sync_file(temporary)
    temporary.replace(path)
    sync_directory(path.parent)
    return commits


def read_order(path: Path, *, start: int, commits: int = 0, end: int = 0) -> Iterator[tuple[int, list[GitOid]]]:
    """Yield a commit with its parents, and the offset behind it: so many from ``start`` on, or up to ``end``."""
    at = start
    with path.open("rb") as stream:
        stream.seek(start)
        while (commits > 0 or at < end) and (line := stream.readline()):
            at += len(line)
            commits -= 1
            yield at, [GitOid(oid) for oid in line.decode("ascii").split()]


def heads_of_order(path: Path, *, end: int) -> set[GitOid]:
    """Return the commits up to the offset ``end`` that are no other's parent."""
    heads: set[GitOid] = set()
    for _, (commit, *parents) in read_order(path, start=0, end=end):
        heads.difference_update(parents)
        heads.add(commit)
    return heads


def _asked(tips: Iterable[GitOid], without: Iterable[GitOid]) -> bytes:
    return oid_lines([*tips, *(f"^{oid}" for oid in without)])


def _commits(git: Git, repositories: Sequence[Path], listing: Path, *, everywhere: bool) -> list[bytes]:
    """Return all commits in these packs, sorted, and leave their names in ``listing``."""
    known: list[bytes] = []
    objects = listing.with_name("tmp_objects")
    every = ["--batch-all-objects"] if everywhere else []
    try:
        with objects.open("wb") as file:
            if not everywhere:
                for repository in repositories:
                    _list_packs(git, repository / "objects" / "pack", file.fileno())
        with (
            objects.open("rb") as stdin,
            git.stream(
                ["cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer", *every], stdin=stdin
            ) as child,
        ):
            known.extend(
                bytes.fromhex(line[:-7].decode("ascii"))
                for line in read_lines(child.stdout)
                if line.endswith(b" commit")
            )
    finally:
        remove_file(objects)
    known.sort()
    last = b""
    kept = 0
    for oid in known:  # in place: a copy would double the memory
        if oid != last:
            known[kept] = last = oid
            kept += 1
    del known[kept:]
    with listing.open("wb") as file:
        for oid in known:
            file.write(oid.hex().encode() + b"\n")
    return known


def _list_packs(git: Git, packs: Path, descriptor: int) -> None:
    for name in sorted(whole_packs(packs)):
        index = packs / f"{name}.idx"
        width = "sha256" if len(name) > len("pack-") + 40 else "sha1"
        with index.open("rb") as stdin, git.stream(["show-index", f"--object-format={width}"], stdin=stdin) as child:
            rest = b""
            while data := child.stdout.read(_PIECE):
                lines = (rest + data).split(b"\n")
                rest = lines.pop()
                os.write(descriptor, b"".join(line.split(b" ", 2)[1] + b"\n" for line in lines))


def _bodies(git: Git, stdin: object) -> Iterator[tuple[bytes, bytes]]:
    """Yield id and content of each object asked for, one after another; of what is larger than any history's, the beginning."""
    with git.stream(["cat-file", "--batch", "--buffer"], stdin=stdin) as child:  # type: ignore[arg-type]
        while header := child.stdout.readline():
            fields = header.split()
            if len(fields) != 3:
                continue
            left = int(fields[2])
            body = child.stdout.read(min(left, _HEAD_BYTES))
            left -= len(body)
            yield bytes.fromhex(fields[0].decode("ascii")), body
            left += 1
            while left and (data := child.stdout.read(min(left, _PIECE))):
                left -= len(data)


def _parents(body: bytes) -> list[bytes]:
    """Return the raw ids of a commit's parents, which stand in a row behind its tree."""
    parents: list[bytes] = []
    at = body.find(b"\n") + 1
    while match := _PARENT.match(body, at):
        parents.append(bytes.fromhex(match[1].decode("ascii")))
        at = match.end()
    return parents
