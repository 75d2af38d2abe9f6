"""Publish: move clients to a new view, with the roots wide enough at every instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mirror_sync.domain.names import GitOid, RefName, is_git_oid, printable, refname_fault
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.domain.runs import KeptTip
from mirror_sync.errors import PublishConflict, RepositoryDamaged
from mirror_sync.ports import PublishRequest, View
from mirror_sync.repos import queries
from mirror_sync.repos.files import remove_file, sync_together
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.packed_refs import KEPT_PREFIX, OLD_PREFIX, PackedRefs, RefLines
from mirror_sync.repos.store import Store
from mirror_sync.repos.views import Views


def publish(
    request: PublishRequest,
    *,
    layout: Layout,
    store: Store,
    views: Views,
    git: Git,
    object_format: ObjectFormat,
    confirm: Callable[[], None],
    now: float,
) -> View:
    """Do what :meth:`mirror_sync.ports.GitRepository.publish` promises.

    Roots become old ∪ new ∪ kept and the view is made, then ``current`` is flipped, then
    roots become new ∪ kept: a kill anywhere leaves too many roots, never too few.
    Everything is on the disk under passing names before the first of it gets its own,
    so that a full disk is met early and few flushes are waited for.
    """
    _expect(layout, request.expected_view)
    if request.view <= request.expected_view:
        raise PublishConflict(f"view {request.view} is not newer than view {request.expected_view}")
    tips = request.snapshot.tips
    roots = store.roots(views.last_read(request.expected_view))
    _check_names(tips, roots)
    known = roots.oids()
    new = frozenset(tips.values())
    kept = kept_refs(request.kept)
    peeled = _peeled(git, roots, (new | frozenset(kept.values())) - known)
    lines = RefLines(tips, peeled)
    old = {RefName(OLD_PREFIX + oid): oid for oid in known - new - frozenset(kept.values())}
    view = views.draft(
        request.view,
        packed=lines.packed(),
        refs=PackedRefs(dict(tips), peeled),
        head=request.snapshot.head,
        object_format=object_format,
    )
    wide = store.draft_roots(lines.packed({**kept, **old}), kind="wide")
    narrow = store.draft_roots(lines.packed(kept), kind="narrow") if old else None
    sync_together([*view, wide, *([narrow] if narrow is not None else [])])
    sync_together([store.adopt_roots(wide), views.adopt(request.view)])
    flipped = False
    try:
        _expect(layout, request.expected_view)
        confirm()
        flipped = True
    finally:
        if not flipped:
            views.drop(request.view)
            if narrow is not None:
                remove_file(narrow)
    views.flip(request.view)
    changed = [store.adopt_roots(narrow)] if narrow is not None else []
    if store.drop_keeps():
        changed.append(layout.packs)
    if changed:
        sync_together(changed)
    views.drop_superseded(now)
    return View(request.view, RefSnapshot(tips, request.snapshot.head))


def protect(kept: Sequence[KeptTip], *, published: RefSnapshot, store: Store, git: Git) -> None:
    """Make the roots exactly the published tips and ``kept``.

    A kept tip whose object is gone protects nothing and raises :class:`RepositoryDamaged`.
    """
    roots = store.roots()
    refs = kept_refs(kept)
    wanted = frozenset(published.tips.values()) | frozenset(refs.values())
    lines = RefLines(published.tips, _peeled(git, roots, wanted - roots.oids()))
    packed = lines.packed(refs)
    store.write_roots(packed)


def kept_refs(kept: Sequence[KeptTip]) -> dict[RefName, GitOid]:
    """Return the refs that protect ``kept``: ``refs/mirror-sync/kept/<run>/<old name>``.

    When one run moved one ref several times, the later tips stand under ``<run>.1`` and so on.
    """
    refs: dict[RefName, GitOid] = {}
    for tip in kept:
        name = RefName(f"{KEPT_PREFIX}{tip.run}/{tip.ref}")
        again = 0
        while refs.get(name, tip.oid) != tip.oid:
            again += 1
            name = RefName(f"{KEPT_PREFIX}{tip.run}.{again}/{tip.ref}")
        refs[name] = tip.oid
    return refs


def _expect(layout: Layout, number: int) -> None:
    current = layout.current_number()
    if current != number:
        raise PublishConflict(why=f"view {current} is published, not view {number}")


def _check_names(tips: Mapping[RefName, GitOid], roots: PackedRefs) -> None:
    """Refuse what would make the file say something else than was meant; names published before were checked then."""
    before = roots.tips
    get = before.get
    fresh = [name for name, oid in tips.items() if get(name) != oid]
    oids = {tips[name] for name in fresh}
    width = len(min(oids, default=""))
    strange = {oid for oid in oids if not is_git_oid(oid) or len(oid) != width}
    for name in fresh:
        if name not in before and (fault := refname_fault(name)) is not None:
            raise RepositoryDamaged(f"{printable(name)!r} cannot be published", why=fault)
    if strange:
        name = next(name for name in fresh if tips[name] in strange)
        raise RepositoryDamaged(f"{printable(name)!r} cannot be published", why="its tip is no object id")


def _peeled(git: Git, roots: PackedRefs, fresh: frozenset[GitOid]) -> dict[GitOid, GitOid]:
    """Return the peeled object of each annotated tag, asking only about tips that the roots do not name yet.

    Raises :class:`RepositoryDamaged` when the store lacks a tip: such a view must not come to be.
    """
    peeled = dict(roots.peeled)
    if fresh:
        kinds = queries.types(git, sorted(fresh))
        absent = fresh - kinds.keys()
        if absent:
            raise RepositoryDamaged("a tip to be published is not in the store", why=min(absent))
        peeled.update(queries.peel(git, fresh, kinds=kinds))
    return peeled
