"""The configuration that ``quickstart`` writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrustedHost:
    """A host named on the command line: what its URL needs is allowed, nothing more."""

    host: str
    """With its port when that is not the scheme's own."""
    allow_http: bool = False
    allow_private: bool = False


def default_config_text(
    *,
    listen: str,
    hosts: Iterable[TrustedHost] = (),
    lfs: bool = True,
    interval: str = "5m",
    objective: str = "15m",
) -> str:
    """Return a whole configuration for one directory; its paths are relative to the file's own place."""
    text = f"""\
# Written by mirror-sync quickstart; yours to edit.  Every key: config.example.toml.
# Paths that do not begin with "/" are relative to this file.

[server]
listen = {json.dumps(listen)}

[database]
url = "state.db"

[storage]
git_dir = "git"
lfs_dir = "lfs"
run_dir = "run"

[workers]
# A start after a crash waits this long before it goes on with what was running.
lease = "20s"

[lfs]
enabled = {"true" if lfs else "false"}

[schedule]
interval = {json.dumps(interval)}
objective = {json.dumps(objective)}

[webhooks]
secret_file = "webhook-secret"
"""
    return text + host_rules_text(hosts)


def host_rules_text(hosts: Iterable[TrustedHost]) -> str:
    """Return the ``[upstream."HOST"]`` tables for hosts that need more than https to a public address."""
    out = ""
    for trusted in hosts:
        if not (trusted.allow_http or trusted.allow_private):
            continue
        out += f"\n[upstream.{json.dumps(trusted.host)}]\n"
        if trusted.allow_http:
            out += "allow_http = true\n"
        if trusted.allow_private:
            out += "allow_private = true\n"
    return out


def host_rules(text: str) -> dict[str, TrustedHost]:
    """Return the hosts in a text that :func:`host_rules_text` made."""
    tables = tomllib.loads(text).get("upstream", {})
    return {
        host: TrustedHost(host, bool(rule.get("allow_http")), bool(rule.get("allow_private")))
        for host, rule in tables.items()
    }
