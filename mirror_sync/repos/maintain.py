"""Maintenance: keep the store in few well-packed pieces, which is what makes clones cheap."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import Interrupted
from mirror_sync.repos.files import remove_file, sync_directory, sync_file
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.packed_refs import OLD_PREFIX, RefLines
from mirror_sync.repos.repack import repack
from mirror_sync.repos.stage import Stage, unfinished_pack_files
from mirror_sync.repos.store import Store
from mirror_sync.repos.views import Views

PACKS_WORTH_JOINING = 3

_CONFIG: Mapping[str, str] = {
    "repack.writeBitmaps": "true",
    "pack.threads": "2",
    "pack.windowMemory": "256m",
    "pack.deltaCacheSize": "128m",
    "core.deltaBaseCacheLimit": "96m",
}


def maintain(
    *,
    layout: Layout,
    store: Store,
    stage: Stage,
    git: Git,
    stage_git: Git,
    object_format: ObjectFormat,
    full: bool,
    now: float,
    stop: threading.Event | None,
) -> None:
    """Repack the store, write bitmap and commit-graph; ``full`` also drops what nothing protects.

    Clones go on meanwhile: git keeps the packs it has open and looks again for those
    that are gone.  What views still on disk name stays too, since a request may have
    begun with one of them.  While the stage holds something, nothing is dropped: it
    borrows the store's objects.  When ``stop`` is set the child is killed and the work
    is left for another time: git keeps the old packs until the new one is whole.
    """
    Views(layout).drop_superseded(now)
    packs = store.packs()
    if not packs:
        return
    whole = full or not any((layout.packs / f"{name}.bitmap").exists() for name in packs)
    try:
        if whole:
            _protect_views(layout, store=store)
            borrowed = [] if stage.is_empty() else ["--keep-unreachable"]
            options = ["-a", "-d", "-b", "-q", "-n", *borrowed]
            repack(options, layout=layout, object_format=object_format, git=git, config=_CONFIG, stop=stop)
            if borrowed and not layout.fill.is_dir():  # a filling knows its packs by name
                # What the store has by now need not lie in the stage as well.
                stage_git.run(
                    ["repack", "-a", "-d", "-l", "-k", "-q", "-n"],
                    config={**_CONFIG, "repack.writeBitmaps": "false"},
                    stop=stop,
                )
        elif len(packs) >= PACKS_WORTH_JOINING:
            geometric = ["--geometric=2", "-d", "-q", "-n", "--write-midx", "--write-bitmap-index"]
            repack(geometric, layout=layout, object_format=object_format, git=git, config=_CONFIG, stop=stop)
        split = "--split=replace" if whole else "--split"
        git.run(["commit-graph", "write", "--reachable", "--no-progress", split], config=_CONFIG, stop=stop)
        _sync_graphs(layout.store_objects / "info")
    except Interrupted:
        for path in unfinished_pack_files(layout.store_objects):
            remove_file(path)


def _sync_graphs(info: Path) -> None:
    """Make the commit-graph durable, which git leaves to us in part; without it all is slower and nothing wrong."""
    graphs = info / "commit-graphs"
    chain = graphs / "commit-graph-chain"
    if chain.is_file():
        sync_file(chain)
        sync_directory(graphs)
    sync_directory(info)


def _protect_views(layout: Layout, *, store: Store) -> None:
    """Add the tips of every view still on disk to the roots; the next publish narrows them again."""
    roots = store.roots()
    views = Views(layout)
    current = layout.current_number()
    published = roots.published()
    known = roots.oids()
    peeled = dict(roots.peeled)
    old: dict[RefName, GitOid] = {}
    for number in views.numbers():
        if number < current:
            refs, _ = views.read_refs(number)
            peeled.update(refs.peeled)
            old.update((RefName(OLD_PREFIX + oid), oid) for oid in refs.oids() - known)
    if old:
        own = {name: oid for name, oid in roots.tips.items() if name not in published}
        store.write_roots(RefLines(published, peeled).packed({**own, **old}))
