"""What the web asks of the App; ``bootstrap.App`` is it, and tests make small ones."""

from __future__ import annotations

from typing import Any, Protocol, cast

from flask import current_app

from mirror_sync.actions.readers import UpstreamsWord
from mirror_sync.actions.status import Overview, Why
from mirror_sync.config import Settings
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.readers import Audience
from mirror_sync.domain.runs import Delivery, Mirror
from mirror_sync.ports import Arrivals, Clock, MirrorFilter, ObjectStore, PublishedFiles, Serving, StateStore, Telemetry
from mirror_sync.telemetry import Metrics
from mirror_sync.web.limits import Limits


class App(Protocol):
    """The part of ``bootstrap.App`` that answers requests."""

    @property
    def settings(self) -> Settings:
        """The whole configuration."""

    @property
    def clock(self) -> Clock:
        """What time it is."""

    @property
    def state(self) -> StateStore:
        """Intent and history."""

    @property
    def serving(self) -> Serving:
        """The read side of the repositories."""

    @property
    def files(self) -> PublishedFiles:
        """Files of what is published."""

    @property
    def objects(self) -> ObjectStore:
        """LFS objects by oid."""

    @property
    def arrivals(self) -> Arrivals:
        """LFS objects on their way."""

    @property
    def telemetry(self) -> Telemetry:
        """Hears what happens."""

    @property
    def metrics(self) -> Metrics:
        """Counts."""

    def mirror_status(self, name: MirrorName) -> dict[str, Any]:
        """Return the public document of one mirror; raises ``NotFound``."""

    def list_status(self, which: MirrorFilter, *, cursor: str = "", limit: int = 100) -> dict[str, Any]:
        """Return ``{"items": [...], "next_cursor": str | None}``."""

    @property
    def upstreams_word(self) -> UpstreamsWord:
        """Whom upstreams let read."""

    def overview(self, *, audience: Audience | None = None) -> Overview:
        """Return the figures of the first page, of all mirrors, and the mirrors that may be named to an audience."""

    def why(self, name: MirrorName) -> Why:
        """Explain one mirror; raises ``NotFound``."""

    def ask_lfs(self, mirror: Mirror, oid: LfsOid, *, seconds: float) -> tuple[str, str] | None:
        """Note that a client waits for an LFS object for so many seconds more; return why it cannot be had, if so."""

    def may_add_on_demand(self, name: MirrorName) -> bool:
        """Tell whether a mirror of this name may be added because somebody asks for it."""

    def add_on_demand(self, name: MirrorName) -> Mirror:
        """Begin to keep a mirror that somebody asked for; raises what :meth:`actions.demand.OnDemand.add` does."""

    def accept_delivery(self, delivery: Delivery) -> bool:
        """Store a verified delivery durably; ``False`` when it was stored before."""


EXTENSION = "mirror_sync"
LIMITS = "mirror_sync_limits"


def backend() -> App:
    """Return the App of the request being answered."""
    return cast("App", current_app.extensions[EXTENSION])


def limits() -> Limits:
    """Return what bounds the requests of this process."""
    return cast("Limits", current_app.extensions[LIMITS])
