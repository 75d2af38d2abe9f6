"""The process environment, as far as it is configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

PREFIX = "MIRROR_SYNC__"

PROXY_NAMES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
"""The lower-case name of each wins, as with curl."""

_KEPT_NAMES = frozenset(
    {
        "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "TERM", "COLUMNS", "LINES", "NO_COLOR",
        "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC",
        "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID",
        "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY",
        "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
        "VIRTUAL_ENV", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONFAULTHANDLER",
        "PYTHONUTF8", "PYTHONWARNINGS", "PYTHONTRACEMALLOC",
    }
)  # fmt: skip
_KEPT_PREFIXES = ("LC_", "XDG_", PREFIX)


def process_environment() -> Mapping[str, str]:
    """Return the environment this process was started with, for reading."""
    return os.environ  # noqa: TID251 - the one place where configuration meets the environment


def scrub(environ: MutableMapping[str, str] | None = None) -> tuple[str, ...]:
    """Remove every variable that the daemon does not need, and return the removed names.

    Git, SSH and loader variables would steer children; tokens would leak into them.
    What stays: paths, language, time zone, systemd's and XDG's variables, proxies and
    ``MIRROR_SYNC__*``.
    """
    target = os.environ if environ is None else environ  # noqa: TID251 - scrubbing is about the real environment
    removed = tuple(sorted(name for name in target if not is_kept(name)))
    for name in removed:
        del target[name]
    return removed


def is_kept(name: str) -> bool:
    """Tell whether the daemon keeps this environment variable."""
    return name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)


def credentials_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory systemd put credentials into, if it did."""
    given = environ.get("CREDENTIALS_DIRECTORY", "")
    return Path(given) if given else None


def data_home(environ: Mapping[str, str]) -> Path:
    """Return the directory where ``quickstart`` keeps a mirror by default."""
    base = environ.get("XDG_DATA_HOME", "")
    home = Path(base) if base.startswith("/") else Path(environ.get("HOME") or "~").expanduser() / ".local" / "share"
    return home / "mirror-sync"


def config_candidates(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the configuration files looked for when none is named, in order."""
    base = environ.get("XDG_CONFIG_HOME", "")
    config_home = Path(base) if base.startswith("/") else Path(environ.get("HOME") or "~").expanduser() / ".config"
    return (
        config_home / "mirror-sync" / "config.toml",
        Path("/etc/mirror-sync/config.toml"),
        data_home(environ) / "config.toml",
    )


def environment_proxy(host: str, environ: Mapping[str, str]) -> str:
    """Return the proxy the environment names for ``host`` (with or without port), or an empty string."""
    bare = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    bare = bare.strip("[]").lower()
    excluded = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    for entry in (part.strip().lower().lstrip("*").lstrip(".") for part in excluded.split(",")):
        if not entry and "*" in excluded:
            return ""
        if entry and (bare == entry or host.lower() == entry or bare.endswith("." + entry)):
            return ""
    for name in PROXY_NAMES[:4]:
        if environ.get(name):
            return environ[name]
    return ""
