"""The store: a plain bare repository with all objects of a mirror; its refs are the roots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.files import (
    draft,
    make_directories,
    remove_file,
    remove_tree,
    replace_file,
    sync_directory,
    sync_together,
)
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.packed_refs import HEADER, PackedRefs, parse_packed_refs, split_own

KEEP_TEXT = b"mirror_sync: promoted, not published yet\n"
"""By this content recovery knows a keep file of ours from one that an operator made."""

UNBORN_HEAD = b"ref: refs/heads/main\n"

_PACK_ENDINGS = (".pack", ".rev", ".idx")


def repository_config(object_format: ObjectFormat, *extra: str) -> bytes:
    """Return the constant ``config`` of a bare repository of this object format, ``extra`` sections behind it."""
    sha256 = object_format is ObjectFormat.SHA256
    version = 1 if sha256 or any(line.startswith("[extensions]") for line in extra) else 0
    lines = [
        "[core]",
        f"\trepositoryformatversion = {version}",
        "\tbare = true",
        "\tfilemode = true",
        "[gc]",
        "\tauto = 0",
        "[maintenance]",
        "\tauto = false",
        *extra,
    ]
    if sha256:
        lines += ["[extensions]", "\tobjectFormat = sha256"]
    return "\n".join([*lines, ""]).encode()


def make_bare(directory: Path, object_format: ObjectFormat, *, alternates: str = "") -> None:
    """Make an empty bare repository at ``directory`` in one step; ``alternates`` is the object store it borrows."""
    make_directories(directory.parent)
    new = directory.with_name(f"tmp_{directory.name}")
    remove_tree(new)
    for path in (new, new / "objects", new / "objects" / "pack", new / "objects" / "info", new / "refs"):
        path.mkdir(0o755)
    files = [draft(new / "HEAD", UNBORN_HEAD), draft(new / "config", repository_config(object_format))]
    if alternates:
        files.append(draft(new / "objects" / "info" / "alternates", f"{alternates}\n".encode()))
    sync_together([*files, new / "objects" / "info", new / "objects", new])
    new.rename(directory)
    sync_directory(directory.parent)


def read_object_format(directory: Path) -> ObjectFormat:
    """Return the object format that the repository at ``directory`` was made with."""
    try:
        config = (directory / "config").read_bytes()
    except FileNotFoundError as error:
        raise RepositoryDamaged(f"{directory} has no config") from error
    return ObjectFormat.SHA256 if b"objectFormat = sha256" in config else ObjectFormat.SHA1


def whole_packs(directory: Path) -> set[str]:
    """Return the names (``pack-...``, no ending) of packs that have both pack and index."""
    try:
        names = {entry.name for entry in os.scandir(directory)}
    except FileNotFoundError:
        return set()
    return {
        name[:-4]
        for name in names
        if name.startswith("pack-") and name.endswith(".idx") and f"{name[:-4]}.pack" in names
    }


class Store:
    """One mirror's store on disk."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._roots = layout.store / "packed-refs"

    def exists(self) -> bool:
        """Tell whether the store is there."""
        return (self._layout.store / "HEAD").is_file()

    def create(self, object_format: ObjectFormat) -> None:
        """Make an empty store; does nothing when it is there."""
        if not self.exists():
            make_bare(self._layout.store, object_format)

    def roots(self, view: tuple[bytes, PackedRefs] | None = None) -> PackedRefs:
        """Return the refs that protect objects: published, kept, and those of an unfinished publish.

        ``view`` is the published view's file with what it says, if it was read already:
        then only what differs is read.
        """
        try:
            data = self._roots.read_bytes()
        except FileNotFoundError:
            return PackedRefs()
        if view is not None:
            packed, refs = view
            own = split_own(data, packed)
            if own == b"":
                return refs
            if own is not None:
                extra = parse_packed_refs(HEADER.encode() + own)
                return PackedRefs({**refs.tips, **extra.tips}, {**refs.peeled, **extra.peeled})
        return parse_packed_refs(data)

    def write_roots(self, packed: bytes) -> None:
        """Replace the roots, durably and in one step."""
        replace_file(self._roots, packed)

    def draft_roots(self, packed: bytes, *, kind: str) -> Path:
        """Write the file of new roots beside the old and return it: to be synced, then adopted."""
        return draft(self._roots.with_name(f"tmp_{kind}-roots"), packed)

    def adopt_roots(self, drafted: Path) -> Path:
        """Replace the roots by a drafted file in one step and return the directory, which is to be synced."""
        drafted.replace(self._roots)
        return self._roots.parent

    def packs(self) -> set[str]:
        """Return the names of the store's whole packs."""
        return whole_packs(self._layout.packs)

    def link_pack(self, source: Path) -> int:
        """Bring a whole pack (``source`` without ending) in by hard links and return its bytes; 0 when it is here.

        The keep file comes first and the index last, so that git never sees half a pack
        and no repack drops it before it is published.
        """
        packs = self._layout.packs
        name = source.name
        if name in self.packs():
            return 0
        origins = [source.with_name(name + ending) for ending in _PACK_ENDINGS]
        origins = [origin for origin in origins if origin.suffix != ".rev" or origin.exists()]
        sync_together([draft(packs / f"{name}.keep", KEEP_TEXT), *origins])
        size = 0
        for origin in origins:
            target = packs / origin.name
            remove_file(target)
            target.hardlink_to(origin)
            size += origin.stat().st_size
        sync_directory(packs)
        return size

    def keeps(self) -> Iterator[Path]:
        """Yield the keep files that a publish of ours left or is using."""
        for path in sorted(self._layout.packs.glob("*.keep")):
            if path.read_bytes() in (KEEP_TEXT, b""):
                yield path

    def release_keeps(self) -> list[str]:
        """Remove our keep files, once the roots protect what is in the packs; return their names."""
        removed = self.drop_keeps()
        if removed:
            sync_directory(self._layout.packs)
        return removed

    def drop_keeps(self) -> list[str]:
        """Remove our keep files as :meth:`release_keeps` does; the directory is still to be synced."""
        return [path.name for path in self.keeps() if remove_file(path)]

    def size_bytes(self) -> int:
        """Return the bytes of the store's packs and what belongs to them."""
        try:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(self._layout.packs))
        except FileNotFoundError:
            return 0
