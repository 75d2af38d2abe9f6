"""Ref snapshots, their differences, and what policy says about each ref update."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mirror_sync.domain.names import GitOid, RefName, ref_bytes, refname_fault

NO_HEAD = RefName("")


class ObjectFormat(StrEnum):
    """The hash a repository names its objects by."""

    SHA1 = "sha1"
    SHA256 = "sha256"


@dataclass(frozen=True, slots=True)
class RefSnapshot:
    """All selected tips plus HEAD of one repository.

    ``head`` is HEAD's symbolic target, whether or not that ref exists (unborn), or
    the empty name when HEAD points at no branch.
    """

    tips: Mapping[RefName, GitOid]
    head: RefName = NO_HEAD

    def fingerprint(self) -> str:
        """Return a SHA-256 over HEAD and the sorted tips: equal exactly when the snapshots are."""
        digest = hashlib.sha256(ref_bytes(self.head) + b"\n")
        for name in sorted(self.tips, key=ref_bytes):
            digest.update(self.tips[name].encode() + b" " + ref_bytes(name) + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Observation:
    """A dated ref snapshot of upstream.

    ``started_at`` is our clock just before asking (Unix seconds).  ``digest`` names
    the exact answer: an equal digest means equal content.  ``refused`` are refs left
    out with the reason (a name no client could hold).
    """

    started_at: float
    snapshot: RefSnapshot
    digest: str
    object_format: ObjectFormat = ObjectFormat.SHA1
    protocol: int = 2
    refused: Mapping[RefName, str] = field(default_factory=dict)
    moved_to: str = ""
    """The URL a permanent https redirect on the same host led to, or empty."""
    peeled: Mapping[GitOid, GitOid] = field(default_factory=dict)
    """What upstream says that annotated tags among the tips stand for: a hint, never served."""
    head_tip: GitOid | None = None
    """What HEAD itself is listed at, ``None`` when it is unborn or not listed."""


class Change(StrEnum):
    """The kind of a ref update."""

    CREATE = "create"
    FAST_FORWARD = "fast-forward"
    FORCED = "forced"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One ref's move from ``old`` to ``new``; ``None`` means absent on that side."""

    name: RefName
    old: GitOid | None
    new: GitOid | None


@dataclass(frozen=True, slots=True)
class ClassifiedUpdate:
    """A ref update with its kind, as actually staged."""

    update: RefUpdate
    change: Change


@dataclass(frozen=True, slots=True)
class Hold:
    """Why one ref may not move now: a stable code and a sentence."""

    name: RefName
    code: str
    reason: str


def diff(published: RefSnapshot, observed: RefSnapshot) -> tuple[RefUpdate, ...]:
    """Return what must move for ``published`` to equal ``observed``, sorted by name; HEAD is not part of it."""
    updates = [
        RefUpdate(name, published.tips.get(name), observed.tips.get(name))
        for name in published.tips.keys() | observed.tips.keys()
        if published.tips.get(name) != observed.tips.get(name)
    ]
    return tuple(sorted(updates, key=lambda update: ref_bytes(update.name)))


def select(tips: Mapping[RefName, GitOid], patterns: tuple[str, ...]) -> dict[RefName, GitOid]:
    """Return the tips whose names match a pattern: exact, or a prefix ending in ``*``."""
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    return {name: oid for name, oid in tips.items() if name in exact or (prefixes and name.startswith(prefixes))}


def sound(tips: Mapping[RefName, GitOid]) -> tuple[dict[RefName, GitOid], dict[RefName, str]]:
    """Split ``tips`` into those a client can hold and those refused, with the reason."""
    good: dict[RefName, GitOid] = {}
    refused: dict[RefName, str] = {}
    for name, oid in tips.items():
        fault = refname_fault(name)
        if fault is None:
            good[name] = oid
        else:
            refused[name] = fault
    return good, refused


