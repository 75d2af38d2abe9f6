"""From the parsed tree to settings, with the checks that take more than one key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mirror_sync.config import environment as env
from mirror_sync.config import schema, values
from mirror_sync.config.lines import KeyPath
from mirror_sync.config.secrets import CREDENTIAL_PREFIX, SecretFile, secret_fault
from mirror_sync.config.telling import Teller, dotted
from mirror_sync.config.tree import Tree
from mirror_sync.config.units import duration_text
from mirror_sync.domain.budget import Cap
from mirror_sync.domain.names import UpstreamUrl, parse_upstream_url
from mirror_sync.domain.readers import Networks
from mirror_sync.domain.runs import Visibility

CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}\Z")


@dataclass(slots=True)
class Maker:
    """Turns the parsed tree into settings and checks what takes more than one key."""

    tree: Tree
    teller: Teller
    path: Path | None
    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def settings(self) -> values.Settings:
        """Return the settings; they count only when ``problems`` is empty afterwards."""
        tree = self.tree
        listen_host, listen_port = tree.server.listen
        written = {
            (*table, key.name): self.teller.given((*table, key.name), key.default)
            for key in schema.listing()
            for table in tree.tables(key.section)
        }
        settings = values.Settings(
            path=self.path,
            server=values.ServerSettings(
                listen_host,
                listen_port,
                tree.server.public_url,
                tree.server.trusted_proxies,
                tree.server.accel_redirect,
            ),
            database=values.DatabaseSettings(
                self._database(), self._secret(("database", "password_file"), tree.database.password_file)
            ),
            storage=self._storage(),
            workers=values.WorkerSettings(
                tree.workers.git, tree.workers.lfs, tree.workers.drain_timeout, tree.workers.lease
            ),
            git=values.GitSettings(
                stall_timeout=tree.git.stall_timeout,
                refs=tree.git.refs,
                forced=tree.git.forced,
                keep_forced=tree.git.keep_forced,
                relaxed=tree.git.relaxed,
                max_pack_bytes=tree.git.max_pack,
                max_memory_bytes=tree.git.max_memory,
            ),
            lfs=values.LfsSettings(
                tree.lfs.enabled,
                tree.lfs.known_missing,
                tree.lfs.max_object,
                include=tree.lfs.include,
                exclude=tree.lfs.exclude,
                recent=tree.lfs.recent,
                pull_through=tree.lfs.pull_through,
            ),
            schedule=values.ScheduleSettings(
                tree.schedule.interval, tree.schedule.objective, tree.schedule.jitter, tree.schedule.backoff_max
            ),
            link=values.LinkSettings(Cap(tree.link.rate, tree.link.hours), tree.link.fill_share),
            upstreams={host.lower(): self._upstream(host) for host in tree.upstream},
            classes=self._classes(),
            mirrors=self._mirrors(),
            webhooks=self._webhooks(),
            access=self._access(),
            serve=values.ServeSettings(
                max_streams=tree.serve.max_streams,
                max_packs=tree.serve.max_packs,
                max_packs_per_mirror=tree.serve.max_packs_per_mirror,
                max_packs_per_client=tree.serve.max_packs_per_client,
                max_wait=tree.serve.max_wait,
                stale_notice=tree.serve.stale_notice,
                threads=tree.serve.threads,
            ),
            huggingface=values.HuggingFaceSettings(tree.huggingface.hosts),
            metrics=values.MetricsSettings(tree.metrics.per_mirror),
            log=values.LogSettings(tree.log.format, tree.log.level, tree.log.access),
            ui=values.UiSettings(tree.ui.language, tree.ui.title, tree.ui.contact),
            removal_delay=tree.storage.removal_delay,
            keep_runs=tree.log.keep_runs,
            proxies={name: self.environ[name] for name in env.PROXY_NAMES if self.environ.get(name)},
            written={dotted(path): value for path, value in written.items()},
            origins={dotted(path): self.teller.origin(path) for path in written},
        )
        self._check_schedule(("schedule",), tree.schedule.interval, tree.schedule.objective)
        self._check_schemes(settings)
        if tree.server.accel_redirect and not tree.server.trusted_proxies:
            self._complain(("server", "accel_redirect"), "needs a proxy in front: set trusted_proxies to at least 1")
        return settings

    def _complain(self, path: KeyPath, text: str) -> None:
        self.problems.append(self.teller.problem(path, text))

    def _located(self, text: str) -> Path:
        """Relative paths begin where the configuration file stands."""
        base = self.path.parent if self.path else Path.cwd()
        return base / Path(text).expanduser()

    def _database(self) -> str:
        url = self.tree.database.url
        return url if "://" in url else str(self._located(url))

    def _storage(self) -> values.StorageSettings:
        tree = self.tree.storage
        git_dir, lfs_dir = self._located(tree.git_dir), self._located(tree.lfs_dir)
        if git_dir == lfs_dir or git_dir in lfs_dir.parents or lfs_dir in git_dir.parents:
            self._complain(("storage", "lfs_dir"), "must lie outside storage.git_dir, and the other way round")
        return values.StorageSettings(git_dir, lfs_dir, self._located(tree.run_dir), tree.reserve, tree.orphan_grace)

    def _secret(self, path: KeyPath, text: str, *, label: str = "current") -> SecretFile | None:
        if not text:
            return None
        key = dotted(path)
        if text.startswith(CREDENTIAL_PREFIX):
            name = text.removeprefix(CREDENTIAL_PREFIX)
            if not CREDENTIAL_NAME.match(name) or name in (".", ".."):
                self._complain(path, 'a credential\'s name has letters, digits, "_", "-" and "."')
                return None
            directory = env.credentials_directory(self.environ)
            # Outside the service, where systemd gave no credentials, only a use is an error.
            return SecretFile(key, directory / name if directory else None, name, label)
        located = self._located(text)
        fault = secret_fault(located)
        if fault:
            # The value is not repeated: somebody may have put the secret itself here.
            remedy = "; chmod 600 it" if "mode" in fault else '; this key takes a path, or "credential:NAME"'
            self._complain(path, f"the file named here cannot hold a secret: {fault}{remedy}")
        return SecretFile(key, located, "", label)

    def _webhooks(self) -> values.WebhookSettings:
        tree = self.tree.webhooks
        found = (
            self._secret(("webhooks", "secret_file"), tree.secret_file),
            self._secret(("webhooks", "previous_secret_file"), tree.previous_secret_file, label="previous"),
        )
        return values.WebhookSettings(tuple(secret for secret in found if secret), tree.max_body, tree.keep_deliveries)

    def _access(self) -> values.AccessSettings:
        tree = self.tree.access
        return values.AccessSettings(
            visibility=Visibility(tree.visibility),
            conceal=tree.conceal,
            networks=Networks(tree.allow, tree.deny),
            token_ttl=tree.token_ttl,
            check_ttl=tree.check_ttl,
            refusal_ttl=tree.refusal_ttl,
            link_ttl=tree.link_ttl,
            link_key_file=self._located(tree.link_key_file) if tree.link_key_file else None,
        )

    def _upstream(self, host: str) -> values.UpstreamRule:
        rule = self.tree.upstream[host]
        path: KeyPath = ("upstream", host)
        self._check_on_demand(path, rule)
        ca_file = self._located(rule.ca_file) if rule.ca_file else None
        if ca_file is not None and not ca_file.is_file():
            self._complain((*path, "ca_file"), "there is no such file")
        if host.endswith(":443"):
            self._complain(path, "443 is the port of https itself; leave it out")
        proxy = rule.proxy
        if not proxy and not rule.allow_private:
            proxy = env.environment_proxy(host, self.environ)
        return values.UpstreamRule(
            host=host.lower(),
            allow_http=rule.allow_http,
            allow_private=rule.allow_private,
            token=self._secret((*path, "token_file"), rule.token_file),
            username=rule.username,
            proxy="" if proxy == "none" else proxy,
            ca_file=ca_file,
            concurrency=rule.concurrency,
            raw_url=rule.raw_url,
            accelerators=rule.accelerators,
            cap=Cap(rule.rate, rule.hours),
            unknown=rule.unknown,
            on_demand=rule.on_demand,
            on_demand_class=rule.on_demand_class,
            on_demand_hourly=rule.on_demand_hourly,
            on_demand_wait=rule.on_demand_wait,
        )

    def _check_on_demand(self, path: KeyPath, rule: schema.Upstream) -> None:
        if rule.unknown == "add-on-demand" and not rule.on_demand:
            self._complain(
                (*path, "unknown"), 'name the repositories that may be added: on_demand = ["acme/*"]; ["*"] means all'
            )
        if rule.on_demand_class and rule.on_demand_class not in self.tree.class_:
            there = ", ".join(self.tree.class_) or "none"
            self._complain((*path, "on_demand_class"), f"there is no such class; there are: {there}")

    def _classes(self) -> dict[str, values.ClassSettings]:
        for name, shared in self.tree.class_.items():
            if shared.interval or shared.objective:
                interval = shared.interval or self.tree.schedule.interval
                self._check_schedule(("class", name), interval, shared.objective or self.tree.schedule.objective)
        return {
            name: values.ClassSettings(
                shared.interval,
                shared.objective,
                shared.known_missing,
                values.Chosen(shared.include, shared.exclude, shared.max_object, shared.recent),
                Visibility(shared.visibility) if shared.visibility else None,
                max_pack=shared.max_pack,
            )
            for name, shared in self.tree.class_.items()
        }

    def _mirrors(self) -> tuple[values.MirrorDeclaration, ...]:
        seen: dict[str, int] = {}
        for index, mirror in enumerate(self.tree.mirror):
            name = parse_upstream_url(mirror.url).name
            first = seen.setdefault(name, index)
            if first != index:
                where = self.teller.at(("mirror", first, "url"))
                self._complain(("mirror", index, "url"), f"declared before, at {where}")
            shared = self.tree.class_.get(mirror.class_)
            if mirror.class_ and shared is None:
                there = ", ".join(self.tree.class_) or "none"
                self._complain(("mirror", index, "class"), f"there is no such class; there are: {there}")
            interval = mirror.interval or (shared and shared.interval) or self.tree.schedule.interval
            objective = mirror.objective or (shared and shared.objective) or self.tree.schedule.objective
            if mirror.interval or mirror.objective:
                self._check_schedule(("mirror", index), interval, objective)
        return tuple(
            values.MirrorDeclaration(
                parse_upstream_url(mirror.url).name,
                mirror.url,
                mirror.interval,
                mirror.objective,
                mirror.known_missing,
                mirror.relaxed,
                mirror.forced,
                mirror.accelerators,
                mirror.class_,
                values.Chosen(mirror.include, mirror.exclude, mirror.max_object, mirror.recent),
                Visibility(mirror.visibility) if mirror.visibility else None,
            )
            for mirror in self.tree.mirror
        )

    def _check_schedule(self, table: KeyPath, interval: float, objective: float) -> None:
        if objective >= 2 * interval:
            return
        given = [name for name in ("objective", "interval") if self.teller.winner((*table, name))]
        self._complain(
            (*table, given[0] if given else "objective"),
            f"the objective ({duration_text(objective)}) must be at least twice the interval ({duration_text(interval)})"
            f'; write objective = "{duration_text(2 * interval)}" or a shorter interval',
        )

    def _check_schemes(self, settings: values.Settings) -> None:
        for index, mirror in enumerate(settings.mirrors):
            url = parse_upstream_url(mirror.url)
            if url.scheme == "http" and not settings.upstream_rule(url.netloc).allow_http:
                self._complain(
                    ("mirror", index, "url"), f'plain http needs allow_http = true in [upstream."{url.netloc}"]'
                )
            for place in mirror.accelerators:
                near = parse_upstream_url(place)
                self._check_near(settings, ("mirror", index, "accelerators"), near)
                if near.name == url.name:
                    self._complain(("mirror", index, "accelerators"), f"{place} is the upstream itself")
        for host, rule in settings.upstreams.items():
            for template in rule.accelerators:
                near = parse_upstream_url(template.replace("{host}", "h.example").replace("{path}", "a/b"))
                self._check_near(settings, ("upstream", host, "accelerators"), near)

    def _check_near(self, settings: values.Settings, path: KeyPath, near: UpstreamUrl) -> None:
        if near.scheme == "http" and not settings.upstream_rule(near.netloc).allow_http:
            self._complain(path, f'plain http needs allow_http = true in [upstream."{near.netloc}"]')
