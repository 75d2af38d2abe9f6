"""version and completion."""

from __future__ import annotations

import platform
import subprocess

import click

from mirror_sync import __version__
from mirror_sync.cli.opening import told
from mirror_sync.cli.options import Command
from mirror_sync.cli.output import Output


@click.command(cls=Command)
@click.pass_context
def version(context: click.Context) -> None:
    """Print versions."""
    out = Output(told(context))
    found = {"mirror_sync": __version__, "python": platform.python_version(), "git": git_version()}
    if out.json:
        out.document(found)
    else:
        out.line(f"mirror-sync {found['mirror_sync']} (Python {found['python']}, git {found['git'] or 'not found'})")


def git_version() -> str:
    """Return the version of the git on PATH, empty when there is none."""
    try:
        done = subprocess.run(["git", "version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().removeprefix("git version ").split(" ")[0]


@click.command(
    cls=Command,
    examples=(
        "mirror-sync completion bash > /etc/bash_completion.d/mirror-sync",
        "mirror-sync completion zsh  > ~/.zfunc/_mirror-sync",
        "mirror-sync completion fish > ~/.config/fish/completions/mirror-sync.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from mirror_sync.cli.root import root

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(root, {}, "mirror-sync", "_MIRROR_SYNC_COMPLETE").source())
