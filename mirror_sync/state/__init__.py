"""Intent and history in SQL: SQLite by default, Postgres by URL."""

from __future__ import annotations

from mirror_sync.state.asked import Asked
from mirror_sync.state.hooks import Hooks
from mirror_sync.state.lfs import Lfs
from mirror_sync.state.mirrors import Mirrors
from mirror_sync.state.notify import PostgresWaker
from mirror_sync.state.runs import Runs
from mirror_sync.state.schema import current_revision, head_revision, upgrade
from mirror_sync.state.tokens import Tokens
from mirror_sync.state.upkeep import Upkeep


class SqlState(Mirrors, Runs, Lfs, Asked, Hooks, Tokens, Upkeep):
    """The whole state of one installation; implements :class:`mirror_sync.ports.StateStore`."""


__all__ = ["PostgresWaker", "SqlState", "current_revision", "head_revision", "upgrade"]
