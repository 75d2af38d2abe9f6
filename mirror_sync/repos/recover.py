"""Recovery: put right whatever a crash left, without changing what clients see."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mirror_sync.errors import RepositoryDamaged
from mirror_sync.ports import Recovery
from mirror_sync.repos.files import remove_file, remove_tree, sync_directory
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.stage import Stage, unfinished_pack_files
from mirror_sync.repos.store import Store
from mirror_sync.repos.views import Views

_GIT_LEFTOVERS = ("gc.pid", "FETCH_HEAD", "ORIG_HEAD")


def recover(*, layout: Layout, store: Store, stage: Stage) -> Recovery:
    """Do what :meth:`mirror_sync.ports.GitRepository.recover` promises; called with the lock held.

    With the lock held nobody else works on the mirror and no git child of anybody lives,
    so every lock file and temporary file is a dead one's.  Raises
    :class:`RepositoryDamaged` when ``current`` leads nowhere or to a view that is not
    what was written.
    """
    removed = [*_root_leftovers(layout), *stage.sweep()]
    removed += _store_leftovers(layout)
    if store.exists():
        removed += [f"store/{name}" for name in store.release_keeps()]
    _check_current(layout)
    for path in Views(layout).unfinished():
        if remove_tree(path):
            removed.append(f"views/{path.name}")
    return Recovery(tuple(removed))


def _root_leftovers(layout: Layout) -> Iterator[str]:
    for path in sorted(layout.root.glob("tmp_*")):
        gone = remove_tree(path) if path.is_dir() and not path.is_symlink() else remove_file(path)
        if gone:
            yield path.name


def _store_leftovers(layout: Layout) -> list[str]:
    if not layout.store_objects.is_dir():
        return []
    files = [
        *layout.store.glob("*.lock"),
        *layout.store.glob("tmp_*"),
        *(layout.store / name for name in _GIT_LEFTOVERS),
    ]
    removed = [f"store/{path.name}" for path in files if remove_file(path)]
    removed += [f"store/{path.name}" for path in unfinished_pack_files(layout.store_objects) if remove_file(path)]
    removed += _loose_refs(layout.store / "refs")
    return removed


def _loose_refs(refs: Path) -> list[str]:
    """Remove stray loose refs and lock files below ``refs`` and name each with the id it held.

    The roots are one file that we write; a loose ref beside it would win over it.
    """
    removed: list[str] = []
    for directory, _, files in os.walk(refs, topdown=False):
        for name in sorted(files):
            path = Path(directory) / name
            held = path.read_bytes()[:64].decode("ascii", "replace").strip() if path.is_file() else ""
            if remove_file(path):
                removed.append(f"store/{path.relative_to(refs.parent)} {held}".rstrip())
        if files:
            sync_directory(Path(directory))
        if Path(directory) != refs:
            Path(directory).rmdir()
    return removed


def _check_current(layout: Layout) -> None:
    number = layout.current_number()
    if number == 0:
        return
    if not layout.store_objects.is_dir():
        raise RepositoryDamaged("the store of a published mirror is gone", why=str(layout.store))
    Views(layout).check(number)
