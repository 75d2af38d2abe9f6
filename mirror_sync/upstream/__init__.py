"""You live here if you speak to a forge: its git endpoint or its LFS server.

The names are loaded on first use, so that a command which asks nobody anything does
not pay for the HTTP library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror_sync.upstream.access import Access, Rules
    from mirror_sync.upstream.connections import Connections
    from mirror_sync.upstream.http_upstream import HttpUpstream

__all__ = ["Access", "Connections", "HttpUpstream", "Rules"]


def __getattr__(name: str) -> object:
    if name in ("Access", "Rules"):
        from mirror_sync.upstream import access as module
    elif name == "Connections":
        from mirror_sync.upstream import connections as module  # type: ignore[no-redef]
    elif name == "HttpUpstream":
        from mirror_sync.upstream import http_upstream as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
