"""One directory that is a whole mirror: its configuration, its secret, its lock."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror_sync.domain.names import UpstreamUrl
from mirror_sync.errors import AddressRefused, Conflict, MirrorSyncError, UpstreamUnavailable, UsageError

if TYPE_CHECKING:
    from mirror_sync.config import Settings, TrustedHost

DEFAULT_PORT = 8080
DEFAULT_HOST = "127.0.0.1"
RULES_NAME = "quickstart.toml"
RULES_HEAD = "# Written by mirror-sync quickstart: hosts named on its command line are trusted as typed.\n"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line of ``quickstart`` says; ``None`` where it says nothing."""

    host: str | None = None
    port: int | None = None
    lfs: bool = True

    def listen(self, present_host: str = DEFAULT_HOST, present_port: int = DEFAULT_PORT) -> str:
        """Return the address to listen at, where nothing was said the present one."""
        host = self.host if self.host is not None else present_host
        port = self.port if self.port is not None else present_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Directory:
    """The directory of one ``quickstart``."""

    def __init__(self, path: Path) -> None:
        from mirror_sync.config import CONFIG_NAME

        self.path = path.expanduser().absolute()
        self.config = self.path / CONFIG_NAME
        self.secret = self.path / "webhook-secret"
        self.rules = self.path / "config.d" / RULES_NAME
        self.demo = self.path / "demo"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only ``quickstart`` here; raises :class:`Conflict`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o750, exist_ok=True)  # other users of the machine read over HTTP, not here
        descriptor = os.open(self.path / "quickstart.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"another mirror-sync runs on {self.path}",
                    remedy=f"mirror-sync --dir {self.path} add URL; or give another directory with --dir",
                ) from error
            yield
        finally:
            os.close(descriptor)

    def prepare(self, urls: Sequence[UpstreamUrl], wishes: Wishes) -> None:
        """Write what is missing: the secret, the configuration, rules for the hosts of ``urls``."""
        from mirror_sync.config import default_config_text, load, write_secret, write_text

        write_secret(self.secret, secrets.token_hex(32))
        if not self.config.exists():
            from mirror_sync.config import load_text

            probe = load_text("", environ=_environment())
            hosts = needed_rules(probe, urls)
            write_text(self.config, default_config_text(listen=wishes.listen(), hosts=hosts, lfs=wishes.lfs))
            return
        hosts = needed_rules(load(directory=self.path), urls)
        if hosts:
            self._add_rules(hosts)

    def _add_rules(self, hosts: Sequence[TrustedHost]) -> None:
        from mirror_sync.config import host_rules, host_rules_text, write_text

        self.rules.parent.mkdir(exist_ok=True)
        known = host_rules(self.rules.read_text(encoding="utf-8")) if self.rules.exists() else {}
        known.update((host.host, host) for host in hosts)
        write_text(self.rules, RULES_HEAD + host_rules_text(known.values()))

    def wished(self, wishes: Wishes) -> dict[str, str]:
        """Return the environment variables by which this run differs from the configuration."""
        from mirror_sync.config import load

        settings = load(directory=self.path)
        changed: dict[str, str] = {}
        listen = wishes.listen(settings.server.listen_host, settings.server.listen_port)
        if listen != settings.server.listen:
            changed["MIRROR_SYNC__SERVER__LISTEN"] = listen
        if not wishes.lfs and settings.lfs.enabled:
            changed["MIRROR_SYNC__LFS__ENABLED"] = "false"
        return changed


def needed_rules(settings: Settings, urls: Sequence[UpstreamUrl]) -> list[TrustedHost]:
    """Return what must be allowed so that these URLs can be asked, beyond what is allowed already."""
    from mirror_sync.config import TrustedHost

    found: dict[str, TrustedHost] = {}
    for url in urls:
        rule = settings.upstream_rule(url.netloc)
        before = found.get(url.netloc)
        http = url.scheme == "http" or rule.allow_http or (before is not None and before.allow_http)
        private = rule.allow_private or is_private(settings, url)
        if (http, private) != (rule.allow_http, rule.allow_private):
            found[url.netloc] = TrustedHost(url.netloc, allow_http=http, allow_private=private)
    return list(found.values())


def is_private(settings: Settings, url: UpstreamUrl) -> bool:
    """Tell whether the host is, or resolves to, an address that is not public."""
    from mirror_sync.bootstrap import check_host

    if url.host == "localhost" or url.host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(url.host).is_global
    except ValueError:
        pass  # a name: its addresses decide
    try:
        check_host(settings, url.netloc)
    except AddressRefused:
        return True
    except UpstreamUnavailable:
        return False
    return False


def check_port_free(host: str, port: int) -> None:
    """Raise :class:`Conflict` when the port is taken, :class:`UsageError` when it cannot be ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the web will: a port that only lingers in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _port_error(host, port, error) from error


def _port_error(host: str, port: int, error: OSError) -> MirrorSyncError:
    import errno

    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} on {host} is in use",
            why="another program, or another mirror, listens there",
            remedy=f"choose another: --port {port + 1 if port < 65535 else 8081}",
            code="MS-C005",
        )
    return UsageError(
        f"cannot listen on {host} port {port}", why=error.strerror or str(error), remedy="--port 8080", code="MS-C005"
    )


def _environment() -> Mapping[str, str]:
    from mirror_sync.config import process_environment

    return process_environment()
