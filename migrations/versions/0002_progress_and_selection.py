"""How far a mirror is, its class, and which LFS objects it leaves out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: None = None
depends_on: None = None

NOT_HERE = sa.text("status <> 0")


def upgrade() -> None:
    op.add_column("mirrors", sa.Column("progress", sa.Text(), nullable=True))
    op.add_column("mirrors", sa.Column("class", sa.Text(), nullable=False, server_default=""))
    op.add_column("mirrors", sa.Column("lfs_left_out", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("mirrors", sa.Column("lfs_left_out_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("mirrors", sa.Column("lfs_selection", sa.Text(), nullable=False, server_default=""))
    op.add_column("mirror_lfs", sa.Column("rank", sa.SmallInteger(), nullable=False, server_default="10000"))
    op.create_index(
        "ix_mirror_lfs_order",
        "mirror_lfs",
        ["mirror_id", "status", "rank", "size"],
        sqlite_where=NOT_HERE,
        postgresql_where=NOT_HERE,
    )


def downgrade() -> None:
    op.drop_index("ix_mirror_lfs_order", "mirror_lfs")
    op.execute("UPDATE mirror_lfs SET status = 1 WHERE status = 3")
    op.drop_column("mirror_lfs", "rank")
    for name in ("lfs_selection", "lfs_left_out_bytes", "lfs_left_out", "class", "progress"):
        op.drop_column("mirrors", name)
