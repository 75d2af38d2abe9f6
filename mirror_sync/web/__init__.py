"""You live here if you know a request: webhook, pages, API, git and LFS over HTTP, health."""

from __future__ import annotations

from mirror_sync.web.app import create_app
from mirror_sync.web.backend import App
from mirror_sync.web.server import serve, server_options

__all__ = ["App", "create_app", "serve", "server_options"]
