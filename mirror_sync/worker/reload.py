"""SIGHUP: read the configuration again and put in force what may change while running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mirror_sync.config import Settings, diff
from mirror_sync.errors import MirrorSyncError
from mirror_sync.worker.work import Work


def reload(app: Work, load: Callable[[], Settings]) -> bool:
    """Give ``app`` the configuration as it stands in the files now; ``False`` when it is refused.

    All or nothing: a file with one fault, or a mirror that cannot be enrolled, leaves
    the old configuration in force.  Runs in progress keep what they began with.  The
    log says which keys were applied and which wait for a restart, or what is wrong.
    """
    old = app.settings
    try:
        new = load()
        changes = diff(old, new)
        app.settings = settle(old, new)
        app.declare_mirrors()
    except MirrorSyncError as error:
        app.settings = old
        app.metrics.config_reloaded(result="refused")
        problems = getattr(error, "problems", ()) or (str(error),)
        app.telemetry.event(
            "configuration_refused", code=error.code, problems=list(problems), level="error",
            why="the configuration in force stays",
        )  # fmt: skip
        return False
    app.metrics.config_reloaded(result="applied" if changes else "unchanged")
    app.telemetry.event(
        "configuration_reloaded", applied=list(changes.applied), needs_restart=list(changes.needs_restart),
        level="warning" if changes.needs_restart else "info",
    )  # fmt: skip
    return True


def settle(old: Settings, new: Settings) -> Settings:
    """Return ``new`` with everything that needs a restart as it was in ``old``.

    Parts made at start keep what they were made with; the settings must not claim otherwise.
    """
    return replace(
        new,
        server=replace(old.server, public_url=new.server.public_url),
        database=old.database,
        storage=replace(old.storage, orphan_grace=new.storage.orphan_grace),
        workers=old.workers,
        webhooks=replace(new.webhooks, max_body=old.webhooks.max_body),
        serve=old.serve,
        log=old.log,
    )
