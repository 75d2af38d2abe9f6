"""Mirrors, runs and what is known of them: the records every room speaks of.

Times are Unix seconds (``float``) on our clock; sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from mirror_sync.domain.names import GitOid, LfsOid, MirrorName, RefName
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.refs import NO_HEAD, Change, GuardState, Hold, ObjectFormat

MirrorId = NewType("MirrorId", int)
RunId = NewType("RunId", int)


class Trigger(StrEnum):
    """Why a mirror is due."""

    POLL = "poll"
    WEBHOOK = "webhook"
    OPERATOR = "operator"


class Outcome(StrEnum):
    """How a sync run ended."""

    UNCHANGED = "unchanged"
    PUBLISHED = "published"
    HELD = "held"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Health(StrEnum):
    """What a mirror is worth to its clients."""

    FRESH = "fresh"
    STALE = "stale"
    FAILING = "failing"
    INCOMPLETE = "incomplete"
    GONE = "gone"
    DENIED = "denied"
    PAUSED = "paused"
    NEW = "new"


class Activity(StrEnum):
    """What is being done with a mirror now."""

    IDLE = "idle"
    QUEUED = "queued"
    SYNCING = "syncing"
    BACKING_OFF = "backing-off"


class Availability(StrEnum):
    """What upstream last said about the repository's existence."""

    PRESENT = "present"
    GONE = "gone"
    DENIED = "denied"


class Visibility(StrEnum):
    """Who may read a mirror."""

    PUBLIC = "public"
    """Everybody, as long as upstream itself shows it to everybody."""
    OPEN = "open"
    """Everybody, whatever upstream says."""
    TOKEN = "token"  # noqa: S105 - a word
    """Who has a clone token for it."""
    UPSTREAM = "upstream"
    """Whom upstream lets read it, by their own credentials."""
    NONE = "none"
    """Nobody."""


HISTORY_RANK = 10_000
"""Rank of LFS objects that only history refers to."""

TIP_RANK = HISTORY_RANK - 1
"""Rank of LFS objects that a served ref lacks.  Each ref that waits has a smaller one, in the order worth waiting for."""

LEFT_OUT_RANK = 20_000
"""Rank of LFS objects that the mirror's selection leaves out."""


class Step(StrEnum):
    """The nine steps of a sync."""

    CLAIM = "claim"
    OBSERVE = "observe"
    DIFF = "diff"
    FETCH = "fetch"
    CLASSIFY = "classify"
    SCAN = "scan"
    TRANSFER = "transfer"
    PUBLISH = "publish"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class LfsCounts:
    """LFS objects the mirror's history refers to: all it wants, those verified here, those not here, those upstream lacks.

    ``wanted == present + missing``; ``known_missing`` is the part of ``missing`` that
    upstream itself says it lacks.  ``wanted_bytes`` and ``present_bytes`` are their sizes.
    ``left_out`` are those that are not here because the mirror's selection leaves them
    out; they are no part of ``wanted``.
    """

    wanted: int = 0
    present: int = 0
    missing: int = 0
    known_missing: int = 0
    wanted_bytes: int = 0
    present_bytes: int = 0
    left_out: int = 0
    left_out_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LastRun:
    """The latest finished run as people see it."""

    outcome: Outcome
    code: str = ""
    message: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0
    trigger: Trigger = Trigger.POLL


@dataclass(frozen=True, slots=True)
class Mirror:
    """Everything the database knows of one mirror."""

    id: MirrorId
    name: MirrorName
    upstream: str
    """The URL asked now (after a followed rename)."""
    created_at: float
    due_at: float
    trigger: Trigger
    interval_seconds: float
    objective_seconds: float
    object_format: ObjectFormat = ObjectFormat.SHA1
    repository_id: str = ""
    """The forge's own numeric id, once a signed webhook told it."""
    availability: Availability = Availability.PRESENT
    availability_since: float = 0.0
    absent_answers: int = 0
    paused_at: float | None = None
    paused_reason: str = ""
    removing_at: float | None = None
    """When the mirror's data may be deleted, or ``None`` while it is kept."""
    observed_at: float | None = None
    confirmed_at: float | None = None
    confirmed_digest: str = ""
    """The observation digest whose whole content is served; empty when none is."""
    known_behind_since: float | None = None
    published_at: float | None = None
    view: int = 0
    """Number of the published view as last recorded; 0 before the first publish."""
    ref_count: int = 0
    head: RefName = NO_HEAD
    failures: int = 0
    """Consecutive failed runs."""
    unchanged_polls: int = 0
    last_run: LastRun | None = None
    leased_by: str = ""
    lease_until: float = 0.0
    run_step: Step | None = None
    """The step the running sync is in."""
    run_detail: str = ""
    guard: GuardState = field(default_factory=GuardState)
    holds: tuple[Hold, ...] = ()
    """At most 100 refs that wait, with the reason."""
    held_refs: int = 0
    notes: tuple[str, ...] = ()
    """Oddities worth showing: relaxed object checks, refused ref names."""
    lfs: LfsCounts = field(default_factory=LfsCounts)
    git_bytes: int = 0
    maintained_at: float | None = None
    publishes_since_maintenance: int = 0
    progress: Progress | None = None
    """How far the fetch or transfer under way was when it was last told; ``None`` when none is.

    Whoever told it may have died since: ``progress.at`` says how old it is.
    """
    class_name: str = ""
    """The class of mirrors whose settings it takes; empty when it has none."""
    lfs_selection: str = ""
    """Names the selection by which all its LFS objects were judged; empty while some may not have been."""
    visibility: Visibility | None = None
    """Its own word on who may read it; ``None`` leaves that to its class and the configuration."""
    shown_upstream: bool | None = None
    """Whether upstream shows it to everybody, as last observed; ``None`` while nobody asked."""


