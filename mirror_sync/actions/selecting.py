"""Judge which LFS objects a mirror wants, whenever history or the selection changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mirror_sync.actions.world import Run
from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import TIP_RANK
from mirror_sync.domain.selection import UNJUDGED

UNFINISHED = "?"
"""Named as a mirror's selection while its objects are being judged by a new one; no selection has this name."""


def is_changed(run: Run) -> bool:
    """Tell whether the mirror's objects were judged by another selection than the one in force."""
    return run.policy.lfs and run.mirror.lfs_selection != run.policy.selection.name


def begin(run: Run) -> None:
    """Note that not all objects are judged by what is in force, so that whoever comes next begins anew."""
    run.world.state.judge_lfs(run.lease, {}, selection=UNFINISHED)


def reason_for_new(run: Run) -> str:
    """Return why an object that was just found is left out, until it is judged; empty when all are wanted."""
    return "" if run.policy.selection.everything else UNJUDGED


def judge(
    run: Run, tips: Collection[GitOid], *, found: Collection[LfsOid], excluded: Sequence[GitOid], whole: bool
) -> None:
    """Say which objects are wanted: of what ``tips`` reach and ``excluded`` do not, or of everything when ``whole``.

    ``found`` are objects that this run stored.  What earlier runs chose stays chosen
    until the selection changes: an object that grows old is not given up on the way.
    """
    selection = run.policy.selection
    if selection.everything and not whole:
        return
    state, repository, mirror = run.world.state, run.world.repository, run.mirror
    known = state.known_pointers(mirror.id)
    sizes: dict[LfsOid, int] = {}
    for pointer in known.values():
        sizes[pointer.oid] = min(pointer.size, sizes.get(pointer.oid, pointer.size))
    placed = _in_place(run, sorted(tips), known, excluded=excluded) if selection.by_place else set(sizes)
    verdicts: dict[LfsOid, str] = {}
    for oid in sizes if whole else {*found, *placed}:
        if oid not in sizes:
            continue
        if not selection.takes_size(sizes[oid]):
            verdicts[oid] = selection.too_large
        else:
            verdicts[oid] = "" if oid in placed else selection.out_of_place
    if not selection.by_place and not whole:
        verdicts = {oid: verdicts[oid] for oid in found if oid in verdicts}
    state.judge_lfs(run.lease, verdicts, selection=selection.name if whole else None)
    if whole and run.tips():
        served = repository.tip_needs(sorted(run.tips()), known, selects=selection.takes_path)
        state.rank_lfs(run.lease, {need.pointer.oid: TIP_RANK for needs in served.values() for need in needs})


def _in_place(
    run: Run, tips: Sequence[GitOid], known: dict[GitOid, Pointer], *, excluded: Sequence[GitOid]
) -> set[LfsOid]:
    """Return the objects that commits that count refer to at a path that is kept."""
    selection, repository = run.policy.selection, run.world.repository
    since = None if selection.recent is None else run.world.clock.now() - selection.recent
    placed: set[LfsOid] = set()
    for blob, path in repository.pointer_paths(tips, known, excluded=excluded, since=since):
        oid = known[blob].oid
        if oid not in placed and selection.takes_path(path):
            placed.add(oid)
    if since is not None:
        for needs in repository.tip_needs(tips, known, selects=selection.takes_path).values():
            placed.update(need.pointer.oid for need in needs)
    return placed
