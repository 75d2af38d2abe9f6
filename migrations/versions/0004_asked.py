"""LFS objects that clients wait for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "lfs_asked",
        sa.Column("mirror_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("oid", sa.LargeBinary(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("asked_until", sa.Double(), nullable=False),
        sa.Column("failed_until", sa.Double(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("mirror_id", "oid", name=op.f("pk_lfs_asked")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("lfs_asked")