def parents(name: RefName) -> Iterable[RefName]:
    """Yield every name that cannot exist beside ``name`` because it would be its directory."""
    index = name.find("/", len("refs/"))
    while index != -1:
        yield RefName(name[:index])
        index = name.find("/", index + 1)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a publish makes of the published tips, and which updates wait because a directory/file partner stays."""

    tips: Mapping[RefName, GitOid]
    moved: tuple[RefUpdate, ...]
    waiting: tuple[RefUpdate, ...]


def settle(
    published: Mapping[RefName, GitOid],
    ready: Iterable[RefUpdate],
    *,
    keep: frozenset[RefName] = frozenset(),
) -> Settlement:
    """Return the tips after every ``ready`` update that can stand.

    ``keep`` names refs that must not be deleted yet (HEAD's old target while the new
    one is not here).  An update whose directory/file partner stays waits with it.
    """
    updates = sorted(ready, key=lambda update: ref_bytes(update.name))
    waiting = [update for update in updates if update.new is None and update.name in keep]
    held = {update.name for update in waiting}
    tips = dict(published)
    moved: list[RefUpdate] = []
    for update in updates:
        if update.new is None and update.name not in held:
            tips.pop(update.name, None)
            moved.append(update)
    directories: dict[RefName, int] = {}
    for name in tips:
        for parent in parents(name):
            directories[parent] = directories.get(parent, 0) + 1
    for update in updates:
        if update.new is None:
            continue
        if update.name not in tips:
            if update.name in directories or any(parent in tips for parent in parents(update.name)):
                waiting.append(update)
                continue
            for parent in parents(update.name):
                directories[parent] = directories.get(parent, 0) + 1
        tips[update.name] = update.new
        moved.append(update)
    return Settlement(tips=tips, moved=tuple(moved), waiting=tuple(waiting))


def choose_head(observed: RefSnapshot, published_head: RefName, tips: Mapping[RefName, GitOid]) -> RefName:
    """Return the HEAD target to serve beside ``tips``.

    Upstream's own branch wins as soon as it is served, or when upstream's HEAD is
    itself unborn.  Otherwise the present HEAD stays while its branch stays; failing
    that ``main``, ``master`` or the first branch.  The result always begins
    ``refs/heads/`` and passes :func:`refname_fault`.
    """
    wanted = observed.head
    if wanted and wanted.startswith("refs/heads/") and refname_fault(wanted) is None:
        unborn = wanted not in observed.tips
        if wanted in tips or unborn:
            return wanted
    if published_head and published_head in tips:
        return published_head
    for candidate in (RefName("refs/heads/main"), RefName("refs/heads/master")):
        if candidate in tips:
            return candidate
    branches = sorted((name for name in tips if name.startswith("refs/heads/")), key=ref_bytes)
    return branches[0] if branches else RefName("refs/heads/main")


GUARD_ABSOLUTE = 5
GUARD_SHARE = 0.05
GUARD_POLLS = 3
GUARD_SPACING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class GuardState:
    """What the deletion guard remembers between polls of one mirror."""

    fingerprint: str = ""
    """Of the observation held, or empty when nothing is held."""
    polls: int = 0
    counted_at: float = 0.0
    released: str = ""
    """The fingerprint an operator let through."""


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """Whether the deletion guard holds the whole difference, and what to remember."""

    held: bool
    state: GuardState
    deletions: int = 0
    limit: int = 0


def guard(
    published: RefSnapshot,
    observed: RefSnapshot,
    state: GuardState,
    *,
    now: float,
    confirmed_deletions: frozenset[RefName] = frozenset(),
) -> GuardVerdict:
    """Decide whether ``observed`` removes too much to be believed at once.

    The whole difference is held when the list is empty but was not, or when
    deletions exceed ``max(5, 5 %)``, until three polls at least ten minutes apart
    agree, signed delete events name each deletion, or an operator releases it.
    """
    deleted = [name for name in published.tips if name not in observed.tips]
    limit = max(GUARD_ABSOLUTE, int(len(published.tips) * GUARD_SHARE))
    emptied = not observed.tips and bool(published.tips)
    if not emptied and len(deleted) <= limit:
        return GuardVerdict(False, GuardState(), len(deleted), limit)
    fingerprint = observed.fingerprint()
    if state.released == fingerprint or all(name in confirmed_deletions for name in deleted):
        return GuardVerdict(False, GuardState(), len(deleted), limit)
    if state.fingerprint != fingerprint:
        return GuardVerdict(True, GuardState(fingerprint, 1, now), len(deleted), limit)
    if now - state.counted_at >= GUARD_SPACING_SECONDS or now < state.counted_at:
        polls = state.polls + 1
        if polls >= GUARD_POLLS and now >= state.counted_at:
            return GuardVerdict(False, GuardState(), len(deleted), limit)
        return GuardVerdict(True, GuardState(fingerprint, min(polls, GUARD_POLLS - 1), now), len(deleted), limit)
    return GuardVerdict(True, state, len(deleted), limit)
