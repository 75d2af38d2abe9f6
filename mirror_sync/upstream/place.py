"""One repository as seen from here: its address, the rules on the way to it, and its own credential."""

from __future__ import annotations

from dataclasses import dataclass

from mirror_sync.domain.budget import Urgency
from mirror_sync.domain.names import UpstreamUrl
from mirror_sync.upstream.access import Access, Rules
from mirror_sync.upstream.connections import Connections


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mirror's upstream is, and how everything it leads to may be reached."""

    url: UpstreamUrl
    access: Access
    rule: Rules
    connections: Connections
    lfs_server: str = ""
    """The address of the LFS server where it is not the one that follows from ``url``."""

    urgency: Urgency = Urgency.UPDATE
    """Who waits for what is transferred."""

    def authorization(self, base: UpstreamUrl) -> dict[str, str]:
        """Return the credential's header for requests to the upstream itself, at ``base``: same host, never less safe."""
        safe = base.scheme == "https" or base.origin == self.url.origin
        if base.host != self.url.host or not safe:
            return {}
        credential = self.access.credential()
        return {"Authorization": credential} if credential else {}

    def has_credential(self) -> bool:
        """Tell whether a credential is sent to the upstream."""
        return bool(self.access.credential())
