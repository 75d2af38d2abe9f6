"""The command table.  A command's module is imported when the command runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

from mirror_sync.cli.options import global_options, unknown_command

EXAMPLES = """\
Mirror Git/LFS repositories and serve them.

\b
  mirror-sync quickstart https://github.com/acme/model    mirror it here and now
  mirror-sync add https://huggingface.co/acme/weights     keep one more
  mirror-sync status                                      how are they
  mirror-sync why github.com/acme/model                   why is it behind
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: where it is and what the list says of it (its own help begins with the same words)."""

    place: str
    help: str


COMMANDS: dict[str, Entry] = {
    "quickstart": Entry("quickstart:quickstart", "Run a mirror of these repositories in the foreground."),
    "clone": Entry("clone:clone", "Clone a repository with its LFS files over any link."),
    "serve": Entry("serve:serve", "Run the daemon."),
    "add": Entry("keep:add", "Mirror repositories."),
    "ls": Entry("look:ls", "List mirrors."),
    "show": Entry("look:show", "Show all facts about one mirror."),
    "status": Entry("look:status", "Show totals, the worst mirrors and what needs a human."),
    "why": Entry("look:why", "Explain lag or failure and what to do."),
    "sync": Entry("sync:sync", "Sync now, or as soon as a worker is free."),
    "pause": Entry("keep:pause", "Stop syncing; serving goes on."),
    "resume": Entry("keep:resume", "Sync again."),
    "set": Entry("keep:set_", "Change class, schedule or visibility of mirrors."),
    "token": Entry("token:token", "Make, list and revoke tokens by which clients read mirrors."),
    "rm": Entry("keep:rm", "Remove mirrors."),
    "refs": Entry("refs:refs", "Show refs, their history and kept tips; let held deletions through."),
    "check": Entry("check:check", "Tell by the exit status whether mirrors are healthy."),
    "doctor": Entry("doctor:doctor", "Check machine, configuration, database, storage and upstream hosts."),
    "config": Entry("settings:config", "Check or show the configuration."),
    "db": Entry("database:db", "Upgrade or check the database schema."),
    "completion": Entry("about:completion", "Print a completion script for bash, zsh or fish."),
    "version": Entry("about:version", "Print versions."),
}


class Root(click.Group):
    """The program itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order of a day's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.place.partition(":")
        found = getattr(importlib.import_module(f"mirror_sync.cli.{module}"), name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_command(args[0], list(COMMANDS), place="mirror-sync")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the commands without importing one of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Say what the exit status means."""
        with formatter.section("Exit status"):
            formatter.write_text(
                "0 done, 1 failed, 2 usage, 3 partly done, 5 not found, 6 conflict, 7 no worker or database, "
                "8 configuration, 9 timed out, 10 unhealthy, 130 interrupted"
            )


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from mirror_sync import __version__

        click.echo(f"mirror-sync {__version__}")
        context.exit()


root = Root(
    "mirror-sync",
    help=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        *global_options(hidden=False),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version.",
        ),
    ],
    no_args_is_help=True,
)
