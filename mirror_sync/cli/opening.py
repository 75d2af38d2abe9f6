"""From the global flags to settings and an App."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mirror_sync.cli.options import Globals
from mirror_sync.errors import UsageError

if TYPE_CHECKING:
    from mirror_sync.bootstrap import App
    from mirror_sync.config import Settings


def told(context: click.Context) -> Globals:
    """Return the global flags."""
    found = context.find_object(Globals)
    assert found is not None
    return found


def settings_of(flags: Globals, *, overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the configuration that the flags name; raises :class:`ConfigError`."""
    from mirror_sync.config import load

    if flags.config and flags.directory:
        raise UsageError("-c and --dir both name a configuration", remedy="give one of them")
    return load(flags.config, directory=flags.directory, overrides=overrides)


def as_typed(flags: Globals, remedy: str) -> str:
    """Return a remedy as it can be typed here: a command names the configuration that this one was given."""
    rest = remedy.removeprefix("mirror-sync ")
    named = ("--dir", flags.directory) if flags.directory else ("-c", flags.config)
    if rest == remedy or named[1] is None:
        return remedy
    return f"mirror-sync {named[0]} {shlex.quote(str(named[1]))} {rest}"


@contextmanager
def opened(context: click.Context) -> Iterator[App]:
    """Open the state that the daemon uses, checked to be of this version."""
    from mirror_sync.bootstrap import build

    flags = told(context)
    settings = settings_of(flags)
    listen_to_logs(flags, settings)
    with build(settings, role="cli") as app:
        app.state.check()
        yield app


def listen_to_logs(flags: Globals, settings: Settings) -> None:
    """Write the log to the terminal with ``-v``; otherwise a command's result is all it says."""
    if flags.verbose:
        from mirror_sync.bootstrap import configure_logs

        configure_logs(settings, level="debug", format="text")
        return
    import logging

    logging.getLogger().addHandler(logging.NullHandler())
