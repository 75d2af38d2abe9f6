"""Promote: bring verified objects from the stage into the store."""

from __future__ import annotations

from collections.abc import Sequence

from mirror_sync.domain.names import GitOid
from mirror_sync.repos.files import remove_tree
from mirror_sync.repos.fsck import relaxed_option
from mirror_sync.repos.git import Git
from mirror_sync.repos.inspect import Inspector
from mirror_sync.repos.journal import unfinished_packs
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.queries import oid_lines
from mirror_sync.repos.stage import PROMOTE, Stage
from mirror_sync.repos.store import Store, whole_packs


def promote(
    tips: Sequence[GitOid], *, layout: Layout, stage: Stage, store: Store, git: Git, inspector: Inspector
) -> int:
    """Do what :meth:`mirror_sync.ports.GitRepository.promote` promises.

    Packs that inspection found good as a whole are linked as they are, except those of
    an unfinished filling, which need not hold all that they lean on.  Of the others only what ``tips`` reach is packed anew and checked strictly by itself, so that
    nothing bad comes along.
    """
    staged = stage.packs()
    if not staged:
        return 0
    linkable, relaxed = inspector.linkable()
    linkable -= unfinished_packs(layout)
    size = 0
    for name in sorted(staged & linkable):
        size += store.link_pack(layout.stage_packs / name)
    if staged <= store.packs() or not tips:
        return size
    return size + _repack(tips, layout=layout, store=store, git=git, relaxed=relaxed, roots=inspector.roots())


def _repack(
    tips: Sequence[GitOid], *, layout: Layout, store: Store, git: Git, relaxed: frozenset[str], roots: frozenset[GitOid]
) -> int:
    """Pack what ``tips`` reach beyond the roots and the store does not have, check it, link it."""
    directory = layout.stage / PROMOTE
    remove_tree(directory)
    directory.mkdir()
    asked = oid_lines([*tips, *(f"^{root}" for root in sorted(roots))])
    git.run(
        ["pack-objects", "--revs", "--local", "--delta-base-offset", "--non-empty", "--quiet", str(directory / "pack")],
        stdin=asked,
        config={"pack.threads": "2"},
    )
    size = 0
    for name in sorted(whole_packs(directory)):
        git.run(
            ["index-pack", "--verify", relaxed_option(relaxed), f"{directory / name}.pack"],
            config={"pack.threads": "2"},
        )
        size += store.link_pack(directory / name)
    remove_tree(directory)
    return size
