"""Clone tokens, by their digests."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import select, update

from mirror_sync.domain.names import printable
from mirror_sync.domain.readers import CloneToken, TokenId
from mirror_sync.errors import NotFound
from mirror_sync.state.database import AnyRow, Database
from mirror_sync.state.models import CloneTokenRow, table

tokens = table(CloneTokenRow)
t = tokens.c


class Tokens(Database):
    """The table of clone tokens."""

    def add_token(self, digest: str, *, globs: Sequence[str], expires_at: float | None, note: str) -> CloneToken:
        """Implement :meth:`mirror_sync.ports.StateStore.add_token`."""
        with self._write() as connection:
            now = connection.execute(select(self._now)).scalar_one()
            made = connection.execute(
                self._insert(tokens)
                .values(
                    digest=digest,
                    globs=json.dumps(list(globs)),
                    created_at=now,
                    expires_at=expires_at,
                    revoked_at=None,
                    note=printable(note),
                )
                .returning(*t)
            ).one()
        return _token_of(made)

    def token(self, digest: str) -> CloneToken | None:
        """Implement :meth:`mirror_sync.ports.StateStore.token`."""
        with self._read() as connection:
            row = connection.execute(select(tokens).where(t.digest == digest)).first()
        return None if row is None else _token_of(row)

    def tokens(self) -> list[CloneToken]:
        """Implement :meth:`mirror_sync.ports.StateStore.tokens`."""
        with self._read() as connection:
            return [_token_of(row) for row in connection.execute(select(tokens).order_by(t.id))]

    def revoke_token(self, token: TokenId) -> CloneToken:
        """Implement :meth:`mirror_sync.ports.StateStore.revoke_token`."""
        with self._write() as connection:
            connection.execute(update(tokens).where(t.id == token, t.revoked_at.is_(None)).values(revoked_at=self._now))
            row = connection.execute(select(tokens).where(t.id == token)).first()
        if row is None:
            raise NotFound(f"no clone token has the number {token}", remedy="mirror-sync token ls lists them")
        return _token_of(row)


def _token_of(row: AnyRow) -> CloneToken:
    return CloneToken(
        id=TokenId(row.id),
        globs=tuple(json.loads(row.globs)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        note=row.note,
    )
