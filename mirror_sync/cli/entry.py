"""Run one command; the one place where an error becomes text and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from mirror_sync.cli import codes
from mirror_sync.cli.options import Globals
from mirror_sync.cli.output import show_error
from mirror_sync.cli.root import root
from mirror_sync.errors import MirrorSyncError, UsageError


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit status; everything that went wrong has been told."""
    told = Globals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no such letter is no reason to fail
    try:
        status = root.main(args=list(arguments), prog_name="mirror-sync", standalone_mode=False, obj=told)
        sys.stdout.flush()
    except MirrorSyncError as error:
        return _fail(error, told, arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return codes.USAGE
    except click.ClickException as error:
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "mirror-sync"
        text = error.format_message()
        wrong = UsageError(f"{text[:1].lower()}{text[1:].rstrip('.')}", remedy=f"{place} --help")
        return _fail(wrong, told, arguments)
    except (KeyboardInterrupt, click.Abort):
        if not told.quiet:
            click.echo("interrupted", err=True)
        return codes.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.DONE
    except Exception as error:
        if told.verbose:
            raise
        broken = MirrorSyncError(
            "a fault of mirror-sync itself",
            why=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
            remedy="run the command again with -v for the details and report them",
        )
        return _fail(broken, told, arguments)
    return status if isinstance(status, int) else codes.DONE


def _fail(error: MirrorSyncError, told: Globals, arguments: Sequence[str]) -> int:
    if "--json" in arguments:
        told.json = True  # the flag may stand behind what could not be parsed
    show_error(error, told)
    return codes.exit_status(error)
