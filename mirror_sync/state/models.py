"""The tables.

Times are Unix seconds.  Ref names and object ids are stored as bytes
(:mod:`mirror_sync.state.columns`).  Rows are read and written by Core statements;
these classes name the columns and give them types.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Computed,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mirror_sync.domain.names import GitOid, LfsOid, RefName
from mirror_sync.state.columns import HexBytes, RefBytes, SortedText

Number = BigInteger().with_variant(Integer, "sqlite")
"""A row number that never runs out; SQLite numbers rows only by INTEGER."""

PRESENT, WANTED, KNOWN_MISSING, LEFT_OUT = 0, 1, 2, 3
"""States of an LFS object that a mirror refers to."""


class Base(DeclarativeBase):
    """The root of the tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it once from the class
        str: Text,
        float: Double,
        bytes: LargeBinary,
        GitOid: HexBytes,
        LfsOid: HexBytes,
        RefName: RefBytes,
    }


class Meta(Base):
    """Facts about this database: its identity, and the latest time any worker saw."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class MirrorRow(Base):
    """A mirror: what it is, when it is due, who holds it, how it stands.

    ``urgency`` is the trigger as a number, the smaller first.  ``pending_*`` is what
    became due while a sync was running.  ``ready_at`` and ``lfs_ready_at`` are when a
    worker may take the mirror, or its LFS objects; null while it is out of service.
    """

    __tablename__ = "mirrors"

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(SortedText, unique=True)
    upstream: Mapped[str]
    class_: Mapped[str] = mapped_column("class")
    host_key: Mapped[str]
    repository_key: Mapped[str]
    repository_id: Mapped[str]
    created_at: Mapped[float]
    interval_seconds: Mapped[float]
    objective_seconds: Mapped[float]
    object_format: Mapped[str]
    availability: Mapped[str]
    availability_since: Mapped[float]
    absent_answers: Mapped[int]
    paused_at: Mapped[float | None]
    paused_reason: Mapped[str]
    removing_at: Mapped[float | None]

    due_at: Mapped[float]
    urgency: Mapped[int] = mapped_column(SmallInteger)
    pending_at: Mapped[float | None]
    pending_urgency: Mapped[int | None] = mapped_column(SmallInteger)
    evidence_first: Mapped[float | None]
    evidence_last: Mapped[float | None]

    lease_token: Mapped[int] = mapped_column(BigInteger)
    lease_purpose: Mapped[str]
    leased_by: Mapped[str]
    lease_until: Mapped[float]
    chore_after: Mapped[float]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    run_started_at: Mapped[float | None]
    run_step: Mapped[str]
    run_detail: Mapped[str]
    progress: Mapped[str | None]
    """JSON, by :func:`mirror_sync.state.records.dump_progress`."""

    observed_at: Mapped[float | None]
    confirmed_at: Mapped[float | None]
    confirmed_digest: Mapped[str]
    known_behind_since: Mapped[float | None]
    published_at: Mapped[float | None]
    view: Mapped[int]
    ref_count: Mapped[int]
    head: Mapped[RefName]
    journaled: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int]
    unchanged_polls: Mapped[int]
    unchanged_runs: Mapped[int] = mapped_column(BigInteger)
    last_outcome: Mapped[str]
    last_code: Mapped[str]
    last_message: Mapped[str]
    last_started_at: Mapped[float]
    last_finished_at: Mapped[float]
    last_urgency: Mapped[int] = mapped_column(SmallInteger)
    guard_fingerprint: Mapped[str]
    guard_polls: Mapped[int]
    guard_counted_at: Mapped[float]
    guard_released: Mapped[str]
    holds: Mapped[str]
    held_refs: Mapped[int]
    notes: Mapped[str]

    lfs_wanted: Mapped[int] = mapped_column(BigInteger)
    lfs_present: Mapped[int] = mapped_column(BigInteger)
    lfs_known_missing: Mapped[int] = mapped_column(BigInteger)
    lfs_wanted_bytes: Mapped[int] = mapped_column(BigInteger)
    lfs_present_bytes: Mapped[int] = mapped_column(BigInteger)
    lfs_left_out: Mapped[int] = mapped_column(BigInteger)
    lfs_left_out_bytes: Mapped[int] = mapped_column(BigInteger)
    lfs_selection: Mapped[str]
    """The selection by which all its LFS objects were judged; empty while some may not have been."""
    lfs_due_at: Mapped[float | None]
    """No later than the first moment at which one of its LFS objects may be fetched."""
    visibility: Mapped[str]
    """Its own word on who may read it; empty when it has none."""
    shown_upstream: Mapped[bool | None]
    """Whether upstream shows it to everybody; null while nobody asked."""
    git_bytes: Mapped[int] = mapped_column(BigInteger)
    maintained_at: Mapped[float | None]
    publishes_since_maintenance: Mapped[int]

    ready_at: Mapped[float | None] = mapped_column(
        Computed(
            "CASE WHEN paused_at IS NULL AND removing_at IS NULL"
            " THEN CASE WHEN due_at >= lease_until THEN due_at ELSE lease_until END END",
            persisted=True,
        )
    )
    lfs_ready_at: Mapped[float | None] = mapped_column(
        Computed("CASE WHEN paused_at IS NULL AND removing_at IS NULL THEN lfs_due_at END", persisted=True)
    )

    __table_args__ = (
        Index("ix_mirrors_ready", "urgency", "ready_at"),
        Index("ix_mirrors_lfs_ready", "lfs_ready_at"),
        Index("ix_mirrors_maintenance", "publishes_since_maintenance"),
        Index("ix_mirrors_removal", "removing_at"),
        Index("ix_mirrors_repository_id", "repository_id"),
        Index("ix_mirrors_repository_key", "repository_key"),
        {"sqlite_autoincrement": True},  # a lease of a forgotten mirror never fits a later one
    )


class Run(Base):
    """A sync run that did something, or failed to."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    mirror_id: Mapped[int] = mapped_column(BigInteger)
    urgency: Mapped[int] = mapped_column(SmallInteger)
    started_at: Mapped[float]
    finished_at: Mapped[float | None]
    outcome: Mapped[str]
    code: Mapped[str]
    message: Mapped[str]
    ref_updates: Mapped[int]
    fetched_bytes: Mapped[int] = mapped_column(BigInteger)
    lfs_bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        Index("ix_runs_mirror", "mirror_id", "id"),
        Index("ix_runs_finished", "finished_at"),
        {"sqlite_autoincrement": True},
    )


