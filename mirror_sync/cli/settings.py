"""config: check or show the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror_sync.cli.opening import settings_of, told
from mirror_sync.cli.options import Group
from mirror_sync.cli.output import Output
from mirror_sync.errors import MirrorSyncError

if TYPE_CHECKING:
    from mirror_sync.config import Settings


@click.group(cls=Group)
def config() -> None:
    """Check or show the configuration."""


@config.command("validate")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_context
def validate(context: click.Context, file: Path | None) -> None:
    """Check a configuration without applying it.

    Exit status 8, and every problem with its line, when it is not valid.  Where its
    database can be read, it is told which mirrors are of a class that it does not have.
    """
    from mirror_sync.config import load

    out = Output(told(context))
    settings = load(file) if file else settings_of(told(context))
    where = str(settings.path) if settings.path else "the environment"
    warnings = _warnings(settings)
    if out.json:
        out.document({"valid": True, "path": where, "warnings": [text for text, _ in warnings]})
        return
    out.line(f"{where} is valid")
    for text, remedy in warnings:
        out.note(f"warning: {text}\n  do:  {remedy}")


def _warnings(settings: Settings) -> list[tuple[str, str]]:
    """Return what the mirrors that are here lack in a valid configuration, with remedies; nothing without a database."""
    from mirror_sync.bootstrap import build
    from mirror_sync.cli.doctor import class_faults

    try:
        with build(settings, role="cli") as app:
            app.state.check()
            return list(class_faults(app))
    except MirrorSyncError:
        return []  # it is not this command's to judge the database


@config.command("show")
@click.option("--origin", is_flag=True, help="Tell where each value comes from.")
@click.pass_context
def show(context: click.Context, origin: bool) -> None:
    """Print every key in force.  Secrets are named, never shown."""
    from mirror_sync.config import toml_text

    out = Output(told(context))
    settings = settings_of(told(context))
    if out.json:
        keys = {
            key: {"value": value, "origin": settings.origins[key]} if origin else value
            for key, value in settings.written.items()
        }
        out.document({"path": str(settings.path) if settings.path else None, "settings": keys})
        return
    rows = [
        (key, "" if value is None else toml_text(value, whole=True), *([settings.origins[key]] if origin else []))
        for key, value in settings.written.items()
    ]
    out.table(("KEY", "VALUE", "FROM") if origin else ("KEY", "VALUE"), rows)
