"""The first schema."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: None = None
depends_on: None = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SORTED_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("metric", "label", name="pk_counters"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("repository_id", sa.Text(), nullable=False),
        sa.Column("clone_url", sa.Text(), nullable=False),
        sa.Column("refs", sa.Text(), nullable=False),
        sa.Column("deleted_refs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("provider", "delivery_id", name="uq_deliveries_provider_delivery_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_received", "deliveries", ["received_at"])
    op.create_table(
        "hosts",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("blocked_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_hosts"),
    )
    op.create_table(
        "intents",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("view", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("observed_at", sa.Double(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("ref_count", sa.Integer(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("changes", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("mirror_id", name="pk_intents"),
    )
    op.create_table(
        "kept_tips",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("ref", sa.LargeBinary(), nullable=False),
        sa.Column("oid", sa.LargeBinary(), nullable=False),
        sa.Column("kept_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("view", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_kept_tips"),
        sa.UniqueConstraint("mirror_id", "run_id", "ref", "oid", name="uq_kept_tips_mirror_id_run_id_ref_oid"),
    )
    op.create_index("ix_kept_tips_expires", "kept_tips", ["expires_at", "mirror_id"])
    op.create_table(
        "lfs_objects",
        sa.Column("oid", sa.LargeBinary(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("oid", name="pk_lfs_objects"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "mirror_lfs",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("oid", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.Double(), nullable=False),
        sa.Column("leased_until", sa.Double(), nullable=False),
        sa.Column("leased_by", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column(
            "ready_at",
            sa.Double(),
            sa.Computed("CASE WHEN retry_at >= leased_until THEN retry_at ELSE leased_until END", persisted=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("mirror_id", "oid", name="pk_mirror_lfs"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_mirror_lfs_missing",
        "mirror_lfs",
        ["mirror_id", "oid"],
        sqlite_where=sa.text("status <> 0"),
        postgresql_where=sa.text("status <> 0"),
    )
    op.create_index("ix_mirror_lfs_oid", "mirror_lfs", ["oid"])
    op.create_index(
        "ix_mirror_lfs_ready",
        "mirror_lfs",
        ["mirror_id", "status", "ready_at"],
        sqlite_where=sa.text("status <> 0"),
        postgresql_where=sa.text("status <> 0"),
    )
    op.create_table(
        "mirrors",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("name", SORTED_TEXT, nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("host_key", sa.Text(), nullable=False),
        sa.Column("repository_key", sa.Text(), nullable=False),
        sa.Column("repository_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("interval_seconds", sa.Double(), nullable=False),
        sa.Column("objective_seconds", sa.Double(), nullable=False),
        sa.Column("object_format", sa.Text(), nullable=False),
        sa.Column("availability", sa.Text(), nullable=False),
        sa.Column("availability_since", sa.Double(), nullable=False),
        sa.Column("absent_answers", sa.Integer(), nullable=False),
        sa.Column("paused_at", sa.Double(), nullable=True),
        sa.Column("paused_reason", sa.Text(), nullable=False),
        sa.Column("removing_at", sa.Double(), nullable=True),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("urgency", sa.SmallInteger(), nullable=False),
        sa.Column("pending_at", sa.Double(), nullable=True),
        sa.Column("pending_urgency", sa.SmallInteger(), nullable=True),
        sa.Column("evidence_first", sa.Double(), nullable=True),
        sa.Column("evidence_last", sa.Double(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_purpose", sa.Text(), nullable=False),
        sa.Column("leased_by", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("chore_after", sa.Double(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("run_started_at", sa.Double(), nullable=True),
        sa.Column("run_step", sa.Text(), nullable=False),
        sa.Column("run_detail", sa.Text(), nullable=False),
        sa.Column("observed_at", sa.Double(), nullable=True),
        sa.Column("confirmed_at", sa.Double(), nullable=True),
        sa.Column("confirmed_digest", sa.Text(), nullable=False),
        sa.Column("known_behind_since", sa.Double(), nullable=True),
        sa.Column("published_at", sa.Double(), nullable=True),
        sa.Column("view", sa.Integer(), nullable=False),
        sa.Column("ref_count", sa.Integer(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("journaled", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("unchanged_polls", sa.Integer(), nullable=False),
        sa.Column("unchanged_runs", sa.BigInteger(), nullable=False),
        sa.Column("last_outcome", sa.Text(), nullable=False),
        sa.Column("last_code", sa.Text(), nullable=False),
        sa.Column("last_message", sa.Text(), nullable=False),
        sa.Column("last_started_at", sa.Double(), nullable=False),
        sa.Column("last_finished_at", sa.Double(), nullable=False),
        sa.Column("last_urgency", sa.SmallInteger(), nullable=False),
        sa.Column("guard_fingerprint", sa.Text(), nullable=False),
        sa.Column("guard_polls", sa.Integer(), nullable=False),
        sa.Column("guard_counted_at", sa.Double(), nullable=False),
        sa.Column("guard_released", sa.Text(), nullable=False),
        sa.Column("holds", sa.Text(), nullable=False),
        sa.Column("held_refs", sa.Integer(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("lfs_wanted", sa.BigInteger(), nullable=False),
        sa.Column("lfs_present", sa.BigInteger(), nullable=False),
        sa.Column("lfs_known_missing", sa.BigInteger(), nullable=False),
        sa.Column("lfs_wanted_bytes", sa.BigInteger(), nullable=False),
        sa.Column("lfs_present_bytes", sa.BigInteger(), nullable=False),
        sa.Column("lfs_due_at", sa.Double(), nullable=True),
        sa.Column("git_bytes", sa.BigInteger(), nullable=False),
        sa.Column("maintained_at", sa.Double(), nullable=True),
        sa.Column("publishes_since_maintenance", sa.Integer(), nullable=False),
        sa.Column(
            "ready_at",
            sa.Double(),
            sa.Computed(
                "CASE WHEN paused_at IS NULL AND removing_at IS NULL THEN CASE WHEN due_at >= lease_until THEN due_at ELSE lease_until END END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column(
            "lfs_ready_at",
            sa.Double(),
            sa.Computed("CASE WHEN paused_at IS NULL AND removing_at IS NULL THEN lfs_due_at END", persisted=True),
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("id", name="pk_mirrors"),
        sa.UniqueConstraint("name", name="uq_mirrors_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_mirrors_lfs_ready", "mirrors", ["lfs_ready_at"])
    op.create_index("ix_mirrors_maintenance", "mirrors", ["publishes_since_maintenance"])
    op.create_index("ix_mirrors_ready", "mirrors", ["urgency", "ready_at"])
    op.create_index("ix_mirrors_removal", "mirrors", ["removing_at"])
    op.create_index("ix_mirrors_repository_id", "mirrors", ["repository_id"])
    op.create_index("ix_mirrors_repository_key", "mirrors", ["repository_key"])
    op.create_table(
        "pointers",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.Column("oid", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("mirror_id", "blob", name="pk_pointers"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ref_journal",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=True),
        sa.Column("entries", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("mirror_id", "first", name="pk_ref_journal"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "runs",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("mirror_id", sa.BigInteger(), nullable=False),
        sa.Column("urgency", sa.SmallInteger(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("ref_updates", sa.Integer(), nullable=False),
        sa.Column("fetched_bytes", sa.BigInteger(), nullable=False),
        sa.Column("lfs_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_runs_finished", "runs", ["finished_at"])
    op.create_index("ix_runs_mirror", "runs", ["mirror_id", "id"])
    op.create_table(
        "scanned_tips",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tips", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("mirror_id", name="pk_scanned_tips"),
    )
    op.create_table(
        "signed_deletions",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ref", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("mirror_id", "ref", name="pk_signed_deletions"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("beat_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )

    meta = sa.table("meta", sa.column("key", sa.Text()), sa.column("value", sa.Text()))
    op.bulk_insert(meta, [{"key": "identity", "value": uuid.uuid4().hex}])


def downgrade() -> None:
    for table in (
        "workers",
        "signed_deletions",
        "scanned_tips",
        "runs",
        "ref_journal",
        "pointers",
        "mirrors",
        "mirror_lfs",
        "meta",
        "lfs_objects",
        "kept_tips",
        "intents",
        "hosts",
        "deliveries",
        "counters",
    ):
        op.drop_table(table)
