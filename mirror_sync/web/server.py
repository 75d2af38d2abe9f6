"""The HTTP server: gunicorn with threads, in this process."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from mirror_sync.config import Settings
from mirror_sync.telemetry import logger
from mirror_sync.web.app import create_app
from mirror_sync.web.backend import EXTENSION, App
from mirror_sync.web.door import LOGGED, MIRROR, TOKEN
from mirror_sync.web.limits import thread_count
from mirror_sync.web.patient import PatientWorker
from mirror_sync.web.streams import SENT_FILE

GRACEFUL_SECONDS = 600
"""How long running answers may go on after a stop or a reload was asked for."""

KEEPALIVE_SECONDS = 15
WORKER_TIMEOUT_SECONDS = 120
BACKLOG = 1024
MOST_CONNECTIONS = 4096
"""Open at once, whatever they do; only a whole request takes a thread."""

AppFactory = Callable[[], App]


class _Log(Logger):  # type: ignore[misc]  # gunicorn publishes no types
    """gunicorn's log through ours: one shape, one scrubber, no handlers of its own."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = True
        self.loglevel = logging.getLogger().getEffectiveLevel()
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
            log.setLevel(logging.NOTSET)
        # gunicorn tells of its own start and of each worker; that belongs to debugging.
        self.error_log.addFilter(_quieter)

    def access(self, resp: Any, _req: Any, environ: dict[str, Any], request_time: Any) -> None:
        if not environ.get(LOGGED, True):
            return
        path = str(environ.get("RAW_URI", "")).partition("?")[0]
        if "://" in path:  # a whole URL may name a user with a password
            path = "/" + path.partition("://")[2].partition("/")[2]
        if path in ("/healthz", "/readyz", "/metrics"):
            return
        file = environ.get(SENT_FILE)
        about = {"mirror": environ.get(MIRROR), "reader": environ.get(TOKEN)}
        logger("mirror_sync.access").info(
            "request_served",
            client=environ.get("REMOTE_ADDR", ""),
            method=environ.get("REQUEST_METHOD", ""),
            path=path[:2000],
            **{key: value for key, value in about.items() if value is not None},
            status=int(str(resp.status).partition(" ")[0]),
            bytes=file.sent if file is not None else resp.sent,
            seconds=round(request_time.total_seconds(), 3),
            agent=str(environ.get("HTTP_USER_AGENT", ""))[:200],
        )

    def reopen_files(self) -> None:
        """Nothing of ours is a file."""

    def close_on_exec(self) -> None:
        """Nothing of ours is a file."""


def _quieter(record: logging.LogRecord) -> bool:
    if record.levelno == logging.INFO:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG)
    return True


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn publishes no types
    def __init__(self, factory: AppFactory, settings: Settings, *, graceful_seconds: int) -> None:
        self._factory = factory
        self._settings = settings
        self._graceful_seconds = graceful_seconds
        super().__init__(prog="mirror-sync")

    def load_config(self) -> None:
        for name, value in server_options(self._settings, graceful_seconds=self._graceful_seconds).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        app = self._factory()
        _ = app.serving  # made now, so that the first client does not wait for it
        return create_app(app)


def server_options(settings: Settings, *, graceful_seconds: int = GRACEFUL_SECONDS) -> dict[str, Any]:
    """Return gunicorn's settings for ours."""
    return {
        "bind": [settings.server.listen],
        "worker_class": PatientWorker,
        "workers": 1,
        "threads": thread_count(settings),
        "worker_connections": MOST_CONNECTIONS,
        "backlog": BACKLOG,
        "keepalive": KEEPALIVE_SECONDS,
        "timeout": WORKER_TIMEOUT_SECONDS,
        "graceful_timeout": graceful_seconds,
        "max_requests": 0,
        "preload_app": False,
        "control_socket_disable": True,
        "logger_class": _Log,
        "accesslog": "-",
        "proc_name": "mirror-sync web",
        "limit_request_line": 8190,
        "limit_request_fields": 100,
        # Proxies in front are believed by the application, which counts them; by gunicorn, nobody.
        "forwarded_allow_ips": "",
        "worker_exit": _worker_exit,
    }


def _worker_exit(_arbiter: Any, worker: Any) -> None:
    """Close what the factory made; a child that never loaded has nothing."""
    extensions = getattr(worker.wsgi, "extensions", {})
    close = getattr(extensions.get(EXTENSION), "close", None)
    if close is not None:
        close()


def serve(factory: AppFactory, settings: Settings, *, graceful_seconds: int = GRACEFUL_SECONDS) -> None:
    """Serve until told to stop; ends by ``SystemExit``.

    ``factory`` makes the App; it is called in the serving child, so that no connection or
    thread crosses the fork, and what it made is closed with the child.  Binds ``settings.server.listen``, or takes the sockets systemd passes, and
    tells systemd when it is ready.  SIGTERM lets running answers finish for up to
    ``graceful_seconds``; SIGHUP starts a fresh child, whose factory reads the
    configuration anew, while the old one finishes what it began.
    """
    _allow_descriptors()
    _Server(factory, settings, graceful_seconds=graceful_seconds).run()


def _allow_descriptors() -> None:
    """Raise the soft limit of open files to what the connections may need, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(4 * MOST_CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


__all__ = ["AppFactory", "serve", "server_options"]