@dataclass(frozen=True, slots=True)
class NewMirror:
    """What enrolling a mirror needs."""

    name: MirrorName
    upstream: str
    interval_seconds: float
    objective_seconds: float
    trigger: Trigger = Trigger.OPERATOR
    class_name: str = ""
    visibility: Visibility | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """One worker's exclusive, expiring right to one mirror.

    ``token`` only grows for a mirror; whoever holds a smaller one may change nothing.
    """

    mirror: Mirror
    worker: str
    token: int
    until: float
    trigger: Trigger
    evidence_at: float | None = None
    """When the webhook that made the mirror due was received, if one did."""
    purpose: str = "sync"


@dataclass(frozen=True, slots=True)
class RefJournalEntry:
    """One ref's move in the ref journal."""

    ref: RefName
    old: GitOid | None
    new: GitOid | None
    change: Change


@dataclass(frozen=True, slots=True)
class PublishIntent:
    """What a run is about to publish, stored before the flip so that recovery can finish the record."""

    view: int
    digest: str
    observed_at: float
    entries: tuple[RefJournalEntry, ...]
    head: RefName
    ref_count: int
    complete: bool
    """Whether every observed ref is in this view."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended, for :meth:`mirror_sync.ports.StateStore.finish`.

    ``next_due_at`` is the next poll; ``digest`` the observation's, stored as confirmed
    when ``complete``.
    """

    outcome: Outcome
    started_at: float
    finished_at: float
    next_due_at: float
    code: str = ""
    message: str = ""
    observed_at: float | None = None
    digest: str = ""
    complete: bool = False
    evidence_at: float | None = None
    """Earliest evidence of a change this run did not serve, kept as known_behind_since."""
    availability: Availability = Availability.PRESENT
    absent_answers: int = 0
    guard: GuardState = field(default_factory=GuardState)
    holds: tuple[Hold, ...] = ()
    notes: tuple[str, ...] | None = None
    """``None`` keeps the notes recorded before."""
    moved_to: str = ""
    object_format: ObjectFormat | None = None
    git_bytes: int | None = None
    ref_updates: int = 0
    fetched_bytes: int = 0
    lfs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A stored run, newest first in listings."""

    id: RunId
    mirror: MirrorId
    trigger: Trigger
    started_at: float
    finished_at: float | None
    outcome: Outcome | None
    code: str = ""
    message: str = ""
    ref_updates: int = 0
    fetched_bytes: int = 0
    lfs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KeptTip:
    """The old tip of a forced or deleted ref, protected until ``expires_at``."""

    run: RunId
    ref: RefName
    oid: GitOid
    kept_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook POST, already verified."""

    provider: str
    delivery_id: str
    event: str
    received_at: float
    repository_id: str = ""
    clone_url: str = ""
    refs: tuple[RefName, ...] = ()
    deleted_refs: tuple[RefName, ...] = ()
    action: str = ""


@dataclass(frozen=True, slots=True)
class LfsJob:
    """One LFS object that a mirror's history refers to and the store lacks."""

    mirror: MirrorId
    oid: LfsOid
    size: int
    attempts: int
    rank: int = HISTORY_RANK


LAG_BOUNDS = (60, 300, 900, 1800, 3600, 7200, 21600, 43200, 86400, 604800)
"""Seconds by which totals sort mirrors by sync lag."""


def lag_seconds(mirror: Mirror, now: float) -> float:
    """Return the sync lag in seconds: content older than this is served. It never understates.

    A mirror that was never confirmed counts from its creation.
    """
    since = mirror.confirmed_at if mirror.confirmed_at is not None else mirror.created_at
    return max(0.0, now - since)


def health(mirror: Mirror, now: float) -> Health:
    """Return the one word for what this mirror is worth to its clients now.

    A mirror being removed is not synced any more, as if it were paused.
    """
    if mirror.paused_at is not None or mirror.removing_at is not None:
        return Health.PAUSED
    if mirror.availability is Availability.GONE:
        return Health.GONE
    if mirror.availability is Availability.DENIED:
        return Health.DENIED
    if mirror.failures >= 3:
        return Health.FAILING
    if mirror.published_at is None:
        return Health.NEW
    if mirror.lfs.known_missing:
        return Health.INCOMPLETE
    if lag_seconds(mirror, now) > mirror.objective_seconds:
        return Health.STALE
    return Health.FRESH


def activity(mirror: Mirror, now: float) -> Activity:
    """Return what is being done with this mirror now."""
    if mirror.leased_by and mirror.lease_until > now:
        return Activity.SYNCING
    if mirror.paused_at is None and mirror.removing_at is None and mirror.due_at <= now:
        return Activity.QUEUED
    if mirror.failures:
        return Activity.BACKING_OFF
    return Activity.IDLE
