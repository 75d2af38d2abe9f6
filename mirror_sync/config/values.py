"""The configuration as frozen, plain values: seconds as ``float``, sizes in bytes, paths absolute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from mirror_sync.config.environment import environment_proxy
from mirror_sync.config.secrets import SecretFile
from mirror_sync.domain.budget import Cap, LinkRules
from mirror_sync.domain.names import MirrorName, UpstreamUrl, parse_upstream_url
from mirror_sync.domain.readers import Networks, Visibilities
from mirror_sync.domain.runs import Visibility
from mirror_sync.domain.selection import Selection
from mirror_sync.errors import ConfigError

Forced = Literal["follow-and-keep", "hold"]
KnownMissing = Literal["hold", "publish"]
Unknown = Literal["explain", "redirect", "add-on-demand"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the web listens and what it calls itself."""

    listen_host: str = "127.0.0.1"
    listen_port: int = 8080
    public_url: str = ""
    """Without a trailing slash; empty when the address a client used is as good as any."""
    trusted_proxies: int = 0
    accel_redirect: str = ""
    """The internal location under which the proxy in front has the LFS objects; begins and ends with a slash."""
    """How many proxies in front may be believed about the client's address."""

    @property
    def listen(self) -> str:
        """``host:port``, IPv6 in brackets."""
        host = f"[{self.listen_host}]" if ":" in self.listen_host else self.listen_host
        return f"{host}:{self.listen_port}"

    @property
    def local_url(self) -> str:
        """The URL by which this machine reaches the web: a wildcard address becomes loopback."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}.get(self.listen_host, self.listen_host)  # noqa: S104 - recognised, not bound
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{self.listen_port}"

    @property
    def base_url(self) -> str:
        """The URL to print for people: the public one when there is one."""
        return self.public_url or self.local_url


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where the state is kept: an absolute path (SQLite) or a ``postgresql://`` URL without password."""

    url: str = "/var/lib/mirror-sync/state.db"
    password_file: SecretFile | None = None

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file, or ``None`` for Postgres."""
        return None if "://" in self.url else Path(self.url)


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Where bytes are kept and how much room is left alone."""

    git_dir: Path = Path("/var/lib/mirror-sync/git")
    lfs_dir: Path = Path("/var/lib/mirror-sync/lfs")
    run_dir: Path = Path("/run/mirror-sync")
    reserve_bytes: int | None = None
    """``None``: the smaller of 100 GiB and 5 % of the file system."""
    orphan_grace: float = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How much the worker does at once."""

    git: int = 8
    lfs: int = 32
    drain_timeout: float = 60.0
    lease_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class GitSettings:
    """What is fetched from upstream and how forced updates are taken."""

    stall_timeout: float = 300.0
    refs: tuple[str, ...] = ("refs/heads/*", "refs/tags/*", "refs/notes/*")
    forced: Forced = "follow-and-keep"
    keep_forced: float = 90 * 86400.0
    relaxed: tuple[str, ...] = ()
    """Further fsck message ids that are let pass, beyond the benign ones."""
    max_pack_bytes: int | None = None
    max_memory_bytes: int | None = None
    """``None``: half of the machine's; 0: no bound."""


@dataclass(frozen=True, slots=True)
class LfsSettings:
    """Whether LFS objects are mirrored and what a missing one means."""

    enabled: bool = True
    known_missing: KnownMissing = "hold"
    max_object_bytes: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    recent: float | None = None
    """``None``: all of history."""
    pull_through: bool = True
    """Whether an LFS object that a client asks for before its turn is fetched for it at once."""


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """How often upstream is asked."""

    interval: float = 1800.0
    objective: float = 7200.0
    jitter: float = 0.1
    """A share of the interval, either way."""
    backoff_max: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How fast bytes are fetched from all hosts together, and what fills may use while updates want some."""

    cap: Cap = field(default_factory=Cap)
    fill_share: float = 0.8


@dataclass(frozen=True, slots=True)
class UpstreamRule:
    """How one upstream host is reached.  ``host`` carries the port when it is not the scheme's own."""

    host: str
    allow_http: bool = False
    allow_private: bool = False
    token: SecretFile | None = None
    username: str = "x-access-token"
    """Sent with the token; most forges take any."""
    proxy: str = field(default="", repr=False)
    """Empty: no proxy.  The environment's proxy is filled in already."""
    ca_file: Path | None = None
    concurrency: int = 32
    raw_url: str = ""
    """Where single files of a commit are: a URL with ``{path}``, ``{commit}`` and ``{file}``, ``none``, or empty."""
    accelerators: tuple[str, ...] = ()
    """Nearer places of its repositories: URLs with ``{path}`` and perhaps ``{host}``."""
    cap: Cap = field(default_factory=Cap)
    unknown: Unknown = "explain"
    """What clients get that ask for a repository which is not mirrored here."""
    on_demand: tuple[str, ...] = ()
    on_demand_class: str = ""
    on_demand_hourly: int = 10
    on_demand_wait: float = 30.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which LFS objects a class or a mirror keeps; ``None`` leaves what is more general in force, 0 lifts a limit."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    max_object: int | None = None
    recent: float | None = None

    def over(self, general: Selection) -> Selection:
        """Return the selection with what this one says put in the place of what ``general`` says."""
        return Selection(
            include=general.include if self.include is None else self.include,
            exclude=general.exclude if self.exclude is None else self.exclude,
            max_object=general.max_object if self.max_object is None else self.max_object or None,
            recent=general.recent if self.recent is None else self.recent or None,
        )