class Intent(Base):
    """A publish that was announced and not recorded yet; one to a mirror."""

    __tablename__ = "intents"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    run_id: Mapped[int] = mapped_column(BigInteger)
    view: Mapped[int]
    digest: Mapped[str]
    observed_at: Mapped[float]
    head: Mapped[RefName]
    ref_count: Mapped[int]
    complete: Mapped[bool]
    changes: Mapped[str]
    """How many of its ref updates are of each kind."""


class RefJournal(Base):
    """Ref updates in packs of up to a few hundred (:mod:`mirror_sync.state.journal`).

    ``first`` numbers a pack's first entry within its mirror.  ``at`` is null until the
    publish is recorded.
    """

    __tablename__ = "ref_journal"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    first: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    run_id: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[float | None]
    entries: Mapped[bytes]

    __table_args__ = ({"sqlite_with_rowid": False},)


class KeptTipRow(Base):
    """The old tip of a forced or deleted ref; ``view`` names its publish until that is recorded."""

    __tablename__ = "kept_tips"

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    mirror_id: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[int] = mapped_column(BigInteger)
    ref: Mapped[RefName]
    oid: Mapped[GitOid]
    kept_at: Mapped[float]
    expires_at: Mapped[float]
    view: Mapped[int | None]

    __table_args__ = (
        UniqueConstraint("mirror_id", "run_id", "ref", "oid"),
        Index("ix_kept_tips_expires", "expires_at", "mirror_id"),
    )


class PointerRow(Base):
    """A pointer blob in a mirror's history."""

    __tablename__ = "pointers"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    blob: Mapped[GitOid] = mapped_column(primary_key=True)
    oid: Mapped[LfsOid]
    size: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = ({"sqlite_with_rowid": False},)


class ScannedTips(Base):
    """The tips whose whole history has been scanned for pointers."""

    __tablename__ = "scanned_tips"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tips: Mapped[bytes]


class LfsObject(Base):
    """An LFS object that some mirror refers to, and whether its verified bytes are here."""

    __tablename__ = "lfs_objects"

    oid: Mapped[LfsOid] = mapped_column(primary_key=True)
    present: Mapped[bool]

    __table_args__ = ({"sqlite_with_rowid": False},)


class MirrorLfs(Base):
    """One mirror's reference to one LFS object, and the attempts to fetch it."""

    __tablename__ = "mirror_lfs"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    oid: Mapped[LfsOid] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[int] = mapped_column(SmallInteger)
    rank: Mapped[int] = mapped_column(SmallInteger)
    """Whom it is for, the smaller first: see :data:`mirror_sync.domain.runs.HISTORY_RANK`."""
    attempts: Mapped[int]
    retry_at: Mapped[float]
    leased_until: Mapped[float]
    leased_by: Mapped[str]
    code: Mapped[str]
    message: Mapped[str]
    ready_at: Mapped[float] = mapped_column(
        Computed("CASE WHEN retry_at >= leased_until THEN retry_at ELSE leased_until END", persisted=True)
    )

    __table_args__: Any = (
        Index("ix_mirror_lfs_oid", "oid"),
        Index(
            "ix_mirror_lfs_missing",
            "mirror_id",
            "oid",
            sqlite_where=text("status <> 0"),
            postgresql_where=text("status <> 0"),
        ),
        Index(
            "ix_mirror_lfs_ready",
            "mirror_id",
            "status",
            "ready_at",
            sqlite_where=text("status <> 0"),
            postgresql_where=text("status <> 0"),
        ),
        Index(
            "ix_mirror_lfs_order",
            "mirror_id",
            "status",
            "rank",
            "size",
            sqlite_where=text("status <> 0"),
            postgresql_where=text("status <> 0"),
        ),
        {"sqlite_with_rowid": False},
    )


class LfsAsked(Base):
    """An LFS object that clients wait for, or that could not be had for them a moment ago."""

    __tablename__ = "lfs_asked"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    oid: Mapped[LfsOid] = mapped_column(primary_key=True)
    asked_at: Mapped[float]
    asked_until: Mapped[float]
    failed_until: Mapped[float]
    code: Mapped[str]
    message: Mapped[str]

    __table_args__ = ({"sqlite_with_rowid": False},)


class DeliveryRow(Base):
    """One webhook delivery; its sender's id makes it unique."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    provider: Mapped[str]
    delivery_id: Mapped[str]
    event: Mapped[str]
    action: Mapped[str]
    received_at: Mapped[float]
    repository_id: Mapped[str]
    clone_url: Mapped[str]
    refs: Mapped[str]
    deleted_refs: Mapped[str]

    __table_args__ = (
        UniqueConstraint("provider", "delivery_id"),
        Index("ix_deliveries_received", "received_at"),
        {"sqlite_autoincrement": True},
    )


class SignedDeletion(Base):
    """A ref that a signed event said was deleted, until the next publish."""

    __tablename__ = "signed_deletions"

    mirror_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    ref: Mapped[RefName] = mapped_column(primary_key=True)
    received_at: Mapped[float]


class Host(Base):
    """A host that asked us to wait."""

    __tablename__ = "hosts"

    host: Mapped[str] = mapped_column(primary_key=True)
    blocked_until: Mapped[float]


class Worker(Base):
    """A worker's latest sign of life."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    beat_at: Mapped[float]


class Count(Base):
    """A count that only grows."""

    __tablename__ = "counters"

    metric: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class CloneTokenRow(Base):
    """A clone token: its digest, never itself.  Rows of revoked and expired ones stay, for whoever reads old logs."""

    __tablename__ = "clone_tokens"

    id: Mapped[int] = mapped_column(Number, primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    globs: Mapped[str]
    """JSON, a list of texts."""
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    note: Mapped[str]

    __table_args__ = ({"sqlite_autoincrement": True},)  # a number in an old log never means a later token


def table(model: type[Base]) -> Table:
    """Return the table of a model, for Core statements."""
    return cast("Table", model.__table__)
