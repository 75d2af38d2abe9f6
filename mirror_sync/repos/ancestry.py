"""The kind of each ref update, by ancestry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import Change, RefUpdate
from mirror_sync.repos import queries
from mirror_sync.repos.child import read_lines
from mirror_sync.repos.git import Git

FEW = 4
"""Up to so many moved refs are asked about one by one; more share one walk first."""

STEPS = 2_000_000
"""So many steps at most are taken through the shared walk before asking one by one instead."""


def classify(git: Git, updates: Sequence[RefUpdate]) -> dict[RefName, Change]:
    """Return the kind of each update; a move that involves anything but two commits counts as forced."""
    kinds: dict[RefName, Change] = {}
    moved: list[tuple[RefName, GitOid, GitOid]] = []
    for update in updates:
        if update.old is None:
            kinds[update.name] = Change.CREATE
        elif update.new is None:
            kinds[update.name] = Change.DELETE
        else:
            moved.append((update.name, update.old, update.new))
    types = queries.types(git, {oid for _, old, new in moved for oid in (old, new)})
    pairs = {(old, new) for _, old, new in moved if types.get(old) == types.get(new) == "commit"}
    forward = _forward(git, pairs)
    for name, old, new in moved:
        kinds[name] = Change.FAST_FORWARD if (old, new) in forward else Change.FORCED
    return kinds


def _forward(git: Git, pairs: set[tuple[GitOid, GitOid]]) -> set[tuple[GitOid, GitOid]]:
    """Return the pairs whose old commit is an ancestor of the new one."""
    if len(pairs) <= FEW:
        return {pair for pair in pairs if _is_ancestor(git, *pair)}
    rewritten = _unreachable(git, pairs)
    open_pairs = {pair for pair in pairs if pair[0] not in rewritten}
    proven = _shared_walk(git, open_pairs)
    return proven | {pair for pair in open_pairs - proven if _is_ancestor(git, *pair)}


def _unreachable(git: Git, pairs: set[tuple[GitOid, GitOid]]) -> set[GitOid]:
    """Return the old commits that no new one reaches, told by one walk: a rewritten history is all of these."""
    olds = {old for old, _ in pairs}
    asked = queries.oid_lines([*olds, *(f"^{new}" for new in {new for _, new in pairs})])
    with git.stream(["rev-list", "--stdin"], stdin=asked) as child:
        return {oid for line in read_lines(child.stdout) if (oid := GitOid(line.decode("ascii"))) in olds}


def _is_ancestor(git: Git, old: GitOid, new: GitOid) -> bool:
    # Told by output, not by exit status: an old commit nobody else can reach is printed when new lacks it.
    return not git.run(["rev-list", "--max-count=1", "--stdin"], stdin=queries.oid_lines([old, f"^{new}"])).strip()


def _shared_walk(git: Git, pairs: set[tuple[GitOid, GitOid]]) -> set[tuple[GitOid, GitOid]]:
    """Return pairs that one walk over everything new proves to be fast-forwards.

    What it does not prove (a path through another ref's old tip, a rewind) is left open.
    """
    asked = queries.oid_lines([*{new for _, new in pairs}, *(f"^{old}" for old in {old for old, _ in pairs})])
    parents: dict[str, tuple[str, ...]] = {}
    for line in git.run(["rev-list", "--parents", "--stdin"], stdin=asked).decode("ascii").splitlines():
        oid, *above = line.split()
        parents[oid] = tuple(above)
    proven: set[tuple[GitOid, GitOid]] = set()
    steps = 0
    for old, new in pairs:
        found, taken = _reaches(parents, new, old, limit=STEPS - steps)
        steps += taken
        if found:
            proven.add((old, new))
        if steps >= STEPS:
            break
    return proven


def _reaches(parents: dict[str, tuple[str, ...]], start: str, goal: str, *, limit: int) -> tuple[bool, int]:
    seen: set[str] = set()
    todo: list[str] = [start]
    while todo and len(seen) < limit:
        oid = todo.pop()
        if oid == goal:
            return True, len(seen)
        if oid not in seen:
            seen.add(oid)
            todo.extend(_unseen(parents.get(oid, ()), seen))
    return False, len(seen)


def _unseen(oids: Iterable[str], seen: set[str]) -> list[str]:
    return [oid for oid in oids if oid not in seen]
