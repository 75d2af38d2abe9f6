"""doctor: look at everything a mirror stands on, and say what to do about it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror_sync.cli import choosing, codes
from mirror_sync.cli.about import git_version
from mirror_sync.cli.look import workers_alive
from mirror_sync.cli.opening import settings_of, told
from mirror_sync.cli.options import Command, Globals
from mirror_sync.cli.output import Output, span
from mirror_sync.domain.figures import size_text
from mirror_sync.domain.names import parse_upstream_url
from mirror_sync.errors import ConfigError, MirrorSyncError
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.bootstrap import App
    from mirror_sync.config import Settings

LEAST_GIT = (2, 39)
FIXED_GIT = (2, 56, 1)
MAX_HOSTS = 30
CLOCK_SLACK_SECONDS = 60.0
COLORS = {"ok": "green", "info": "cyan", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.  ``level`` is ok, info, warn or fail."""

    level: str
    subject: str
    text: str
    remedy: str = ""


@click.command(cls=Command, examples=("mirror-sync doctor", "mirror-sync doctor --json"))
@click.pass_context
def doctor(context: click.Context) -> int:
    """Check machine, configuration, database, storage and upstream hosts.

    Exit status 1 when something fails; warnings alone leave it at 0.
    """
    out = Output(told(context))
    findings = []
    for finding in examine(told(context)):
        findings.append(finding)
        if not out.json:
            _print(out, finding)
    failed = any(finding.level == "fail" for finding in findings)
    if out.json:
        out.document({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    return codes.FAILED if failed else codes.DONE


def _print(out: Output, finding: Finding) -> None:
    if out.plain:
        out.line(f"{finding.level}\t{finding.subject}\t{finding.text}\t{finding.remedy}")
        return
    level = click.style(finding.level.ljust(4), fg=COLORS[finding.level])
    out.line(f"{level}  {finding.subject}: {finding.text}")
    if finding.remedy:
        out.line(f"      do: {finding.remedy}")


def examine(flags: Globals) -> Iterator[Finding]:
    """Yield what each check finds; nothing is changed."""
    yield from check_git(git_version())
    try:
        settings = settings_of(flags)
    except ConfigError as error:
        for problem in error.problems or (error.message,):
            yield Finding("fail", "configuration", problem, error.remedy)
        return
    yield Finding("ok", "configuration", str(settings.path) if settings.path else "from the environment alone")
    yield from check_modes(settings)
    yield from check_secrets(settings)
    yield from check_storage(settings)
    yield from check_addresses(settings)
    yield from check_port(settings)
    yield from _check_app(settings)


def check_git(version: str) -> Iterator[Finding]:
    """Judge the git on PATH."""
    if not version:
        yield Finding("fail", "git", "not found on PATH", "install git 2.39 or newer")
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers < LEAST_GIT:
        yield Finding("fail", "git", f"{version} is too old", "install git 2.39 or newer")
        return
    yield Finding("ok", "git", version)
    if numbers < FIXED_GIT:
        yield Finding(
            "info", "git", f"{version} is older than 2.56.1, the first with all fixes known to this version",
            "nothing if your distribution backports security fixes",
        )  # fmt: skip


def check_modes(settings: Settings) -> Iterator[Finding]:
    """Judge who may write the configuration."""
    if settings.path is None:
        return
    extra = settings.path.parent / "config.d"
    for path in (settings.path, settings.path.parent, *(sorted(extra.glob("*.toml")) if extra.is_dir() else ())):
        mode = path.stat().st_mode
        sticky = path.is_dir() and mode & stat.S_ISVTX
        if mode & stat.S_IWOTH and not sticky:
            yield Finding("fail", "configuration", f"everybody may write {path}", f"chmod o-w {path}")


def check_secrets(settings: Settings) -> Iterator[Finding]:
    """Read every secret once, and forget it."""
    for secret in settings.secret_files():
        try:
            secret.read()
        except ConfigError as error:
            outside = secret.credential and secret.path is None
            text = f"{secret.key}: {error.message}" if secret.key not in error.message else error.message
            yield Finding("info" if outside else "fail", "secret", text, "" if outside else error.remedy)
        else:
            yield Finding("ok", "secret", f"{secret.key} can be read from {secret.where()}")
    if not settings.webhooks.secret_files:
        yield Finding(
            "info", "webhooks", "no secret is set, so deliveries are refused and changes are found by polling",
            "set webhooks.secret_file",
        )  # fmt: skip


def check_storage(settings: Settings) -> Iterator[Finding]:
    """Judge the directories: writable, and with room above the reserve."""
    storage = settings.storage
    for key, path in (
        ("storage.git_dir", storage.git_dir),
        ("storage.lfs_dir", storage.lfs_dir),
        ("storage.run_dir", storage.run_dir),
    ):
        place = _nearest(path)
        if not path.exists():
            if os.access(place, os.W_OK | os.X_OK):
                yield Finding("info", key, f"{path} is not there yet and will be made")
            else:
                yield Finding(
                    "fail",
                    key,
                    f"{path} is not there and {place} cannot be written",
                    f"mkdir -p {path}, owned by the daemon's user",
                )
                continue
        elif not path.is_dir():
            yield Finding("fail", key, f"{path} is not a directory", "name another place")
            continue
        elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            yield Finding("fail", key, f"this user may not write {path}", "run as the daemon's user, or chown it")
            continue
        if key != "storage.run_dir":
            yield _room(key, place, storage.reserve_bytes)


def _room(key: str, place: Path, reserve_bytes: int | None) -> Finding:
    figures = os.statvfs(place)
    free = figures.f_bavail * figures.f_frsize
    reserve = (
        reserve_bytes if reserve_bytes is not None else min(100 * 2**30, figures.f_blocks * figures.f_frsize // 20)
    )
    text = f"{size_text(free)} free, {size_text(reserve)} of it reserved"
    if free <= reserve:
        return Finding("fail", key, text + ": nothing new is fetched", "free space, or lower storage.reserve")
    if free <= 2 * reserve:
        return Finding("warn", key, text, "plan for more space")
    return Finding("ok", key, text)


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def check_addresses(settings: Settings) -> Iterator[Finding]:
    """Judge what the web calls itself."""
    server = settings.server
    loopback = server.listen_host in ("127.0.0.1", "::1", "localhost")
    if not server.public_url and not loopback:
        yield Finding(
            "info",
            "server.public_url",
            "not set; links name the address that a client used",
            "set it when clients come through a proxy",
        )
    elif server.public_url.startswith("http://") and not loopback:
        yield Finding(
            "warn",
            "server.public_url",
            "plain http: clients cannot tell this mirror from an impostor",
            "put TLS in front",
        )
    elif server.public_url:
        yield Finding("ok", "server.public_url", server.public_url)
    if server.public_url and loopback and not server.trusted_proxies:
        yield Finding(
            "info",
            "server.trusted_proxies",
            "0, so every client seems to come from the proxy",
            "set it to the number of proxies in front",
        )


def check_port(settings: Settings) -> Iterator[Finding]:
    """Tell whether the web's port is free or ours."""
    server = settings.server
    connection = http.client.HTTPConnection(server.local_url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/readyz")
        body = connection.getresponse().read(65536)
    except ConnectionRefusedError:
        yield Finding("info", "server.listen", f"{server.listen} is free; the web is not running")
        return
    except (OSError, http.client.HTTPException) as error:
        body = str(error).encode()
    finally:
        connection.close()
    if _is_ours(body):
        yield Finding("ok", "server.listen", f"the web answers at {server.local_url}/")
    else:
        yield Finding(
            "fail",
            "server.listen",
            f"what listens at {server.listen} is not this program",
            "see who it is with ss -ltnp, or choose another port in server.listen",
        )


def _is_ours(body: bytes) -> bool:
    try:
        document = json.loads(body)
    except ValueError:
        return False
    return isinstance(document, dict) and {"ready", "checks"} <= document.keys()


def _check_app(settings: Settings) -> Iterator[Finding]:
    from mirror_sync.bootstrap import build

    with build(settings, role="cli") as app:
        hosts: dict[str, None] = dict.fromkeys(settings.upstreams)
        hosts.update((parse_upstream_url(mirror.url).netloc, None) for mirror in settings.mirrors)
        try:
            app.state.check()
        except MirrorSyncError as error:
            yield Finding(
                "fail", "database", ": ".join(part for part in (error.message, error.why) if part), error.remedy
            )
        else:
            yield Finding("ok", "database", f"{settings.database.url} answers and has this version's schema")
            yield from check_clock(app)
            yield from check_workers(app)
            for text, remedy in class_faults(app):
                yield Finding("warn", "class", text, remedy)
            hosts.update(
                (parse_upstream_url(item["upstream"]).netloc, None) for item in choosing.matching(app, MirrorFilter())
            )
    yield from check_hosts(settings, list(hosts))


def check_clock(
    app: App, *, built_at: Callable[[], float] = lambda: Path(__file__).stat().st_mtime
) -> Iterator[Finding]:
    """Judge the wall clock by what must lie behind it."""
    now = app.clock.now()
    seen = max([*app.state.workers().values(), app.state.totals().oldest_confirmed_at or 0.0])
    if now < built_at() - 86400:
        yield Finding(
            "fail", "clock", "it is earlier than this program", "set the clock; run a time service such as chrony"
        )
    elif seen > now + CLOCK_SLACK_SECONDS:
        yield Finding(
            "fail",
            "clock",
            f"the database has times {span(seen - now)} ahead of it",
            "set the clock; run a time service such as chrony",
        )
    else:
        yield Finding("ok", "clock", "plausible")


def check_workers(app: App) -> Iterator[Finding]:
    """Tell whether anything is being kept up to date."""
    workers = app.state.workers()
    alive = workers_alive(workers, app.clock.now())
    if alive:
        yield Finding("ok", "worker", f"{alive} alive")
    else:
        yield Finding("warn", "worker", "none is running", "mirror-sync serve, or systemctl start mirror-sync")


def class_faults(app: App) -> Iterator[tuple[str, str]]:
    """Yield a warning and its remedy for each class that mirrors are of and the configuration does not have."""
    for name, count in app.lost_classes().items():
        mirrors = "1 mirror is" if count == 1 else f"{count} mirrors are"
        remedy = (
            f'write [class."{name}"] into the configuration, or name another: mirror-sync set NAME --class CLASS '
            f"(mirror-sync ls --class {shlex.quote(name)} lists them)"
        )
        yield f"{mirrors} of the class {name}, which is not configured: the general settings are in force", remedy


def check_hosts(settings: Settings, hosts: list[str]) -> Iterator[Finding]:
    """Resolve upstream hosts and judge their addresses."""
    from mirror_sync.bootstrap import check_host

    for host in hosts[:MAX_HOSTS]:
        try:
            addresses = check_host(settings, host)
        except MirrorSyncError as error:
            text = ": ".join(part for part in (error.message, error.why) if part)
            yield Finding("fail", f"upstream {host}", text, error.remedy)
        else:
            how = ", ".join(addresses) if addresses else "asked through a proxy, which resolves it"
            yield Finding("ok", f"upstream {host}", how)
    if len(hosts) > MAX_HOSTS:
        yield Finding("info", "upstream", f"{len(hosts) - MAX_HOSTS} further hosts were not looked at")