@dataclass(frozen=True, slots=True)
class ClassSettings:
    """What mirrors of one class have in common; ``None`` leaves the general setting in force."""

    interval: float | None = None
    objective: float | None = None
    known_missing: KnownMissing | None = None
    chosen: Chosen = field(default_factory=Chosen)
    visibility: Visibility | None = None
    max_pack: int | None = None
    """0 lifts the limit."""


@dataclass(frozen=True, slots=True)
class MirrorDeclaration:
    """A mirror that the configuration wants; ``None`` leaves the general setting in force."""

    name: MirrorName
    url: str
    interval: float | None = None
    objective: float | None = None
    known_missing: KnownMissing | None = None
    relaxed: tuple[str, ...] = ()
    forced: Forced | None = None
    accelerators: tuple[str, ...] = ()
    """Nearer places of the same repository."""
    class_name: str = ""
    chosen: Chosen = field(default_factory=Chosen)
    visibility: Visibility | None = None


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Who may tell us of changes."""

    secret_files: tuple[SecretFile, ...] = ()
    max_body: int = 25 * 1024 * 1024
    keep_deliveries: float = 90 * 86400.0

    def secrets(self) -> tuple[tuple[str, bytes], ...]:
        """Return ``(label, secret)`` of each secret accepted now, read afresh; empty when none is configured.

        Labels are ``current`` and ``previous``.

        Raises :class:`ConfigError` when one cannot be read.
        """
        return tuple((secret.label, secret.read().encode()) for secret in self.secret_files)


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may read."""

    visibility: Visibility = Visibility.PUBLIC
    conceal: bool = False
    """Whether names that are not mirrored here are answered like those that want credentials."""
    networks: Networks = field(default_factory=Networks)
    token_ttl: float | None = 90 * 86400.0
    check_ttl: float = 300.0
    refusal_ttl: float = 30.0
    link_ttl: float = 3600.0
    link_key_file: Path | None = None
    """``None``: beside the directory of the Git repositories."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How many clients are served at once, and how they share what there is."""

    max_streams: int = 256
    max_packs: int = 4
    """Packs computed at the same time; others wait."""
    max_packs_per_mirror: int = 3
    max_packs_per_client: int = 3
    max_wait: float = 600.0
    """How long a fetch waits for its turn, in seconds."""
    stale_notice: bool = True
    threads: int = 64


