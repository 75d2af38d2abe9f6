"""Who may read a mirror, whether upstream shows it to everybody, and clone tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: None = None
depends_on: None = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("mirrors", sa.Column("visibility", sa.Text(), nullable=False, server_default=""))
    op.add_column("mirrors", sa.Column("shown_upstream", sa.Boolean(), nullable=True))
    op.create_table(
        "clone_tokens",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("globs", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clone_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_clone_tokens_digest")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("clone_tokens")
    op.drop_column("mirrors", "shown_upstream")
    op.drop_column("mirrors", "visibility")
