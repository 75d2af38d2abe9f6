"""db: upgrade or check the database schema."""

from __future__ import annotations

import click

from mirror_sync.cli.opening import listen_to_logs, opened, settings_of, told
from mirror_sync.cli.options import Group
from mirror_sync.cli.output import Output


@click.group(cls=Group)
def db() -> None:
    """Upgrade or check the database schema."""


@db.command("upgrade")
@click.pass_context
def upgrade(context: click.Context) -> None:
    """Bring the database to the schema of this version; make it when it is not there."""
    from mirror_sync.bootstrap import upgrade_database

    out = Output(told(context))
    settings = settings_of(told(context))
    listen_to_logs(told(context), settings)
    revision = upgrade_database(settings)
    if out.json:
        out.document({"database": settings.database.url, "revision": revision})
    else:
        out.line(f"{settings.database.url} is at revision {revision}")


@db.command("check")
@click.pass_context
def check(context: click.Context) -> None:
    """Tell whether the database answers and has the schema of this version."""
    out = Output(told(context))
    with opened(context) as app:
        url = app.settings.database.url
    if out.json:
        out.document({"database": url, "ok": True})
    else:
        out.line(f"{url} answers and has the schema of this version")
