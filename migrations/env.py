"""Runs the migrations on the connection that :func:`mirror_sync.state.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from mirror_sync.state.models import Base


def run_on(connection: object) -> None:
    """Run what is asked inside the transaction that is open on ``connection``."""
    context.configure(
        connection=connection,  # type: ignore[arg-type] # handed over through an untyped dictionary
        target_metadata=Base.metadata,
        render_as_batch=True,
        transactional_ddl=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is None:
    message = "run migrations by: mirror-sync db upgrade"
    raise SystemExit(message)
run_on(handed_over)
