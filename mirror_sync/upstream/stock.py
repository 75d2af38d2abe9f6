"""What stock git needs to reach an upstream that speaks nothing newer than protocol v0."""

from __future__ import annotations

from mirror_sync.ports import GitAccess
from mirror_sync.upstream.addresses import check_target
from mirror_sync.upstream.observe import capabilities
from mirror_sync.upstream.place import Place


def git_access(place: Place) -> GitAccess:
    """Return the URL and the environment that hold git to our rules.

    Redirects are off: git sends ``extraHeader`` to wherever it was redirected (tried).
    The checked addresses are pinned, so git resolves nothing by itself; behind a proxy
    the proxy resolves.  Raises as :meth:`Upstream.observe` does when the server must be asked first.
    """
    base = capabilities(place).base
    access = place.rule(base.netloc)
    target = check_target(str(base), access)
    settings = [
        ("protocol.allow", "never"),
        (f"protocol.{target.scheme}.allow", "always"),
        ("http.followRedirects", "false"),
        ("http.sslVerify", "true"),
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", str(max(1, round(access.stall_timeout)))),
        ("http.userAgent", access.user_agent),
        ("http.proxy", access.proxy),
        ("transfer.credentialsInUrl", "die"),
        ("credential.helper", ""),
    ]
    if access.ca_file:
        settings.append(("http.sslCAInfo", access.ca_file))
    for name, value in place.authorization(base).items():
        settings.append((f"http.{base.origin}/.extraHeader", f"{name}: {value}"))
    if not access.proxy:
        found = place.connections.resolver.addresses(target.host, target.port, allow_private=access.allow_private)
        pinned = ",".join(f"[{address}]" if ":" in address else address for address in found)
        settings.append(("http.curloptResolve", f"{target.host}:{target.port}:{pinned}"))
    environment = {"GIT_ALLOW_PROTOCOL": target.scheme, "GIT_TERMINAL_PROMPT": "0"}
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return GitAccess(str(base), environment)
