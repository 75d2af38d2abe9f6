"""Repack: make a store's packs anew beside it and bring the result in durably.

Git deletes the packs it replaced before the names of the new ones are durable
(``core.fsync`` knows no directories), so a power cut could take both.  Here git works on
a linked copy, and what it deleted there is deleted in the store last.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.repos.files import make_directories, remove_file, remove_tree, sync_directory, sync_file, write_new
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.store import make_bare

COPY = "tmp_repack"
"""Beside the store; recovery removes it as it does everything called so."""

_MIDX = "multi-pack-index"


def repack(
    options: Sequence[str],
    *,
    layout: Layout,
    object_format: ObjectFormat,
    git: Git,
    config: Mapping[str, str],
    stop: threading.Event | None,
) -> None:
    """Run ``git repack`` with these options on the store; at every instant all its objects are there and durable.

    Raises :class:`Interrupted` when ``stop`` is set, with the store as it was.
    """
    copy = layout.root / COPY
    remove_tree(copy)
    try:
        make_bare(copy, object_format)
        with contextlib.suppress(FileNotFoundError):
            write_new(copy / "packed-refs", (layout.store / "packed-refs").read_bytes())
        for name in _files(layout.store_objects):
            target = copy / "objects" / name
            target.parent.mkdir(exist_ok=True)
            target.hardlink_to(layout.store_objects / name)
        git.run(["repack", *options], config=config, environment={"GIT_DIR": str(copy)}, stop=stop)
        _bring(copy / "objects", layout.store_objects)
    finally:
        remove_tree(copy)


def _files(objects: Path) -> Iterator[str]:
    """Yield packs, what belongs to them, and loose objects; the commit-graph is made in place."""
    for directory in sorted(path for path in objects.iterdir() if path.is_dir() and path.name != "info"):
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(("tmp_", ".tmp-")):
                yield f"{directory.name}/{entry.name}"


def _bring(made: Path, store: Path) -> None:
    """Make the store hold exactly the files of ``made``: new ones first and durable, then the others go."""
    before, after = set(_files(store)), set(_files(made))
    for name in sorted(after, key=_last_of_all):
        source, target = made / name, store / name
        if name in before and (not _is_index(name) or source.samefile(target)):
            continue  # a pack's name tells what is in it
        sync_file(source)
        make_directories(target.parent)
        temporary = target.with_name(f"tmp_{target.name}")
        remove_file(temporary)
        temporary.hardlink_to(source)
        temporary.replace(target)
    for directory in {(store / name).parent for name in after}:
        sync_directory(directory)
    # A reader that knows only the old packs looks again when one is gone.
    for name in sorted(before - after, key=_last_of_all, reverse=True):
        remove_file(store / name)
    for directory in {(store / name).parent for name in before - after}:
        sync_directory(directory)


def _is_index(name: str) -> bool:
    return Path(name).name == _MIDX


def _last_of_all(name: str) -> tuple[int, str]:
    """Order files so that whatever makes others known comes after them."""
    return (2 if _is_index(name) else 1 if name.endswith(".idx") else 0), name
