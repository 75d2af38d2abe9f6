"""The front door: one mirror's upstream, spoken to over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mirror_sync.domain.budget import Urgency
from mirror_sync.domain.names import GitOid, RefName, UpstreamUrl
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import Observation
from mirror_sync.ports import (
    Abilities,
    BlobBody,
    Clock,
    FetchRequest,
    GitAccess,
    LfsAction,
    LfsAnswer,
    LfsBody,
    Telemetry,
)
from mirror_sync.upstream import fetch, lfs_batch, lfs_download, observe, raw, stock
from mirror_sync.upstream.access import Access, Rules, rules_for, stopped_by
from mirror_sync.upstream.connections import Connections
from mirror_sync.upstream.place import Place


class HttpUpstream:
    """One upstream repository and its LFS server; implements :class:`mirror_sync.ports.Upstream`.

    ``rule`` holds for the upstream's own host; ``rules`` answers for every other host
    that the LFS server leads to (without it: https, public, no credential).  Give all
    of them one ``connections``; without it this one has its own and closes them.
    ``urgency`` tells who waits for what is transferred, where the link is capped.  Once
    ``stop`` is set nothing more is asked, and whoever waits for an answer or its bytes
    hears :class:`UpstreamUnavailable` soon, whatever the stall time-out.
    """

    def __init__(
        self,
        url: UpstreamUrl,
        *,
        rule: Access,
        clock: Clock,
        telemetry: Telemetry,
        rules: Rules | None = None,
        connections: Connections | None = None,
        lfs_server: str = "",
        urgency: Urgency = Urgency.UPDATE,
        stop: threading.Event | None = None,
    ) -> None:
        if stop is not None:
            rule = replace(rule, stop=stop)
            rules = stopped_by(rules, stop) if rules is not None else None
        self._owned = Connections(clock=clock, telemetry=telemetry) if connections is None else None
        shared = connections if self._owned is None else self._owned
        assert shared is not None
        self._place = Place(url, rule, rules_for(url.netloc, rule, rules), shared, lfs_server, urgency)

    def observe(self, patterns: Sequence[str], *, known_digest: str = "") -> Observation | None:
        """Take a ref snapshot; see :meth:`mirror_sync.ports.Upstream.observe`."""
        return observe.observe(self._place, patterns, known_digest=known_digest)

    def fetch(self, request: FetchRequest) -> Iterator[bytes]:
        """Yield the bytes of one pack; see :meth:`mirror_sync.ports.Upstream.fetch`."""
        return fetch.fetch(self._place, request)

    @property
    def host(self) -> str:
        """The host, with its port when that is not the scheme's own."""
        return self._place.url.netloc

    def abilities(self) -> Abilities:
        """Return what the git server can do; see :meth:`mirror_sync.ports.Upstream.abilities`."""
        return fetch.abilities(self._place)

    def open_blob(self, commit: GitOid, path: bytes, *, start: int) -> BlobBody | None:
        """Ask for a file by itself; see :meth:`mirror_sync.ports.Upstream.open_blob`."""
        return raw.open_blob(self._place, commit, path, start=start)

    def git_access(self) -> GitAccess:
        """Return what stock git needs; see :meth:`mirror_sync.ports.Upstream.git_access`."""
        return stock.git_access(self._place)

    def batch(self, pointers: Sequence[Pointer], *, ref: RefName | None = None) -> list[LfsAnswer]:
        """Ask for download actions; see :meth:`mirror_sync.ports.Upstream.batch`."""
        return lfs_batch.batch(self._place, pointers, ref=ref)

    def open_object(self, pointer: Pointer, action: LfsAction, *, start: int, end: int) -> LfsBody:
        """Ask for a part of one object; see :meth:`mirror_sync.ports.Upstream.open_object`."""
        return lfs_download.open_object(self._place, pointer, action, start=start, end=end)

    def close(self) -> None:
        """Drop kept-alive connections that belong to this upstream alone; shared ones stay."""
        if self._owned is not None:
            self._owned.close()
