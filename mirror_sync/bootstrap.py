"""You know everyone's name and decide nothing: the one place where adapters meet actions."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from mirror_sync import __version__
from mirror_sync.actions import asked, history, maintain, readers, reread, status, sweep, trigger
from mirror_sync.actions import enrol as enrolment
from mirror_sync.actions.budget import Budget
from mirror_sync.actions.clone import CloneWorld
from mirror_sync.actions.demand import Demand, OnDemand
from mirror_sync.actions.outcome import record_crash
from mirror_sync.actions.readers import UpstreamsWord
from mirror_sync.actions.sync import sync
from mirror_sync.actions.transfer import TransferLimits
from mirror_sync.actions.world import Policy, World, never
from mirror_sync.clock import SystemClock
from mirror_sync.config import SecretFile, Settings, UpstreamRule
from mirror_sync.config.environment import environment_proxy
from mirror_sync.domain.budget import LinkRules, Urgency
from mirror_sync.domain.names import LfsOid, MirrorName, UpstreamUrl, parse_repository_url, parse_upstream_url
from mirror_sync.domain.readers import Audience, CloneToken
from mirror_sync.domain.runs import Delivery, Lease, Mirror, RunReport, Trigger, Visibility
from mirror_sync.errors import MirrorSyncError, NotFound, StorageFailed, StorageForeign
from mirror_sync.ports import (
    Arrivals,
    CloneOrder,
    Credential,
    GitRepositories,
    GitRepository,
    Keep,
    MirrorFilter,
    ObjectStore,
    PublishedFiles,
    Serving,
    StateStore,
    Telemetry,
    Upstream,
    Waker,
)
from mirror_sync.threads import ThreadParallel

if TYPE_CHECKING:
    from mirror_sync.repos.worktree import GitCredentials, OwnersSettings
    from mirror_sync.telemetry import LoggingTelemetry, Metrics
    from mirror_sync.upstream import Access, Connections

STORAGE_MARK = "mirror-sync.json"
UNBOUNDED = 1 << 62

ASKING_SECONDS = 20.0
"""How long an upstream may be silent that is asked because a visitor waits."""


class App:
    """Everything one process may do, made from the configuration.

    Parts are made when first asked for, so that a command pays only for what it uses.
    """

    def __init__(self, settings: Settings, *, role: str) -> None:
        self.settings = settings
        self.role = role
        self.clock = SystemClock()
        self._lock = threading.RLock()

    # ------------------------------------------------------------ parts

    @cached_property
    def state(self) -> StateStore:
        """The database."""
        from mirror_sync.state import SqlState

        password = self.settings.database.password_file
        return SqlState(
            self.settings.database.url, clock=self.clock, password=password.read if password else lambda: None
        )

    @cached_property
    def waker(self) -> Waker:
        """What rouses the worker: NOTIFY on Postgres, a socket beside the database otherwise."""
        if self.settings.database.sqlite_path is None:
            from mirror_sync.state import PostgresWaker

            password = self.settings.database.password_file
            return PostgresWaker(self.settings.database.url, password=password.read if password else lambda: None)
        from mirror_sync.wake import LocalWaker

        return LocalWaker(self.settings.storage.run_dir / "worker.sock")

    @cached_property
    def repositories(self) -> GitRepositories:
        """The mirrors' repositories, for writing."""
        from mirror_sync.repos import Repositories

        storage = self.settings.storage
        return Repositories(
            storage.git_dir,
            clock=self.clock,
            reserve_bytes=storage.reserve_bytes,
            child_memory=self.settings.git.max_memory_bytes,
        )

    @cached_property
    def serving(self) -> Serving:
        """The mirrors' repositories, for clients."""
        from mirror_sync.repos.serving import GitServing

        serve = self.settings.serve
        return GitServing(
            self.settings.storage.git_dir,
            max_packs=serve.max_packs,
            per_mirror=serve.max_packs_per_mirror,
            per_client=serve.max_packs_per_client,
            wait_seconds=serve.max_wait,
            child_memory=self.settings.git.max_memory_bytes,
        )

    @cached_property
    def files(self) -> PublishedFiles:
        """Files of what is published, for clients."""
        from mirror_sync.repos.reading import GitFiles

        return GitFiles(self.settings.storage.git_dir, child_memory=self.settings.git.max_memory_bytes)

    @cached_property
    def objects(self) -> ObjectStore:
        """The LFS objects of all mirrors."""
        from mirror_sync.lfs_store import FileObjectStore

        storage = self.settings.storage
        return FileObjectStore(storage.lfs_dir, reserve_bytes=storage.reserve_bytes, clock=self.clock)

    @cached_property
    def arrivals(self) -> Arrivals:
        """The LFS objects that are on their way, for those who only read."""
        from mirror_sync.lfs_store import FileArrivals

        return FileArrivals(self.settings.storage.lfs_dir)

    @cached_property
    def in_hand(self) -> asked.InHand:
        """What this process is bringing for clients that wait."""
        return asked.InHand()

    @cached_property
    def parallel(self) -> ThreadParallel:
        """Threads for LFS transfers."""
        return ThreadParallel("transfer")

    @cached_property
    def budget(self) -> Budget:
        """The LFS connections that all transfers of this process share."""
        return Budget(
            self.settings.workers.lfs,
            clock=self.clock,
            per_host=lambda host: self.settings.upstream_rule(host).concurrency,
        )

    @cached_property
    def metrics(self) -> Metrics:
        """What a scrape sees."""
        from mirror_sync.telemetry import Metrics

        return Metrics(
            self.state,
            clock=self.clock,
            version=__version__,
            hosts=frozenset(self.settings.upstreams),
            shared=self.settings.storage.run_dir / "metrics",
            volumes={"git": lambda: _free_bytes(self.settings.storage.git_dir), "lfs": self.objects.free_bytes},
        )

    @cached_property
    def telemetry(self) -> LoggingTelemetry:
        """Logs and counts."""
        from mirror_sync.telemetry import LoggingTelemetry

        return LoggingTelemetry(self.metrics, clock=self.clock)

    @cached_property
    def connections(self) -> Connections:
        """Kept-alive connections to upstream hosts."""
        from mirror_sync.upstream import Connections

        return Connections(clock=self.clock, telemetry=self.telemetry, link=self.link_rules)

    @cached_property
    def upstreams_word(self) -> UpstreamsWord:
        """Whom upstreams let read their repositories."""
        access = self.settings.access
        return UpstreamsWord(
            self._show_to, clock=self.clock, yes_seconds=access.check_ttl, no_seconds=access.refusal_ttl
        )

    def _show_to(self, mirror: Mirror, credential: Credential) -> None:
        """Ask a mirror's upstream for its HEAD by somebody's own credential, which goes to that host alone.

        Raises what :meth:`mirror_sync.ports.Upstream.observe` does where it is not shown.
        """
        from mirror_sync.upstream import HttpUpstream

        url = parse_upstream_url(mirror.upstream)
        rule = self.access(url.netloc)
        theirs = replace(
            rule,
            username=credential.username or rule.username,
            token=lambda: credential.password,
            stall_timeout=ASKING_SECONDS,
        )
        HttpUpstream(
            url, rule=theirs, connections=self.connections, clock=self.clock, telemetry=self.telemetry
        ).observe(("HEAD",))

    def close(self) -> None:
        """Release what was made."""
        for name in ("waker", "connections", "metrics", "state"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ per mirror

    def upstream(self, mirror: Mirror, *, stop: threading.Event | None = None) -> Upstream:
        """Return the way to one mirror's upstream, on which nobody waits any more once ``stop`` is set."""
        return self._way(parse_upstream_url(mirror.upstream), urgency(mirror), stop=stop)

    def sources_behind(self, mirror: Mirror, *, awaited: bool, stop: threading.Event | None = None) -> list[Upstream]:
        """Return the upstream and nearer places for what is fetched outside a run, whether or not refs wait for it."""
        urgent = urgency(mirror) if awaited else Urgency.FILL
        url = parse_upstream_url(mirror.upstream)
        return [self._way(place, urgent, stop=stop) for place in (url, *self.settings.accelerators(mirror.name, url))]

    def accelerators(self, mirror: Mirror, *, stop: threading.Event | None = None) -> list[Upstream]:
        """Return the ways to nearer places of one mirror's repository, each by the rule of its own host."""
        places = self.settings.accelerators(mirror.name, parse_upstream_url(mirror.upstream))
        return [self._way(place, urgency(mirror), stop=stop) for place in places]

    def outside(self, mirror: Mirror) -> Upstream | None:
        """Return the way to a mirror's upstream as everybody has it; ``None`` where our own has no credential either."""
        url = parse_upstream_url(mirror.upstream)
        rule = self.access(url.netloc)
        return None if rule.token is None else self._way(url, Urgency.UPDATE, rule=replace(rule, token=None))

    def _way(
        self,
        url: UpstreamUrl,
        urgent: Urgency,
        *,
        rule: Access | None = None,
        stop: threading.Event | None = None,
    ) -> Upstream:
        from mirror_sync.upstream import HttpUpstream

        return HttpUpstream(
            url,
            rule=rule or self.access(url.netloc),
            rules=self.access,
            connections=self.connections,
            clock=self.clock,
            telemetry=self.telemetry,
            urgency=urgent,
            stop=stop,
        )

    def link_rules(self) -> LinkRules:
        """Return how fast transfers may be, by the configuration as it is now."""
        return self.settings.link_rules()

    def access(self, host: str) -> Access:
        """Return how ``host`` (with its port when unusual) may be reached."""
        from mirror_sync.upstream import Access

        rule: UpstreamRule = self.settings.upstream_rule(host)
        return Access(
            allow_http=rule.allow_http,
            allow_private=rule.allow_private,
            token=rule.token.read if rule.token else None,
            username=rule.username,
            proxy=rule.proxy,
            ca_file=str(rule.ca_file) if rule.ca_file else "",
            concurrency=rule.concurrency,
            stall_timeout=self.settings.git.stall_timeout,
            raw_url=rule.raw_url,
        )

    def policy(self, mirror: Mirror) -> Policy:
        """Return what the operator decided for one mirror."""
        settings = self.settings
        declared = settings.declaration(mirror.name)
        forced = (declared.forced if declared else None) or settings.git.forced
        missing = settings.known_missing(mirror.name, mirror.class_name)
        return Policy(
            patterns=settings.git.refs,
            hold_forced=forced == "hold",
            keep_forced=settings.git.keep_forced,
            relaxed=(*settings.git.relaxed, *(declared.relaxed if declared else ())),
            max_pack_bytes=settings.max_pack(mirror.class_name) or UNBOUNDED,
            lfs=settings.lfs.enabled,
            publish_known_missing=missing == "publish",
            selection=settings.selection(mirror.name, mirror.class_name),
            lfs_connections=settings.workers.lfs,
            public=settings.visibilities().of(mirror) is Visibility.PUBLIC,
            jitter=settings.schedule.jitter,
            backoff_max=settings.schedule.backoff_max,
        )

    def repository(self, lease: Lease) -> GitRepository:
        """Return the repository of a leased mirror."""
        return self.repositories.open(lease.mirror.name)

    # ------------------------------------------------------------ reading

    def mirror_status(self, name: MirrorName) -> status.Document:
        """Return one mirror's public document; raises :class:`mirror_sync.errors.NotFound`."""
        return status.mirror_document(self.state.mirror(name), self.clock.now(), self.settings.visibilities())

    def list_status(self, which: MirrorFilter, *, cursor: str = "", limit: int = 100) -> status.Document:
        """Return one page of mirrors: ``items`` and ``next_cursor`` (``None`` on the last)."""
        return status.listing(
            self.state, self.clock, which, cursor=cursor, limit=limit, rules=self.settings.visibilities()
        )

    def overview(self, *, audience: Audience | None = None) -> status.Overview:
        """Return the figures of the first page, of all mirrors, and the mirrors that may be named to an audience."""
        return status.overview(self.state, self.clock, rules=self.settings.visibilities(), audience=audience)

    def why(self, name: MirrorName) -> status.Why:
        """Explain one mirror."""
        return status.why(self.state, self.clock, name, self.settings.visibilities())

    # ------------------------------------------------------------ changing

    def enrol(
        self,
        url: str,
        *,
        interval: float | None = None,
        objective: float | None = None,
        class_name: str = "",
        visibility: Visibility | None = None,
    ) -> tuple[Mirror, bool]:
        """Begin to keep a mirror; ``False`` when it was kept already.  Raises :class:`UsageError` for an unknown class."""
        upstream = parse_upstream_url(url)
        enrolment.check_class(class_name, self.settings.classes)
        every, within = self.settings.schedule_of(class_name)
        every = interval if interval is not None else every
        mirror, made = enrolment.enrol(
            self.state,
            url,
            allow_http=self.settings.upstream_rule(upstream.netloc).allow_http,
            interval=every,
            objective=objective if objective is not None else max(within, 2 * every),
            class_name=class_name,
            visibility=visibility,
        )
        self.waker.poke()
        return mirror, made

    @cached_property
    def on_demand(self) -> OnDemand:
        """What adds mirrors that somebody asked for."""
        return OnDemand(
            shown=self._show_to_everybody,
            enrol=lambda url, class_name: self.enrol(str(url), class_name=class_name)[0],
            clock=self.clock,
        )

    def _show_to_everybody(self, url: UpstreamUrl) -> None:
        """Ask an upstream for its HEAD without credentials; raises what observing does where it is not shown."""
        from mirror_sync.upstream import HttpUpstream

        rule = replace(self.access(url.netloc), token=None, stall_timeout=ASKING_SECONDS)
        HttpUpstream(url, rule=rule, connections=self.connections, clock=self.clock, telemetry=self.telemetry).observe(
            ("HEAD",)
        )

    def _demand(self, name: MirrorName) -> Demand | None:
        rule = self.settings.upstreams.get(name.partition("/")[0])
        if rule is None or rule.unknown != "add-on-demand":
            return None
        scheme = "http" if rule.allow_http else "https"
        return Demand(rule.on_demand, rule.on_demand_hourly, scheme, rule.on_demand_class)

    def may_add_on_demand(self, name: MirrorName) -> bool:
        """Tell whether a mirror of this name may be added because somebody asks for it."""
        demand = self._demand(name)
        return demand is not None and self.on_demand.allows(name, demand)

    def add_on_demand(self, name: MirrorName) -> Mirror:
        """Begin to keep a mirror that somebody asked for; see :meth:`mirror_sync.actions.demand.OnDemand.add`."""
        demand = self._demand(name)
        if demand is None:
            raise NotFound(f"repositories of {name.partition('/')[0]} are not added on demand")
        return self.on_demand.add(name, demand)

    def declare_mirrors(self) -> None:
        """Enrol every mirror that the configuration names, and give it its schedule."""
        for declared in self.settings.mirrors:
            mirror, made = self.enrol(
                declared.url,
                interval=declared.interval,
                objective=declared.objective,
                class_name=declared.class_name,
                visibility=declared.visibility,
            )
            if declared.visibility is not None and declared.visibility is not mirror.visibility:
                self.state.set_visibility(mirror.id, declared.visibility)
            if declared.class_name:
                self.state.set_class(mirror.id, declared.class_name)
            every = declared.interval if declared.interval is not None else mirror.interval_seconds
            wanted = declared.objective if declared.objective is not None else max(mirror.objective_seconds, 2 * every)
            if not made and (every, wanted) != (mirror.interval_seconds, mirror.objective_seconds):
                self.state.set_schedule(mirror.id, interval_seconds=every, objective_seconds=wanted)
        enrolment.tell_of_lost_classes(self.state, self.settings.classes, self.telemetry)

    def lost_classes(self) -> Mapping[str, int]:
        """Return the classes that mirrors are of and the configuration does not have, with how many mirrors each."""
        return enrolment.lost_classes(self.state, self.settings.classes)

    def check_removable(self, names: Iterable[MirrorName]) -> None:
        """Raise :class:`Conflict` when the configuration would bring one of these mirrors back."""
        where = str(self.settings.path) if self.settings.path else "the environment"
        enrolment.check_not_declared(names, (declared.name for declared in self.settings.mirrors), where=where)

    def change(
        self,
        name: MirrorName,
        *,
        class_name: str | None = None,
        interval: float | None = None,
        objective: float | None = None,
        visibility: Visibility | Literal[""] | None = None,
    ) -> None:
        """Move a mirror to another class (the empty name: none), or change its schedule or its visibility.

        ``None`` leaves what is; the empty visibility gives it none of its own.  Raises
        :class:`UsageError` for a visibility that the configuration declares.
        """
        mirror = self.state.mirror(name)
        if visibility is not None:
            declared = self.settings.declaration(name)
            enrolment.check_visibility(name, declared.visibility if declared else None)
        every = interval if interval is not None else mirror.interval_seconds
        within = objective if objective is not None else max(mirror.objective_seconds, 2 * every)
        enrolment.check_schedule(every, within)
        if class_name is not None:
            enrolment.check_class(class_name, self.settings.classes)
        if visibility:  # before the class, which may be for more people than the old one
            self.state.set_visibility(mirror.id, visibility)
        if class_name is not None:
            self.state.set_class(mirror.id, class_name)
        if visibility == "":
            self.state.set_visibility(mirror.id, None)
        if visibility is not None:
            self.state.mark_due(mirror.id, Trigger.OPERATOR)
        self.state.set_schedule(mirror.id, interval_seconds=every, objective_seconds=within)
        self.waker.poke()

    def create_token(self, globs: Sequence[str], *, lasts: float | None, note: str) -> tuple[str, CloneToken]:
        """Make a clone token; return it, which is kept nowhere, and what is kept.  Raises :class:`UsageError`."""
        return readers.new_token(self.state, self.clock, globs=globs, lasts=lasts, note=note)

    def request_sync(self, name: MirrorName) -> float:
        """Make a mirror due now; return the moment (Unix seconds)."""
        return trigger.request_sync(self.state, self.waker, name)

    def pause(self, name: MirrorName, *, reason: str) -> None:
        """Stop syncing; serving goes on."""
        self.state.set_paused(self.state.mirror(name).id, reason=reason)

    def resume(self, name: MirrorName) -> None:
        """Sync again, at once."""
        self.state.set_paused(self.state.mirror(name).id, reason=None)
        self.waker.poke()

    def remove(self, name: MirrorName, *, keep_seconds: float | None = None) -> Mirror:
        """Stop keeping a mirror; its data goes after the delay."""
        delay = self.settings.removal_delay if keep_seconds is None else keep_seconds
        return enrolment.remove(self.state, self.clock, name, keep_seconds=delay)

    def release_guard(self, name: MirrorName) -> bool:
        """Let held deletions through; ``False`` when none is held."""
        mirror = self.state.mirror(name)
        released = self.state.release_guard(mirror.id)
        if released:
            trigger.request_sync(self.state, self.waker, name)
        return released

    def accept_delivery(self, delivery: Delivery) -> bool:
        """Store a verified delivery durably and wake the worker; ``False`` when it was stored before."""
        return trigger.accept_delivery(self.state, self.waker, delivery)

    def ask_lfs(self, mirror: Mirror, oid: LfsOid, *, seconds: float) -> tuple[str, str] | None:
        """Note that a client waits for an LFS object, and rouse the worker; return why it cannot be had, if so."""
        return trigger.ask_lfs(self.state, self.waker, mirror, oid, seconds=seconds)

    # ------------------------------------------------------------ worker

    def claim(self, worker: str) -> Lease | None:
        """Take the most urgent due mirror, if any."""
        return self.state.claim(worker, lease_seconds=self.settings.workers.lease_seconds)

    def sync(self, lease: Lease, *, stop: threading.Event, crowded: Callable[[], bool] = never) -> RunReport:
        """Run one whole sync and record how it ended; ``crowded`` tells whether other mirrors wait for its place."""
        upstream, near = self.upstream(lease.mirror, stop=stop), self.accelerators(lease.mirror, stop=stop)
        outside = self.outside(lease.mirror)
        world = World(
            state=self.state,
            repository=self.repository(lease),
            upstream=upstream,
            objects=self.objects,
            clock=self.clock,
            parallel=self.parallel,
            telemetry=self.telemetry,
            outside=outside,
            accelerators=near,
            crowded=crowded,
            budget=self.budget,
        )
        try:
            return sync(lease, world, self.policy(lease.mirror), stop=stop)
        finally:
            for source in (upstream, *near, *([outside] if outside is not None else ())):
                source.close()

    def record_crash(self, lease: Lease, error: Exception) -> None:
        """Record a run that ended by a fault of our own, so that it is seen and tried again."""
        record_crash(lease, error, state=self.state, clock=self.clock, telemetry=self.telemetry)

    def transfer_limits(self) -> TransferLimits:
        """Return how LFS objects may be fetched."""
        return TransferLimits(connections=self.settings.workers.lfs, budget=self.budget)

    def fetch_history(self, worker: str, *, small: bool, stop: threading.Event) -> int:
        """Fetch some LFS objects that no run is fetching, only ``small`` ones or any; return how many were tried."""
        if not self.settings.lfs.enabled:
            return 0
        return history.fetch_history(
            worker,
            state=self.state,
            open_sources=partial(self.sources_behind, stop=stop),
            objects=self.objects,
            parallel=self.parallel,
            clock=self.clock,
            telemetry=self.telemetry,
            limits=self.transfer_limits(),
            largest=history.SMALL_BYTES if small else None,
            stop=stop,
        )

    def fetch_asked(self, *, stop: threading.Event) -> int:
        """Fetch LFS objects that clients wait for; return how many were tried."""
        if not (self.settings.lfs.enabled and self.settings.lfs.pull_through):
            return 0
        return asked.fetch_asked(
            state=self.state,
            in_hand=self.in_hand,
            open_sources=partial(self.sources_behind, stop=stop),
            objects=self.objects,
            parallel=self.parallel,
            clock=self.clock,
            telemetry=self.telemetry,
            limits=self.transfer_limits(),
            stop=stop,
        )

    def maintain_one(self, worker: str, *, keep: Keep) -> bool:
        """Maintain one mirror that needs it, its lease kept meanwhile; ``False`` when none does."""
        return maintain.maintain_one(
            worker,
            state=self.state,
            open_repository=self.repository,
            clock=self.clock,
            telemetry=self.telemetry,
            keep=keep,
            lease_seconds=self.settings.workers.lease_seconds,
        )

    def remove_one(self, worker: str, *, keep: Keep) -> bool:
        """Delete one mirror whose time of removal has come; ``False`` when there is none."""
        return sweep.remove_one(
            worker,
            state=self.state,
            open_repository=self.repository,
            telemetry=self.telemetry,
            keep=keep,
            lease_seconds=self.settings.workers.lease_seconds,
        )

    def sweep(self, worker: str, *, keep: Keep, stop: threading.Event) -> None:
        """Drop expired kept tips, unreferenced LFS objects, stale incompletes and old records; read some objects again."""
        maintain.expire_kept(
            worker,
            state=self.state,
            open_repository=self.repository,
            clock=self.clock,
            telemetry=self.telemetry,
            keep=keep,
            lease_seconds=self.settings.workers.lease_seconds,
            stop=stop,
        )
        sweep.sweep_objects(
            state=self.state,
            objects=self.objects,
            clock=self.clock,
            telemetry=self.telemetry,
            grace=self.settings.storage.orphan_grace,
            stop=stop,
        )
        now = self.clock.now()
        self.state.prune(
            deliveries_before=now - self.settings.webhooks.keep_deliveries, runs_before=now - self.settings.keep_runs
        )
        reread.reread_objects(
            state=self.state, objects=self.objects, clock=self.clock, telemetry=self.telemetry, stop=stop
        )

    def recover_all(self) -> None:
        """Make the storage directories ours and durable, or refuse those of another host or database."""
        for directory in (self.settings.storage.git_dir, self.settings.storage.lfs_dir):
            claim_storage(directory, {"database": self.state.identity(), "host": host_identity()})
            sync_storage(directory)


def urgency(mirror: Mirror) -> Urgency:
    """Return who waits for what a mirror fetches: nobody yet before its first publish."""
    return Urgency.FILL if mirror.published_at is None else Urgency.UPDATE


def build(settings: Settings, *, role: str) -> App:
    """Return the App of one process; ``role`` is ``web``, ``worker`` or ``cli``."""
    return App(settings, role=role)


def clone_world(
    order: CloneOrder,
    directory: Path,
    *,
    environment: Mapping[str, str],
    telemetry: Telemetry,
    proxy: str = "",
    token_file: Path | None = None,
    ask: Callable[[str], Credential | None],
    stop: threading.Event,
) -> tuple[CloneWorld, Callable[[], None]]:
    """Return what a person's own clone needs, without configuration or database, and what releases it.

    The owner's git configuration and ``environment`` say how the host is reached, where
    ``proxy`` does not; ``ask`` is asked for a user name and a password for a host when
    neither ``token_file`` nor a credential helper knows one.  Nobody waits for a host any
    more once ``stop`` is set.
    """
    from mirror_sync.lfs_store import FileObjectStore
    from mirror_sync.repos.git import git_version
    from mirror_sync.repos.worktree import RESERVE_BYTES, CloneDirectory, GitCredentials, OwnersSettings
    from mirror_sync.upstream import Connections, HttpUpstream

    git_version()  # says it when there is none, or one that is too old
    clock = SystemClock()
    settings = OwnersSettings(environment)
    url = _rewritten(settings, order.url)
    place = CloneDirectory(directory, order, environment=environment, clock=clock)
    token = SecretFile("--token-file", token_file.expanduser().absolute()) if token_file is not None else None
    connections = Connections(clock=clock, telemetry=telemetry)
    roads = _Roads(url, settings, environment, proxy=proxy, token=token)

    def open_upstream(credential: Credential | None) -> Upstream:
        return HttpUpstream(
            url,
            rule=roads.to(url, credential),
            rules=roads.to_stranger,
            connections=connections,
            clock=clock,
            telemetry=telemetry,
            stop=stop,
        )

    def open_lfs(server: str, credential: Credential | None) -> Upstream | None:
        try:
            parts = urlsplit(server)
            address = parse_repository_url(f"{parts.scheme}://{parts.netloc}/lfs")
        except (MirrorSyncError, ValueError):
            return None
        rule = roads.to(address, credential) if address.netloc == url.netloc else roads.to_stranger(address.netloc)
        return HttpUpstream(
            address,
            rule=rule,
            rules=roads.to_stranger,
            connections=connections,
            clock=clock,
            telemetry=telemetry,
            stop=stop,
            lfs_server=server.rstrip("/"),
        )

    def open_objects() -> ObjectStore:
        return FileObjectStore(place.lfs_directory, reserve_bytes=RESERVE_BYTES, clock=clock)

    helper = GitCredentials(environment, scheme=url.scheme, netloc=url.netloc, path=url.path)
    world = CloneWorld(
        place=place,
        open_upstream=open_upstream,
        open_lfs=open_lfs,
        open_objects=open_objects,
        credentials=None if token is not None else _Keys(helper, lambda: ask(url.netloc)),
        clock=clock,
        parallel=ThreadParallel("transfer"),
        telemetry=telemetry,
    )
    return world, connections.close


def _rewritten(settings: OwnersSettings, url: str) -> UpstreamUrl:
    """Return where the owner's git would fetch ``url`` from, when that is a way that is spoken here."""
    try:
        return parse_repository_url(settings.rewritten(url))
    except MirrorSyncError:
        return parse_repository_url(url)


class _Keys:
    """Git's credential helpers, and behind them the person at the terminal."""

    def __init__(self, helper: GitCredentials, ask: Callable[[], Credential | None]) -> None:
        self._ask = ask
        self._helper = helper
        self.approve = helper.approve
        self.reject = helper.reject

    def fill(self) -> Credential | None:
        return self._helper.fill() or self._ask()


class _Roads:
    """How hosts are reached from a person's machine: the one named on the command line is trusted as typed."""

    def __init__(
        self,
        url: UpstreamUrl,
        settings: OwnersSettings,
        environment: Mapping[str, str],
        *,
        proxy: str,
        token: SecretFile | None,
    ) -> None:
        self._url = url
        self._settings = settings
        self._environment = environment
        self._proxy = proxy
        self._token = token

    def to(self, url: UpstreamUrl, credential: Credential | None) -> Access:
        from mirror_sync.upstream import Access

        plain = Access(
            allow_http=url.scheme == "http",
            allow_private=True,
            token=self._token.read if self._token is not None else None,
            proxy=self._way_out(url.netloc, str(url)),
            ca_file=self._settings.ca_file(str(url)),
        )
        if credential is None:
            return plain
        return replace(plain, username=credential.username, token=lambda: credential.password)

    def to_stranger(self, netloc: str) -> Access:
        from mirror_sync.upstream import Access

        if netloc == self._url.netloc:
            return replace(self.to(self._url, None), token=None)
        url = f"https://{netloc}/"
        return Access(proxy=self._way_out(netloc, url), ca_file=self._settings.ca_file(url))

    def _way_out(self, netloc: str, url: str) -> str:
        if self._proxy:
            return "" if self._proxy == "none" else self._proxy
        configured = self._settings.proxy(url)
        if configured:
            return configured if "://" in configured else f"http://{configured}"
        return environment_proxy(netloc, self._environment)


def upgrade_database(settings: Settings) -> str:
    """Bring the database to the schema of this version, make it when absent, and return the revision."""
    from mirror_sync.state import upgrade

    path = settings.database.sqlite_path
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    password = settings.database.password_file
    return upgrade(settings.database.url, password=password.read if password else lambda: None)


def configure_logs(settings: Settings, *, level: str = "", format: str = "") -> None:  # noqa: A002 - the key's own name
    """Send the log of this process where the configuration says, secrets starred."""
    from mirror_sync.telemetry import Scrubber, configure_logging

    scrubber = Scrubber(settings.secret_values, clock=SystemClock())
    configure_logging(level=level or settings.log.level, format=format or settings.log.format, scrubber=scrubber)


def check_host(settings: Settings, host: str) -> tuple[str, ...]:
    """Return the addresses of an upstream host (with its port when unusual), every one allowed by its rule.

    Behind a proxy, which resolves names itself, nothing is looked up and the result is
    empty.  Raises :class:`UpstreamUnavailable` when it does not resolve and
    :class:`AddressRefused` when it may not be reached.
    """
    from mirror_sync.upstream.addresses import Resolver

    rule = settings.upstream_rule(host)
    if rule.proxy:
        return ()
    url = parse_upstream_url(f"https://{host}/x")
    return Resolver(clock=SystemClock()).addresses(url.host, url.port, allow_private=rule.allow_private)


def host_identity() -> str:
    """Return what tells this host from others: systemd's machine id, else the host name."""
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or socket.gethostname()
    except OSError:
        return socket.gethostname()


def claim_storage(directory: Path, identity: Mapping[str, str]) -> None:
    """Mark a storage directory as this host's and this database's; durable when it returns.

    Raises :class:`StorageForeign` when it is another's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    mark = directory / STORAGE_MARK
    if mark.exists():
        found = json.loads(mark.read_text(encoding="utf-8"))
        for key, value in identity.items():
            if found.get(key) != value:
                raise StorageForeign(
                    f"{directory} belongs to another {key}",
                    why=f"its {STORAGE_MARK} names {found.get(key)!r}, this is {value!r}",
                    remedy=f"give this daemon a directory of its own; if the other is gone for good, delete {mark}",
                )
        return
    draft = mark.with_suffix(f".{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(dict(identity), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(mark)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_storage(directory: Path) -> None:
    """Make everything below a storage directory durable; raises :class:`StorageFailed`.

    A worker that was killed may have given names that it did not come to sync.  They are
    seen, so the next run relies on them, and a power cut would still take them.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(handle) != 0:
            raise StorageFailed(
                f"{directory} cannot be made durable",
                why=os.strerror(ctypes.get_errno()),
                remedy="check the disk and the kernel's log",
            )
    finally:
        os.close(handle)


def _free_bytes(directory: Path) -> int:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize
