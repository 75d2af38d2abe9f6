"""What a checkout of each tip needs from LFS: the whole tree of the tip, joined with the known pointers.

Trees are read once however many tips share them, and a tree without any known pointer
below it is never entered again; so a thousand tags of one history cost little more
than the trees that differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mirror_sync.domain.attributes import ATTRIBUTES_NAME, Attributes, Work
from mirror_sync.domain.names import GitOid
from mirror_sync.domain.pointers import Pointer, TipNeed
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.git import Git
from mirror_sync.repos.objects import ObjectReader
from mirror_sync.repos.queries import oid_lines

MAX_TREE_BYTES: Final = 256 * 1024 * 1024
MAX_ATTRIBUTES_BYTES: Final = 8 * 1024 * 1024
"""Of a larger attributes file every path below counts as marked: holding a ref too many is the safe side."""

MAX_PATH_BYTES: Final = 4095
"""A longer path cannot be checked out."""

MAX_DIRECTORIES: Final = 200_000
"""Directories with pointers, counted by path, after which a tip counts as needing all below it, unasked."""

REMEMBERED_ENTRIES: Final = 2_000_000
"""Entries of trees kept in memory for the next tip."""

_ENTRIES: Final = {
    20: re.compile(rb"([0-7]+) ([^\0]+)\0([\0-\xff]{20})"),
    32: re.compile(rb"([0-7]+) ([^\0]+)\0([\0-\xff]{32})"),
}
_KIND: Final = 0o170000
_DIRECTORY: Final = 0o040000
_FILE: Final = 0o100000
_SYMLINK: Final = 0o120000
_MARK_ALL: Final = b"* filter=lfs\n"


def every_path(path: str) -> bool:  # noqa: ARG001 - the signature of a selection
    """Select whatever there is."""
    return True


_Context = tuple[tuple[bytes, bytes], ...]
"""The attributes files above a directory, its own included: directory and blob id."""


@dataclass(slots=True)
class _Tree:
    """What matters of one tree: known pointers, subtrees that lead to some, and the attributes file."""

    files: list[tuple[bytes, bytes]] = field(default_factory=list)
    trees: list[tuple[bytes, bytes]] = field(default_factory=list)
    attributes: bytes | None = None

    def entries(self) -> int:
        return len(self.files) + len(self.trees) + 1


def tip_needs(
    git: Git,
    tips: Sequence[GitOid],
    known: Mapping[GitOid, Pointer],
    *,
    selects: Callable[[str], bool] = every_path,
) -> dict[GitOid, list[TipNeed]]:
    """Return the LFS objects that a checkout of each tip needs, one path for each; tips needing none are left out.

    A path counts when it is a regular file, its blob is in ``known``, and the tip's own
    attributes say ``filter=lfs``, whether or not letter case counts where it is checked out,
    and ``selects`` takes it.  Tips that are no commits or tags of commits (or of
    trees) need nothing.  Raises :class:`RepositoryDamaged` when a tree is not here.
    """
    blobs = {bytes.fromhex(blob): pointer for blob, pointer in known.items() if pointer.size > 0}
    if not blobs or not tips:
        return {}
    roots = _root_trees(git, tips)
    needs: dict[bytes, list[TipNeed]] = {}
    with ObjectReader(git) as reader:
        forest = _Forest(reader, blobs, selects)
        for root in dict.fromkeys(roots.values()):
            needs[root] = forest.needs(root)
    return {tip: needs[root] for tip, root in roots.items() if needs[root]}


def _root_trees(git: Git, tips: Sequence[GitOid]) -> dict[GitOid, bytes]:
    """Return the tree each tip is checked out as; tips standing for a blob have none."""
    asked = list(dict.fromkeys(tips))
    answer = git.run(
        ["cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer"],
        stdin=oid_lines(f"{tip}^{{}}" for tip in asked),
    )
    peeled: dict[GitOid, str] = {}
    for tip, line in zip(asked, answer.decode("ascii", "replace").splitlines(), strict=True):
        oid, _, kind = line.partition(" ")
        if kind in {"commit", "tree"}:
            peeled[tip] = oid
        elif kind != "blob":
            raise RepositoryDamaged(f"tip {tip} is not in the repository", why=line)
    answer = git.run(
        ["cat-file", "--batch-check=%(objectname)", "--buffer"],
        stdin=oid_lines(f"{oid}^{{tree}}" for oid in peeled.values()),
    )
    trees = answer.decode("ascii", "replace").splitlines()
    for tip, tree in zip(peeled, trees, strict=True):
        if " " in tree:
            raise RepositoryDamaged(f"the tree of tip {tip} is not in the repository", why=tree)
    return {tip: bytes.fromhex(tree) for tip, tree in zip(peeled, trees, strict=True)}


class _Forest:
    """The trees of all tips, each read once while there is room to remember it."""

    def __init__(self, reader: ObjectReader, blobs: Mapping[bytes, Pointer], selects: Callable[[str], bool]) -> None:
        self._reader = reader
        self._selects = selects
        self._blobs = blobs
        self._barren: set[bytes] = set()
        """Trees with no known pointer anywhere below."""
        self._fertile: dict[bytes, _Tree] = {}
        self._remembered = 0
        self._attributes: dict[_Context, Attributes] = {}
        self._work = Work()
        self._decided: dict[tuple[bytes, bytes, _Context], tuple[TipNeed, ...]] = {}

    def needs(self, root: bytes) -> list[TipNeed]:
        """Return what the tree ``root`` needs, one path for each pointer."""
        self._make_room()
        self._explore(root)
        if root in self._barren:
            return []
        found: dict[Pointer, TipNeed] = {}
        pending: list[tuple[bytes, bytes, _Context]] = [(b"", root, ())]
        visited = 0
        while pending:
            directory, oid, above = pending.pop()
            visited += 1
            if visited > MAX_DIRECTORIES:
                self._add_everything(root, found)
                break
            tree = self._fertile[oid]
            context = above if tree.attributes is None else (*above, (directory, tree.attributes))
            if tree.files:
                for need in self._decide(directory, oid, context):
                    found.setdefault(need.pointer, need)
            for name, subtree in reversed(tree.trees):
                path = _join(directory, name)
                if len(path) < MAX_PATH_BYTES:
                    pending.append((path, subtree, context))
        return list(found.values())

    def _make_room(self) -> None:
        if self._remembered > REMEMBERED_ENTRIES:
            self._fertile.clear()
            self._barren.clear()
            self._decided.clear()
            self._attributes.clear()
            self._remembered = 0

    def _explore(self, root: bytes) -> None:
        """Read every tree below ``root`` that is not known yet, level by level, and tell barren from fertile."""
        fresh: dict[bytes, _Tree] = {}
        level = [root] if self._is_new(root) else []
        while level:
            following: dict[bytes, None] = {}
            for oid, tree in self._read_trees(level):
                fresh[oid] = tree
                following.update(
                    (subtree, None) for _, subtree in tree.trees if subtree not in fresh and self._is_new(subtree)
                )
            level = [oid for oid in following if oid not in fresh]
        self._sort_out(fresh)

    def _is_new(self, oid: bytes) -> bool:
        return oid not in self._fertile and oid not in self._barren

    def _sort_out(self, fresh: dict[bytes, _Tree]) -> None:
        """Move ``fresh`` trees to the fertile or the barren ones; whatever leads to a pointer is fertile."""
        above: dict[bytes, list[bytes]] = {}
        pending: list[bytes] = []
        for oid, tree in fresh.items():
            leads = bool(tree.files)
            for _, subtree in tree.trees:
                above.setdefault(subtree, []).append(oid)
                leads = leads or subtree in self._fertile
            if leads:
                pending.append(oid)
        fertile = set(pending)
        while pending:
            for oid in above.get(pending.pop(), ()):
                if oid not in fertile:
                    fertile.add(oid)
                    pending.append(oid)
        for oid, tree in fresh.items():
            if oid in fertile:
                tree.trees = [entry for entry in tree.trees if entry[1] in fertile or entry[1] in self._fertile]
                self._remembered += tree.entries()
            else:
                self._barren.add(oid)
                self._remembered += 1
        self._fertile.update((oid, fresh[oid]) for oid in fertile)

    def _read_trees(self, oids: Sequence[bytes]) -> Iterator[tuple[bytes, _Tree]]:
        asked = (GitOid(oid.hex()) for oid in oids)
        for oid, kind, content in self._reader.read(asked, limit=MAX_TREE_BYTES):
            if kind != "tree" or content is None:
                raise RepositoryDamaged(f"{oid} is no tree that can be read", why=kind)
            yield bytes.fromhex(oid), self._parse(content, len(oid) // 2)

    def _parse(self, content: bytes, width: int) -> _Tree:
        tree = _Tree()
        blobs = self._blobs
        for mode, name, oid in _ENTRIES[width].findall(content):
            kind = int(mode, 8) & _KIND
            if kind == _DIRECTORY:
                tree.trees.append((name, oid))
            elif kind == _FILE and oid in blobs:
                tree.files.append((name, oid))
            if kind in (_FILE, _SYMLINK) and name == ATTRIBUTES_NAME:
                tree.attributes = oid  # a checkout reads the index, where a symlink's target is taken for the content
        return tree

    def _decide(self, directory: bytes, oid: bytes, context: _Context) -> tuple[TipNeed, ...]:
        """Return what the files directly in one directory need; the same directory under the same attributes once."""
        key = (directory, oid, context)
        decided = self._decided.get(key)
        if decided is None:
            paths = {_join(directory, name): blob for name, blob in self._fertile[oid].files}
            attributes = self._attributes_of(context)
            decided = tuple(
                TipNeed(self._blobs[blob], _text(path))
                for path, blob in paths.items()
                if attributes.marks_anywhere(path) and self._selects(_text(path))
            )
            self._decided[key] = decided
            self._remembered += len(decided) + 1
        return decided

    def _attributes_of(self, context: _Context) -> Attributes:
        attributes = self._attributes.get(context)
        if attributes is None:
            asked = (GitOid(oid.hex()) for _, oid in context)
            contents = [
                _MARK_ALL if content is None else content
                for _, _, content in self._reader.read(asked, limit=MAX_ATTRIBUTES_BYTES)
            ]
            files = {directory: content for (directory, _), content in zip(context, contents, strict=True)}
            attributes = self._attributes[context] = Attributes(files, work=self._work)
            self._remembered += sum(len(content) for content in contents) // 32
        return attributes

    def _add_everything(self, root: bytes, found: dict[Pointer, TipNeed]) -> None:
        """Add every pointer below ``root`` without asking for attributes or a selection: a tree made to be walked for ever."""
        seen = {root}
        pending = [(b"", root)]
        while pending:
            directory, oid = pending.pop()
            tree = self._fertile[oid]
            for name, blob in tree.files:
                pointer = self._blobs[blob]
                if pointer not in found:
                    found[pointer] = TipNeed(pointer, _text(_join(directory, name)))
            for name, subtree in tree.trees:
                if subtree not in seen:
                    seen.add(subtree)
                    pending.append((_join(directory, name), subtree))


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