@dataclass(frozen=True, slots=True)
class HuggingFaceSettings:
    """Which mirrors answer Hugging Face clients."""

    hosts: tuple[str, ...] = ("huggingface.co",)
    """Asked in this order for ``ORG/NAME``."""


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """What a scrape sees."""

    per_mirror: bool = False


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the log looks."""

    format: Literal["auto", "json", "text", "journald"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True
    """Whether each request that the web answers is an event."""


@dataclass(frozen=True, slots=True)
class UiSettings:
    """What the status page says of itself."""

    language: Literal["auto", "en", "zh"] = "auto"
    title: str = "mirror-sync"
    contact: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration, read once."""

    path: Path | None = None
    server: ServerSettings = field(default_factory=ServerSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    git: GitSettings = field(default_factory=GitSettings)
    lfs: LfsSettings = field(default_factory=LfsSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    upstreams: Mapping[str, UpstreamRule] = field(default_factory=dict)
    classes: Mapping[str, ClassSettings] = field(default_factory=dict)
    mirrors: tuple[MirrorDeclaration, ...] = ()
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    huggingface: HuggingFaceSettings = field(default_factory=HuggingFaceSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    ui: UiSettings = field(default_factory=UiSettings)
    removal_delay: float = 30 * 86400.0
    keep_runs: float = 90 * 86400.0
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment's proxy variables; they may hold a password."""
    written: Mapping[str, object] = field(default_factory=dict, repr=False)
    """Every key with its value as one would write it in TOML."""
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Every key with where its value came from: ``default``, ``config.toml:12``, ``environment`` or ``flag``."""

    def upstream_rule(self, host: str) -> UpstreamRule:
        """Return the rule for ``host`` (with its port when that is not the scheme's own); the default rule for others."""
        rule = self.upstreams.get(host.lower())
        if rule is not None:
            return rule
        return UpstreamRule(host=host.lower(), proxy=environment_proxy(host, self.proxies))

    def accelerators(self, name: MirrorName, url: UpstreamUrl) -> tuple[UpstreamUrl, ...]:
        """Return the nearer places of the mirror ``name`` of ``url``: its own first, then those of its host, never itself."""
        declared = self.declaration(name)
        templates = self.upstream_rule(url.netloc).accelerators
        found = dict.fromkeys(
            [
                *(parse_upstream_url(text) for text in (declared.accelerators if declared else ())),
                *(_nearer(template, url) for template in templates),
            ]
        )
        return tuple(place for place in found if place.name != url.name)

    def link_rules(self) -> LinkRules:
        """Return how fast transfers may be."""
        hosts = {host: rule.cap for host, rule in self.upstreams.items() if rule.cap.narrows}
        return LinkRules(self.link.cap, hosts, self.link.fill_share)

    def secret_files(self) -> tuple[SecretFile, ...]:
        """Return every secret that the configuration names."""
        tokens = (rule.token for rule in self.upstreams.values())
        return tuple(secret for secret in (self.database.password_file, *tokens, *self.webhooks.secret_files) if secret)

    def secret_values(self) -> Iterator[str]:
        """Yield every secret that can be read now, to be starred wherever text leaves the process."""
        for secret in self.secret_files():
            try:
                yield secret.read()
            except ConfigError:
                continue  # whoever uses it says so; what cannot be read cannot leak
        for proxy in (*self.proxies.values(), *(rule.proxy for rule in self.upstreams.values())):
            password = urlsplit(proxy).password if "@" in proxy else None
            if password:
                yield password

    def selection(self, name: MirrorName, class_name: str) -> Selection:
        """Return which LFS objects a mirror of this class keeps: its own word, else its class's, else the general one."""
        found = Selection(self.lfs.include, self.lfs.exclude, self.lfs.max_object_bytes, self.lfs.recent)
        shared, declared = self.classes.get(class_name), self.declaration(name)
        for own in (shared.chosen if shared else None, declared.chosen if declared else None):
            found = own.over(found) if own else found
        return found

    def visibilities(self) -> Visibilities:
        """Return what all of this says of who may read."""
        general = self.access.visibility
        return Visibilities(
            general,
            {name: shared.visibility or general for name, shared in self.classes.items()},
            {mirror.name: mirror.visibility for mirror in self.mirrors if mirror.visibility},
        )

    def link_keys(self) -> Path:
        """Return the file with the keys that sign links to LFS objects."""
        return self.access.link_key_file or self.storage.git_dir.parent / "link-keys"

    def schedule_of(self, class_name: str) -> tuple[float, float]:
        """Return interval and objective, in seconds, of mirrors that are added to this class."""
        shared = self.classes.get(class_name)
        every = (shared.interval if shared else None) or self.schedule.interval
        return every, (shared.objective if shared else None) or self.schedule.objective

    def max_pack(self, class_name: str) -> int | None:
        """Return the largest pack in bytes that a mirror of this class takes in one fetch; ``None`` is no limit."""
        shared = self.classes.get(class_name)
        own = shared.max_pack if shared else None
        return self.git.max_pack_bytes if own is None else own or None

    def known_missing(self, name: MirrorName, class_name: str) -> KnownMissing:
        """Return what a ref of this mirror does that needs an LFS object upstream itself lacks."""
        shared, declared = self.classes.get(class_name), self.declaration(name)
        return (
            (declared.known_missing if declared else None)
            or (shared.known_missing if shared else None)
            or self.lfs.known_missing
        )

    def declaration(self, name: MirrorName) -> MirrorDeclaration | None:
        """Return the ``[[mirror]]`` entry of this mirror, if there is one."""
        return next((mirror for mirror in self.mirrors if mirror.name == name), None)


def _nearer(template: str, url: UpstreamUrl) -> UpstreamUrl:
    """Return the place that a checked template gives for the repository at ``url``."""
    base = parse_upstream_url(template.replace("{host}", "h").replace("{path}", "a/b"))
    path = unquote("/" + template.partition("://")[2].partition("/")[2])
    repository = url.path.removesuffix(".git").lstrip("/")
    return base.with_path(path.replace("{host}", url.netloc).replace("{path}", repository).rstrip("/"))
