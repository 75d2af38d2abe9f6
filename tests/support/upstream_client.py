"""The real HTTP upstream, made the way tests need it: loopback allowed, names resolved as they say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import parse_upstream_url
from mirror_sync.ports import Clock
from mirror_sync.upstream import Access, Connections, HttpUpstream


@dataclass
class Heard:
    """A telemetry that remembers upstream requests; everything else passes unheard."""

    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((host, operation, status))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def names(table: Mapping[str, str | list[str]]) -> Callable[[str, int], list[str]]:
    """A resolver that knows these names and literal addresses only."""

    def lookup(host: str, _port: int) -> list[str]:
        found = table.get(host, host if host[0].isdigit() or ":" in host else None)
        if found is None:
            raise OSError(f"name {host} is not known")
        return [found] if isinstance(found, str) else found

    return lookup


LOOPBACK = Access(allow_http=True, allow_private=True, stall_timeout=20.0)


@contextlib.contextmanager
def client(
    url: str,
    *,
    rule: Access = LOOPBACK,
    rules: Callable[[str], Access] | None = None,
    clock: Clock | None = None,
    lookup: Callable[[str, int], list[str]] | None = None,
    heard: Heard | None = None,
) -> Iterator[HttpUpstream]:
    """An :class:`HttpUpstream` with connections of its own."""
    time: Clock = clock or SystemClock()
    telemetry: Any = heard or Heard()
    more = {} if lookup is None else {"lookup": lookup}
    connections = Connections(clock=time, telemetry=telemetry, **more)
    upstream = HttpUpstream(
        parse_upstream_url(url), rule=rule, rules=rules, clock=time, telemetry=telemetry, connections=connections
    )
    try:
        yield upstream
    finally:
        upstream.close()
        connections.close()
