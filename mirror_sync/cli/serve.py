"""serve: web, worker, or both under one process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from mirror_sync.cli import codes
from mirror_sync.cli.opening import settings_of, told
from mirror_sync.cli.options import Command, Globals
from mirror_sync.errors import ConfigError

if TYPE_CHECKING:
    from mirror_sync.config import Settings


@click.command(
    cls=Command, examples=("mirror-sync serve", "mirror-sync -c /etc/mirror-sync/config.toml serve --role worker")
)
@click.option(
    "--role", type=click.Choice(["all", "web", "worker"]), default="all", show_default=True, help="Which processes."
)
@click.pass_context
def serve(context: click.Context, role: str) -> int:
    """Run the daemon.

    SIGTERM ends it when running syncs came to a good end, SIGHUP reads the
    configuration again.
    """
    from mirror_sync.bootstrap import build, configure_logs
    from mirror_sync.config import scrub

    flags = told(context)
    settings = settings_of(flags)
    scrub()
    configure_logs(settings, level="debug" if flags.verbose else "")
    if role == "all":
        return _all(flags, settings)
    with build(settings, role=role) as app:
        app.state.check()
    return _web(flags, settings) if role == "web" else _worker(flags, settings)


def _all(flags: Globals, settings: Settings) -> int:
    from mirror_sync.bootstrap import build
    from mirror_sync.config import process_environment
    from mirror_sync.worker import role_commands, supervise

    sys.stdout.flush()
    checking = os.fork()
    if checking == 0:
        # Apart, because the supervisor lives as long as the daemon and needs no database library in its memory;
        # what is wrong is told on the way out of this process like any error.
        with build(settings, role="cli") as app:
            app.state.check()
        return codes.DONE
    status = os.waitstatus_to_exitcode(os.waitpid(checking, 0)[1])
    if status != codes.DONE:
        return status if status > 0 else codes.FAILED
    return supervise(
        role_commands(configuration_options(settings, verbose=bool(flags.verbose))),
        environment=process_environment(),
        drain_timeout=settings.workers.drain_timeout,
    )


def configuration_options(settings: Settings, *, verbose: bool) -> tuple[str, ...]:
    """Return the flags by which a child finds the same configuration."""
    named = ("-c", str(settings.path)) if settings.path else ()
    return (*named, "-v") if verbose else named


def _web(flags: Globals, settings: Settings) -> int:
    from mirror_sync.bootstrap import App, build, configure_logs
    from mirror_sync.telemetry import logger
    from mirror_sync.web.server import serve as serve_web

    def factory() -> App:
        """Called in each serving child: at start, and again after SIGHUP."""
        try:
            fresh = settings_of(flags)
        except ConfigError as error:
            logger().error("configuration_refused", code=error.code, problems=list(error.problems), role="web")
            fresh = settings
        configure_logs(fresh, level="debug" if flags.verbose else "")
        return build(fresh, role="web")

    serve_web(factory, settings)
    return 0


def _worker(flags: Globals, settings: Settings) -> int:
    from mirror_sync.bootstrap import build
    from mirror_sync.config import process_environment
    from mirror_sync.worker import run_worker

    with build(settings, role="worker") as app:
        return run_worker(app, load=lambda: settings_of(flags), environment=process_environment())
